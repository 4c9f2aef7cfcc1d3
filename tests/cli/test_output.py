"""What is printed: templates, ages, sizes, tables."""

from __future__ import annotations

import pytest

from sampan import template
from sampan.cli import output
from sampan.errors import InvalidArgument

DATA = {
    "Id": "abc",
    "State": {"Status": "running", "Pid": 7, "Dead": False},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"x.y": "z"}, "User": None},
    "Mounts": [{"Source": "/a"}, {"Source": "/b"}],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{.Id}} is {{.State.Status}}", "abc is running"),
        ("{{ .State.Pid }}", "7"),
        ("{{.State.Dead}}", "false"),
        ("{{json .Config.Env}}", '["A=1","B=2"]'),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ('{{index .Config.Labels "x.y"}}', "z"),
        ("{{index .Config.Env 1}}", "B=2"),
        ("{{range .Mounts}}<{{.Source}}>{{end}}", "</a></b>"),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}", "0=/a 1=/b "),
        ("{{if .State.Dead}}dead{{else}}alive{{end}}", "alive"),
        ('{{if eq .State.Status "running"}}up{{end}}', "up"),
        ("{{.Id | upper}}", "ABC"),
        ('{{join .Config.Env ","}}', "A=1,B=2"),
        ("{{len .Mounts}}", "2"),
        ("{{with .State}}{{.Pid}}{{end}}", "7"),
        ("{{.Config.User}}", "<no value>"),
        ("{{.State.Nope.Deeper}}", "<no value>"),
        ("{{(index .Mounts 0).Source}}", "/a"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    assert template.render(template.parse(text), DATA) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Nope}}", "no field Nope"),
        ("{{frobnicate .Id}}", "frobnicate"),
        ("{{range .Mounts}}", "end"),
        ("{{end}}", "unexpected"),
    ],
)
def test_a_wrong_template_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        template.render(template.parse(text), DATA)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (125, "2 minutes"),
        (3700, "About an hour"),
        (3 * 3600, "3 hours"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert output.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (7_810_000, "7.81MB"), (206_000_000, "206MB")]
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


def test_timestamps() -> None:
    assert output.timestamp("2026-01-02T03:04:05.5Z") == 1767323045.5
    assert output.timestamp("0001-01-01T00:00:00Z") == 0


def test_tables_align_and_templates_replace_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Names": "long-name"}, {"ID": "2", "Names": "b"}]
    columns = [("CONTAINER ID", "ID"), ("NAMES", "Names")]
    output.print_rows(rows, columns, "")
    output.print_rows(rows, columns, "table {{.Names}}\\t{{.ID}}")
    output.print_rows(rows, columns, "{{.ID}}")
    output.print_rows(rows, columns, "", quiet=True)
    assert capsys.readouterr().out.splitlines() == [
        "CONTAINER ID   NAMES",
        "1              long-name",
        "2              b",
        "NAMES       CONTAINER ID",
        "long-name   1",
        "b           2",
        "1",
        "2",
        "1",
        "2",
    ]
