"""What is printed: templates, ages, sizes, tables."""

from __future__ import annotations

import pytest

from sampan import template
from sampan.cli import output
from sampan.errors import InvalidArgument

DATA = {
    "Id": "abc",
    "State": {"Status": "running", "Pid": 7, "Dead": False},
    "Config": {"Env": ["A=1", "B=2"], "Labels": template.Map({"x.y": "z"}), "User": None},
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
        ("{{.Config.User}}", "<nil>"),
        ("{{.Config.Labels.nope}}|{{.Config.Labels}}", "<no value>|map[x.y:z]"),
        ('{{printf "%-5s|%03d|%q|%v" .Id 7 .Id .Mounts}}', 'abc  |007|"abc"|[{/a} {/b}]'),
        ("a {{- /* left out */ -}} b", "ab"),
        ("{{$x := .Id}}{{if .State}}{{$x = .State.Pid}}{{end}}{{$x}}", "7"),
        ("{{with .Config.User}}u{{else with .Id}}{{.}}{{end}}", "abc"),
        ("{{range .Mounts}}{{.Source}}{{break}}{{else}}none{{end}}", "/a"),
        ("{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{or .Config.User .Id}} {{and .Id .State.Pid}} {{not .State}}", "abc 7 false"),
        ('{{"}}"}} {{`\\`}} {{"\\x41\\t\\u00e9"}}', "}} \\ A\té"),
        ("{{slice .Id 1 2}}{{index .Id 0}} {{1.50}} {{1e30}}", "b97 1.5 1e+30"),
        ("{{html .Id}}{{.Id | printf `%s-%s` `x`}}", "abcx-abc"),
        ("{{(index .Mounts 0).Source}}", "/a"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    assert template.render(template.parse(text), DATA) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Nope}}", "field Nope"),
        ("{{.State.Nope}}", "field Nope"),
        ("{{.Config.User.Name}}", "nil pointer"),
        ("{{frobnicate .Id}}", "frobnicate"),
        ("{{range .Mounts}}", "end"),
        ("{{range .Id}}{{end}}", "iterate"),
        ("{{.Id", "unclosed action"),
        ("{{}}", "missing value"),
        ('{{"x}}', "unterminated"),
        ("{{(.Id}}", "paren"),
        ("{{break}}", "outside"),
        ("{{index .Mounts 2}}", "out of range"),
        ("{{template `x`}}", "not supported"),
        ("{{$nope}}", "undefined variable"),
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
        (5400, "2 hours"),
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
