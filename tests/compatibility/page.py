"""``docs/compatibility.md`` from what the tests recorded."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.compatibility.record import CACHE
from tests.compatibility.tables import COMMANDS, OPERATIONS

__all__ = ["PAGE", "Records", "line", "load", "named", "render"]

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

_CLIENTS = ("docker", "docker 20.10", "docker-py", "docker-compose", "sampan", "sampan SDK", "HTTP")
_TOOLS = ("docker", "docker 20.10", "sampan")
_SHOWN = 3

_HEAD = """\
# Compatibility

Written by `make compatibility` from what the tests recorded when they ran; not by hand. Each row
is an operation of the Engine API (1.51) or a command of its client, with what the tests did with
it: how many tests drove it with each client, which statuses the daemon answered, and those tests
that are most about it (a name reads as what was checked). A test that fails counts for nothing.
*HTTP* is a request of a test's own; its JSON answers are held against the API's document.
"""

Records = dict[str, list[list[Any]]]


class _Row:
    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)
        self.outcomes: set[str] = set()

    @property
    def all(self) -> set[str]:
        return set().union(*self.tests.values())


def load() -> Records:
    """What the last runs recorded."""
    records: Records = json.loads(CACHE.read_text())
    return records


def _function(test: str) -> str:
    return re.sub(r"\[.*", "", test, flags=re.DOTALL)


def _rows(records: Records, kind: str) -> dict[str, _Row]:
    rows: dict[str, _Row] = defaultdict(_Row)
    for test, found in records.items():
        for of, name, client, outcomes in found:
            if of == kind:
                rows[name].tests[client].add(test)
                rows[name].outcomes.update(outcomes)
    return rows


def _breadth(records: Records, kind: str) -> Counter[str]:
    """How many rows a test touches: the fewer, the more it is about each."""
    counted: dict[str, set[str]] = defaultdict(set)
    for test, found in records.items():
        counted[_function(test)].update(name for of, name, _, _ in found if of == kind)
    return Counter({test: len(names) for test, names in counted.items()})


def named(tests: set[str], breadth: Counter[str]) -> str:
    """The tests that are most about a row."""
    functions = sorted({_function(test) for test in tests}, key=lambda one: (breadth[one], one))
    shown = []
    for one in functions[:_SHOWN]:
        path, _, name = one.partition("::")
        shown.append(f"`{path.removeprefix('tests/')}` {name.removeprefix('test_')}")
    more = len(functions) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more > 0 else "")


def line(*cells: object) -> str:
    """Of a table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _counts(row: _Row | None, clients: tuple[str, ...]) -> list[str]:
    return [str(len(row.tests[one]) or "") if row else "" for one in clients]


def _missing(owner: str) -> str:
    if owner == "none":
        return "refused: swarm, plugins, checkpoints"
    return "not checked" if owner == "engine" else f"comes with: {owner}"


def render(records: Records) -> str:
    """The page's text."""
    operations, commands = _rows(records, "operations"), _rows(records, "commands")
    by_operation, by_command = _breadth(records, "operations"), _breadth(records, "commands")
    lines = [_HEAD, "## Operations", ""]
    lines.append(line("operation", "request", "tier", *_CLIENTS, "answers", "checked by"))
    lines.append(line(*["---"] * (5 + len(_CLIENTS))))
    for one in OPERATIONS:
        row = operations.get(one.name)
        said = named(row.all, by_operation) if row else _missing(one.owner)
        answers = " ".join(sorted(row.outcomes)) if row else ""
        place = f"`{one.method} {one.path}`"
        lines.append(line(one.name, place, one.tier, *_counts(row, _CLIENTS), answers, said))
    lines += ["", "## Commands", ""]
    lines.append(line("command", "also", "tier", *_TOOLS, "checked by"))
    lines.append(line(*["---"] * (4 + len(_TOOLS))))
    for command in COMMANDS:
        row = commands.get(command.name)
        said = named(row.all, by_command) if row else _missing(command.owner)
        lines.append(
            line(f"`{command.name}`", command.also, command.tier, *_counts(row, _TOOLS), said)
        )
    return "\n".join(lines) + "\n"
