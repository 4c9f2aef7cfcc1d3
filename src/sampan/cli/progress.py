"""The daemon's progress messages (pull, push, load, import, build) as something to look at.

A message is ``{"status", "id", "progressDetail": {"current", "total"}, "stream", "error", "aux"}``.
On a terminal every ID has a line that is drawn again as it goes on; into a pipe each change of
status is a line, without bars, and nothing is drawn twice.
"""

from __future__ import annotations

import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Display", "show"]

_PERIOD = 0.05  # seconds between drawings of what only counts on
_BAR = 24


class Display:
    """Where messages go as they come; ``end`` when there are no more."""

    def __init__(self, out: IO[str] | None = None, *, quiet: bool = False) -> None:
        self._out = sys.stdout if out is None else out
        lively = self._out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._quiet = quiet
        self._screen = _Screen(self._out) if lively and not quiet else None

    def feed(self, message: dict[str, Any]) -> None:
        if self._quiet:
            return
        if self._screen is not None:
            self._screen.feed(message)
        else:
            _plain(message, self._out)

    def end(self) -> None:
        if self._screen is not None:
            self._screen.end()


def show(
    messages: Iterable[dict[str, Any]],
    out: IO[str] | None = None,
    *,
    quiet: bool = False,
    aux: Callable[[Any], None] | None = None,
) -> None:
    """Print messages until they end; ``aux`` gets what a message carries beside its text.

    Raises SampanError for a message that says the work failed.
    """
    display = Display(out, quiet=quiet)
    try:
        for message in messages:
            error = message.get("error") or (message.get("errorDetail") or {}).get("message")
            if error:
                raise SampanError(str(error))
            if "aux" in message and aux is not None:
                aux(message["aux"])
            else:
                display.feed(message)
    finally:
        display.end()


def _plain(message: dict[str, Any], out: IO[str]) -> None:
    if message.get("stream"):
        out.write(str(message["stream"]))
    elif message.get("status") and _counts(message) == (0, 0) and not message.get("progress"):
        name = f"{message['id']}: " if message.get("id") else ""
        out.write(f"{name}{message['status']}\n")
    out.flush()


def _counts(message: dict[str, Any]) -> tuple[int, int]:
    """How much is done, and of how much (0: unknown)."""
    detail = message.get("progressDetail") or {}
    return int(detail.get("current") or 0), int(detail.get("total") or 0)


class _Row:
    __slots__ = ("current", "name", "status", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = ""
        self.current = 0
        self.total = 0

    def text(self, columns: int, colour: bool) -> str:
        line = f"{self.name}: {self.status}"
        if not self.current or "omplete" in self.status:
            return line[:columns]
        from sampan.cli.output import size

        amount = size(self.current) + (f"/{size(self.total)}" if self.total else "")
        room = columns - len(line) - len(amount) - 4
        if self.total and room >= 8:
            width = min(_BAR, room)
            full = min(width, width * self.current // self.total)
            bar = "█" * full + "░" * (width - full)
            line += f" \x1b[36m{bar}\x1b[0m" if colour else f" {bar}"
            return f"{line} {amount}"
        return f"{line} {amount}"[:columns]


class _Screen:
    """The rows now on the terminal, the last of them just above the cursor."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._rows: dict[str, _Row] = {}
        self._drawn = 0
        self._when = 0.0
        self._late = False  # something is newer than what is drawn, or not drawn at all
        self._colour = "NO_COLOR" not in os.environ

    def feed(self, message: dict[str, Any]) -> None:
        name = message.get("id")
        if not name:
            self._line(message)
            return
        row = self._rows.setdefault(str(name), _Row(str(name)))
        before = row.status
        row.status = str(message.get("status") or "")
        row.current, row.total = _counts(message)
        self._late = True
        now = time.monotonic()
        if before != row.status or now - self._when >= _PERIOD:
            self._when = now
            self._draw()

    def end(self) -> None:
        """Leave every row as it was last, however many there are."""
        if self._late:
            self._draw(everything=True)

    def _line(self, message: dict[str, Any]) -> None:
        """What belongs to no row goes above them, for good."""
        text = str(message.get("stream") or f"{message.get('status') or ''}\n")
        if not text.strip() and "stream" not in message:
            return
        if self._rows:
            self.end()
            self._rows, self._drawn = {}, 0
        self._out.write(text)
        self._out.flush()

    def _draw(self, everything: bool = False) -> None:
        columns, lines = _size(self._out)
        rows = list(self._rows.values())
        hidden = 0
        if not everything and len(rows) > lines - 1:
            # More layers than the window is high: those at work are what is looked at.
            working = [row for row in rows if row.total] + [row for row in rows if not row.total]
            hidden = len(rows) - max(1, lines - 2)
            rows = working[: max(1, lines - 2)]
        shown = [row.text(columns - 1, self._colour) for row in rows]
        if hidden:
            shown.append(f"and {hidden} more"[: columns - 1])
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._out.write(up + "".join(f"\r\x1b[2K{text}\n" for text in shown) + "\x1b[J")
        self._out.flush()
        self._drawn, self._late = len(shown), hidden > 0


def _size(out: IO[str]) -> tuple[int, int]:
    try:
        columns, lines = os.get_terminal_size(out.fileno())
    except OSError:
        return 80, 24
    return columns or 80, lines or 24  # a pseudo-terminal nobody sized says 0
