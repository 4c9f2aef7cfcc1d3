"""What commands share: --help, arguments counted, and one request for each of several objects."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sampan.cli.client import ApiError
from sampan.cli.command import names_of
from sampan.cli.flags import Flag, UsageError, Values, parse, usage
from sampan.cli.http import quote
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.cli.client import Client

__all__ = [
    "DESCRIBE",
    "FORMAT",
    "TEMPLATE",
    "Described",
    "each",
    "filters",
    "path",
    "read",
    "report",
    "together",
]

FORMAT = Flag("format", "str", "How to print: table, 'table TEMPLATE', json, or a Go template")
TEMPLATE = Flag("format", "str", "How to print: json, or a Go template", short="f")

_AT_ONCE = 32

DESCRIBE: list[str] = []
"""Given as a command's argv (this very list), makes ``read`` raise Described."""


class Described(Exception):
    """What a command would read, instead of its being run: for shell completion and tests."""

    def __init__(self, synopsis: str, flags: list[Flag]) -> None:
        super().__init__(synopsis)
        self.synopsis = synopsis
        self.flags = flags


def read(
    name: str,
    synopsis: str,
    summary: str,
    flags: list[Flag],
    argv: list[str],
    *,
    least: int = 0,
    most: int | None = None,
    interspersed: bool = True,
) -> Values | None:
    """Parse, or print the help and return None; counts arguments between ``least`` and ``most``."""
    h = "" if any(flag.short == "h" for flag in flags) else "h"
    known = [*flags, Flag("help", "bool", "Print this text", short=h)]
    if argv is DESCRIBE:
        raise Described(synopsis, known)
    values = parse(name, known, argv, interspersed=interspersed)
    if values.flag("help"):
        print(usage(name, synopsis, summary, known))
        also = [n for n in names_of(name) if n != name]
        if also:
            print("\nAlso:  " + ", ".join(f"sampan {n}" for n in also))
        return None
    count = len(values.arguments)
    if count < least or (most is not None and count > most):
        if most == 0:
            wanted = "takes no arguments"
        else:
            few = count < least
            bound = "exactly" if most == least else "at least" if few else "at most"
            number = least if few else most
            wanted = f"requires {bound} {number} argument{'' if number == 1 else 's'}"
        error = InvalidArgument(
            f"'sampan {name}' {wanted}, not {count}.\n"
            f"Usage:  sampan {name} {synopsis}\nSee 'sampan {name} --help'."
        )
        error.exit_code = 1  # with run too: Docker tells this from a wrong flag
        raise error
    return values


def report(error: SampanError, name: str = "") -> None:
    """Say what failed; a daemon's refusal as Docker's client says it. ``name``: the command."""
    said = error.message
    if isinstance(error, ApiError):
        said = f"Error response from daemon: {said}"
        if name != "run":
            print(said, file=sys.stderr)
            return
    print(f"sampan: {said}", file=sys.stderr)


def path(template: str, name: str) -> str:
    """A path of the API with an object's name in it. Raises InvalidArgument for no name."""
    if not name.strip("/ "):
        raise InvalidArgument("a name or ID is needed, and this one is empty")
    return template.format(quote(name, "/:@+"))


def each(
    names: list[str],
    act: Callable[[str], object],
    echo: bool = True,
    *,
    client: Client | None = None,
    absent: bool = False,
) -> int:
    """Act on every name, report those that failed, and print of the others what ``act`` returns, or
    their names where that is no text; 1 if any failed.

    ``absent``: what is not there is told too, but is no failure: it is as ``--force`` wants it.
    With ``client`` several are under way at once: ten containers that take their ten seconds to
    stop take ten seconds. What is printed is in the order of the names.
    """
    if client is None or len(names) < 2:
        attempts: Iterator[object] = (_attempt(act, name) for name in names)
    else:
        attempts = together(client, names, act)
    status = 0
    for name, result in zip(names, attempts, strict=True):
        if isinstance(result, SampanError):
            report(result)
            if not absent or result.status != 404:
                status = 1
        elif echo and result != "":
            print(result if isinstance(result, str) else name, flush=True)
    return status


def _attempt(act: Callable[[str], object], name: str) -> object:
    try:
        return act(name)
    except SampanError as error:
        return error


def together(client: Client, names: list[str], act: Callable[[str], object]) -> Iterator[object]:
    """The results of acting on every name, in order, or their errors; several at once."""
    import threading

    client.negotiate()  # once, for all
    results: list[object] = [SampanError("this client failed")] * len(names)
    ready = [threading.Event() for _ in names]
    waiting = list(reversed(range(len(names))))

    def work() -> None:
        while True:
            try:
                number = waiting.pop()
            except IndexError:
                return
            try:
                results[number] = _attempt(act, names[number])
            finally:
                ready[number].set()

    for _ in range(min(len(names), _AT_ONCE)):
        threading.Thread(target=work, daemon=True).start()
    for number, event in enumerate(ready):
        event.wait()
        yield results[number]


def filters(items: list[str]) -> dict[str, list[str]] | None:
    """``--filter key=value`` repeated, as the API takes it."""
    found: dict[str, list[str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--filter: {item}: expected key=value")
        found.setdefault(key.strip().lower(), []).append(value.strip())
    return found or None
