"""Docker's commands and flags: each is known to us, or refused by name.

Docker's own ``--help`` is the list; ours is what a command says it reads.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from sampan.cli.command import COMMANDS, GROUPS, LATER, NEVER
from sampan.cli.commands.common import DESCRIBE, Described
from sampan.cli.flags import Flag
from sampan.cli.main import GLOBAL
from tests.daemon_fixture import DOCKER

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs Docker's client"),
]

# What `docker --help` does not show, or that is Docker's own packaging.
_SHELLS = {"completion powershell", "completion bash", "completion fish", "completion zsh"}


def docker_help(*words: str) -> str:
    done = subprocess.run(
        [DOCKER, *words, "--help"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def docker_commands(*words: str) -> list[str]:
    """Names under a group, as its help lists them."""
    found = []
    listing = False
    for line in docker_help(*words).splitlines():
        if line.endswith("Commands:"):
            listing = True
        elif line and not line.startswith(" "):
            listing = False
        elif listing and (match := re.match(r"  (\S+)", line)):
            found.append(match[1].rstrip("*"))
    return found


def docker_flags(name: str) -> dict[str, str]:
    """Long names of a command's flags, with their short ones."""
    text = docker_help(*name.split())
    flags = re.findall(r"^ +(?:-(\w), |    )--([a-z0-9-]+)", text, re.MULTILINE)
    return {long: short for short, long in flags if long != "help"}


def every_docker_command() -> list[str]:
    if not DOCKER:
        return []
    names = []
    for name in sorted({*docker_commands(), "completion"}):
        subcommands = docker_commands(name) if name not in NEVER else []
        names += [f"{name} {sub}" for sub in subcommands] or [name]
    return [name for name in names if name not in _SHELLS]


def ours(name: str) -> str | None:
    """The row of our table that a command's words lead to."""
    group, _, sub = name.partition(" ")
    if group in GROUPS:
        return GROUPS[group].get(sub)
    return name if name in COMMANDS else None


def our_flags(row: str) -> dict[str, Flag]:
    module, function, _ = COMMANDS[row]
    command = getattr(importlib.import_module(f"sampan.cli.commands.{module}"), function)
    with pytest.raises(Described) as described:
        command(None, DESCRIBE)
    return {name: flag for flag in described.value.flags for name in (flag.name, flag.old) if name}


@pytest.mark.parametrize("name", every_docker_command())
def test_every_command_is_there_or_refused_by_name(name: str) -> None:
    row = ours(name)
    if row is None:
        reason = next(
            (
                table[n]
                for table in (LATER, NEVER)
                for n in (name, name.partition(" ")[0])
                if n in table
            ),
            "",
        )
        assert reason, f"{name} is neither in the table of commands nor refused"
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli", *name.split()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1 and reason in done.stderr
        return
    known = our_flags(row)
    wanted = docker_flags(name)
    assert not set(wanted) - set(known), "flags of Docker's that we do not know"
    for long, short in wanted.items():
        if known[long].help:  # what is refused or old has no short form to show
            assert known[long].short == short, f"--{long}"


def test_the_flags_before_the_command_are_docker_s() -> None:
    known = {flag.name: flag.short for flag in GLOBAL}
    assert docker_flags("").items() <= known.items()


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_aliases_lead_where_docker_s_lead(group: str) -> None:
    """``docker container list`` is ``docker ps``: said in the help of each command."""
    for sub in docker_commands(group):
        row = GROUPS[group].get(sub)
        if row is None:
            continue
        aliases = re.search(r"Aliases:\n +(.+)", docker_help(group, sub))
        for alias in aliases[1].split(", ") if aliases else []:
            assert ours(alias.removeprefix("docker ")) == row, alias


def test_nothing_is_both_there_and_refused() -> None:
    there = {*COMMANDS, *GROUPS, *(f"{g} {sub}" for g, subs in GROUPS.items() for sub in subs)}
    assert not there & {*LATER, *NEVER}


@pytest.mark.parametrize("row", sorted(set(COMMANDS) - {"daemon", "__complete"}))
def test_every_command_describes_itself(row: str) -> None:
    flags = our_flags(row)
    for flag in flags.values():
        if flag.help:
            assert len(flag.help) <= 72, f"--{flag.name}: one line of a terminal"
    shorts = [flag.short for name, flag in flags.items() if flag.short and name == flag.name]
    assert len(shorts) == len(set(shorts))
