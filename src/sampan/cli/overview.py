"""The help of ``sampan`` itself and of its groups, and what was meant by a word nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.command import COMMANDS, COMMON, GROUPS, HIDDEN, SUMMARIES
from sampan.cli.flags import options, usage

if TYPE_CHECKING:
    from sampan.cli.flags import Flag

__all__ = ["group_overview", "nearest", "overview", "unknown"]


def overview(flags: list[Flag]) -> str:
    """``sampan --help``."""
    plain = [name for name in sorted(COMMANDS) if " " not in name and name not in HIDDEN]
    return "\n\n".join(
        (
            usage("", "[OPTIONS] COMMAND", "A container engine", []),
            _section("Everyday commands", [(name, COMMANDS[name][2]) for name in COMMON]),
            _section("Groups of commands", [(name, SUMMARIES[name]) for name in sorted(GROUPS)]),
            _section(
                "Other commands",
                [(name, COMMANDS[name][2]) for name in plain if name not in COMMON],
            ),
            options(flags, "Global options"),
            "More on a command: sampan COMMAND --help\n"
            "First steps: sampan run --rm host echo hello",
        )
    )


def group_overview(name: str) -> str:
    """``sampan GROUP --help``."""
    rows: dict[str, str] = {}
    for sub, command in GROUPS[name].items():
        if command in HIDDEN:
            continue
        rows.setdefault(command, sub)  # the first name is the one to show, the others are aliases
    shown = sorted((sub, COMMANDS[command][2]) for command, sub in rows.items())
    return (
        f"Usage:  sampan {name} COMMAND\n\n{SUMMARIES[name]}\n\n{_section('Commands', shown)}\n\n"
        f"More on a command: sampan {name} COMMAND --help"
    )


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([f"{title}:", *(f"  {name:<{width}}{text}" for name, text in rows)])


def unknown(name: str) -> str:
    """What to say of a command that does not exist."""
    group, _, word = name.rpartition(" ")
    known = list(GROUPS[group]) if group else [*COMMANDS, *GROUPS]
    close = nearest(word, [command for command in known if " " not in command])
    meant = f"\nDid you mean: {', '.join(f'sampan {group} {c}'.replace('  ', ' ') for c in close)}?"
    return (
        f"unknown command: sampan {name}{meant if close else ''}\n"
        f"See 'sampan {group + ' ' if group else ''}--help'."
    )


def nearest(word: str, known: list[str]) -> list[str]:
    """Names that are one or two slips away from ``word``, or that it is the beginning of."""
    slips = {name: _distance(word, name) for name in known}
    most = 1 if len(word) < 5 else 2
    close = [n for n in sorted(known, key=lambda n: (slips[n], n)) if slips[n] <= most]
    return close[:3] or sorted(n for n in known if len(word) > 1 and n.startswith(word))[:3]


def _distance(left: str, right: str) -> int:
    """Insertions, removals, changes and swaps of neighbours between two words."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        new = [i]
        for j, b in enumerate(right, 1):
            cost = min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            new.append(cost)
        before, row = row, new
    return row[-1]
