"""The user's terminal: raw mode, window size, and signals passed on to the container."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["RawTerminal", "on_resize", "pass_signals", "size"]

# What a person or a supervisor sends to end or nudge a program; the rest is the client's own.
_PASSED = ("HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "ALRM", "CONT")


class RawTerminal:
    """While entered, every key goes to the container: no echo, no lines, no signals from keys."""

    def __init__(self) -> None:
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        if sys.stdin.isatty():
            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)


def size() -> tuple[int, int] | None:
    """Rows and columns of the terminal on standard output, if it is one."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return None
    return rows, columns


def on_resize(changed: Callable[[], None]) -> None:
    """Call ``changed`` whenever the window's size changes."""
    signal.signal(signal.SIGWINCH, lambda _number, _frame: changed())


def pass_signals(send: Callable[[str], None]) -> None:
    """Send signals this process receives to the container instead of dying of them."""

    def handler(number: int, _frame: FrameType | None) -> None:
        send(signal.Signals(number).name.removeprefix("SIG"))

    for name in _PASSED:
        signal.signal(getattr(signal, "SIG" + name), handler)
