"""Completion: what is offered, and the scripts in the shells they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Sampan
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def peopled(daemon: Daemon) -> Daemon:
    daemon.run("sleep", "600", name="runner")
    daemon.create("true", name="rested")
    return daemon


def offered(sampan: Sampan, *words: str) -> list[str]:
    done = sampan("__complete", *words)
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ru"], ["run"]),
        (["contex"], ["context"]),
        (["container", "un"], ["unpause"]),
        (["run", "--netw"], ["--network", "--network-alias"]),
        (["ps", "--no"], ["--no-trunc"]),
        (["stop", ""], ["runner"]),
        (["start", ""], ["rested"]),
        (["rm", "r"], ["rested", "runner"]),
        (["rm", "runner", ""], ["rested"]),
        (["exec", "-it", ""], ["runner"]),
        (["exec", "runner", ""], []),
        (["run", "-it", "h"], ["host"]),
        (["run", "host", "-"], []),
        (["run", "--network", "h"], ["host"]),
        (["run", "--network=container:run"], ["--network=container:runner"]),
        (["run", "--pull", ""], ["always", "missing", "never"]),
        (["run", "--name", ""], []),
        (["ps", "--format", ""], ["json", "table"]),
        (["--context", ""], ["default"]),
        (["--log-level", "de"], ["debug"]),
        (["-D", "imag"], ["image", "images"]),
        (["kill", "-s", "TE"], ["TERM"]),
        (["inspect", "ho"], ["host"]),
        (["network", "connect", "br"], ["bridge"]),
        (["network", "disconnect", "bridge", "r"], ["rested", "runner"]),
        (["manifest", "p"], ["push"]),
        (["nonsense", ""], []),
        (["container", "nonsense", ""], []),
    ],
)
def test_what_is_offered(
    sampan: Sampan, peopled: Daemon, words: list[str], wanted: list[str]
) -> None:
    assert sorted(offered(sampan, *words)) == wanted


def test_every_command_is_offered_and_nothing_hidden(sampan: Sampan) -> None:
    names = offered(sampan, "")
    assert {"run", "ps", "container", "context", "completion"} <= set(names)
    assert not {"__complete", "dial-stdio"} & {*names, *offered(sampan, "system", "")}


def test_without_a_daemon_there_are_still_words(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": "unix:///nope",
        "HOME": "/nonexistent",
    }
    for words, some in ((["ru"], "run"), (["run", "--na"], "--name"), (["stop", ""], "")):
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli", "__complete", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert some in done.stdout and done.stderr == ""


@pytest.fixture
def shell_environment(tmp_path: Path, peopled: Daemon) -> dict[str, str]:
    """A home, and a program ``sampan`` on the path."""
    program = tmp_path / "sampan"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sampan.cli "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "DOCKER_HOST": peopled.host, "TERM": "dumb"}


LINES = [
    ("sampan ru", ["run"]),
    ("sampan container unp", ["unpause"]),
    ("sampan stop ", ["runner"]),
    ("sampan run --network-", ["--network-alias"]),
    ("sampan run --network ho", ["host"]),
]


def run_shell(program: str, script: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [program, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("line", "wanted"),
    [*LINES, ("sampan run --network container:ru", ["runner"])],  # bash breaks words at colons
)
def test_bash(shell_environment: dict[str, str], line: str, wanted: list[str]) -> None:
    script = f"""
        source <(sampan completion bash)
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _sampan
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert run_shell("bash", script, shell_environment).split() == wanted


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_zsh(shell_environment: dict[str, str], line: str, wanted: list[str]) -> None:
    script = f"""
        compdef() {{ : }}
        _files() {{ echo FILES }}
        _describe() {{ for one in "${{(@P)2}}"; do echo "${{one%%:*}}"; done }}
        source <(sampan completion zsh)
        words=({" ".join(line.split())} {"''" if line.endswith(" ") else ""})
        CURRENT=${{#words}}
        _sampan
    """
    assert run_shell("zsh", script, shell_environment).split() == wanted


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish(shell_environment: dict[str, str], line: str, wanted: list[str]) -> None:
    script = f"sampan completion fish | source; complete -C '{line}'"
    found = run_shell("fish", script, shell_environment).splitlines()
    assert [one.partition("\t")[0] for one in found] == wanted


def test_a_shell_nobody_knows_is_named(sampan: Sampan) -> None:
    done = sampan("completion", "tcsh")
    assert done.returncode == 1 and "bash, fish, zsh" in done.stderr
    done = sampan("completion", "powershell")
    assert done.returncode == 1 and "sampan __complete" in done.stderr
