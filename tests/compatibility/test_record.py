"""What tests checked: requests and commands are told apart, wrong answers are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compatibility.document import document, faults
from tests.compatibility.page import render
from tests.compatibility.record import Recorder, Watched, recorder
from tests.compatibility.tables import command_of, operation_of


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/containers/json", "ContainerList"),
        ("GET", "/v1.24/containers/a b/json", "ContainerInspect"),
        ("GET", "/v1.51/images/registry:5000/a/b:c/json", "ImageInspect"),
        ("GET", "/images/json", "ImageList"),
        ("HEAD", "/_ping", "SystemPingHead"),
        ("POST", "/plugins/a/b/enable", "PluginEnable"),
    ],
)
def test_a_request_is_an_operation(method: str, path: str, name: str) -> None:
    found = operation_of(method, path)
    assert found is not None
    assert found.name == name


def test_what_is_no_operation_is_none() -> None:
    assert operation_of("GET", "/containers") is None
    assert operation_of("PATCH", "/version") is None


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["run", "--rm", "host", "ps"], "run"),
        (["-H", "unix:///s", "container", "ls", "-a"], "ps"),
        (["system", "df"], "system df"),
        (["image", "inspect", "x"], "image inspect"),
    ],
)
def test_words_are_a_command(words: list[str], name: str) -> None:
    found = command_of(words)
    assert found is not None
    assert found.name == name


def test_a_log_is_read_once_and_whole_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = []
    monkeypatch.setattr(recorder, "add", lambda *record: added.append(record))
    log = tmp_path / "log"
    line = 'time=x level=debug msg="request answered" method=GET path=/_ping status=200 '
    log.write_text(f'{line}client="Docker-Client/28.2.2 (linux)" ms=0.1\n{line}client=x')
    watched = Watched("unix:///s", log)
    watched.collect()
    watched.collect()
    assert added == [("operations", "SystemPing", "docker", "200")]
    with log.open("a") as file:
        file.write("y ms=1\n")
    watched.collect()
    assert added[1:] == [("operations", "SystemPing", "HTTP", "200")]


def test_the_page_names_the_tests_most_about_a_row() -> None:
    records = {
        "tests/a.py::test_much[x]": [
            ["operations", "SystemPing", "docker", ["200"]],
            ["operations", "SystemInfo", "docker", ["200"]],
        ],
        "tests/b.py::test_ping_alone": [["operations", "SystemPing", "HTTP", ["200", "400"]]],
    }
    row = next(line for line in render(records).splitlines() if line.startswith("| SystemPing "))
    assert row.endswith("| 200 400 | `b.py` ping_alone; `a.py` much |")


def test_an_operation_counts_when_it_was_answered_well(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Recorder()
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/a.py::test_it (call)")
    one.add("operations", "SystemPing", "HTTP", "200")
    one.add("operations", "SystemInfo", "HTTP", "400")
    missing = one.unchecked()
    assert "SystemPing" not in missing
    assert {"SystemInfo", "ContainerList"} <= set(missing)
    assert not {"SwarmInit", "NetworkCreate", "ImageBuild"} & set(missing)
    one.failed("tests/a.py::test_it")
    assert "SystemPing" in one.unchecked()


def test_programs_that_talk_to_others_do_not_count(tmp_path: Path) -> None:
    one = Recorder()
    one.watched.add(Watched("unix:///here", tmp_path / "log"))
    one.add = lambda *record: pytest.fail(str(record))  # type: ignore[method-assign]
    one.command(["/usr/bin/docker", "ps"], {"DOCKER_HOST": "unix:///elsewhere"})
    one.command(["ls", "unix:///here"], {})
    told: list[tuple[str, ...]] = []
    one.add = lambda *record: told.append(record)  # type: ignore[method-assign]
    one.command(["docker", "context", "ls"], {})
    assert told == [("commands", "context list", "docker", "")]


@pytest.mark.skipif(document() is None, reason="the API's document is not here")
def test_an_answer_that_the_document_does_not_describe_is_seen() -> None:
    def judge(path: str, status: int, body: bytes) -> list[str]:
        return faults("GET", path, status, "application/json", body)

    assert judge("/version", 200, b'{"Version": "1"}') == []
    assert judge("/version", 200, b'{"Version": null}') == []
    assert judge("/version", 200, b'{"Version": 1}')
    assert judge("/v1.51/containers/x/json", 404, b'{"message": "no"}') == []
    assert judge("/containers/x/json", 404, b'{"error": "no"}')
    assert judge("/events", 200, b'{"Type": "image"}\n{"Type": 5}\n')
