"""The operations of the Engine API and the commands of its client: what is there to be compatible
with.

``operations.tsv`` and ``commands.tsv`` are facts (names, paths, tiers); ``owner`` says which part
of this project answers for a row: ``engine``, a part that is not there yet, or ``none`` for what an
engine without swarm, plugins and checkpoints refuses.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["COMMANDS", "OPERATIONS", "Command", "Operation", "command_of", "operation_of"]

HERE = Path(__file__).parent


class Operation(NamedTuple):
    method: str
    path: str
    name: str
    tag: str
    tier: str
    owner: str


class Command(NamedTuple):
    name: str
    also: str
    tier: str
    owner: str


def _rows(name: str) -> list[list[str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


OPERATIONS = [Operation(*row) for row in _rows("operations.tsv")]
COMMANDS = [Command(*row) for row in _rows("commands.tsv")]

_VERSION = re.compile(r"/v\d+\.\d+(?=/)")


def _pattern(path: str) -> re.Pattern[str]:
    inner = ".+" if path.startswith(("/images/", "/distribution/", "/plugins/")) else "[^/]+"
    return re.compile(re.sub(r"\{[a-z]+\}", inner, path))


_EXACT = {(row.method, row.path): row for row in OPERATIONS if "{" not in row.path}
_PATTERNS = [(row, _pattern(row.path)) for row in OPERATIONS if "{" in row.path]


def operation_of(method: str, path: str) -> Operation | None:
    """The operation a request's method and decoded path are; versions count the same."""
    bare = _VERSION.sub("", path, count=1)
    found = _EXACT.get((method, bare))
    if found is not None:
        return found
    for row, pattern in _PATTERNS:
        if row.method == method and pattern.fullmatch(bare):
            return row
    return None


_BY_NAME = {name: row for row in COMMANDS for name in (row.name, *row.also.split(", ")) if name}


def command_of(words: list[str]) -> Command | None:
    """The command in a client's arguments, which begin with the client's global flags."""
    for place, word in enumerate(words):
        if " ".join(words[place : place + 2]) in _BY_NAME:
            return _BY_NAME[" ".join(words[place : place + 2])]
        if word in _BY_NAME:
            return _BY_NAME[word]
    return None
