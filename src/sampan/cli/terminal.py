"""The user's terminal: raw mode, window size, and signals passed on to the container.

A terminal that was made raw is given back however the command ends, short of SIGKILL: a signal
that would end us ends us by an exception, and a stop (SIGTSTP from outside) gives the terminal
back for as long as we are stopped.
"""

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

# What a person or a supervisor sends to end or nudge a program. The rest is the client's own: job
# control is the shell's, and SIGCHLD, SIGPIPE and SIGWINCH are about this process.
_PASSED = ("HUP", "INT", "QUIT", "ABRT", "USR1", "USR2", "TERM", "ALRM", "CONT", "IO", "PWR")
_PATIENCE = 3
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class RawTerminal:
    """While entered, every key goes to the container: no echo, no lines, no signals from keys."""

    def __init__(self) -> None:
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        if sys.stdin.isatty():
            self._saved = termios.tcgetattr(0)
            for number in _ENDING:
                signal.signal(number, _end)
            signal.signal(signal.SIGTSTP, self._stop)
            tty.setraw(0, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        assert self._saved is not None
        termios.tcsetattr(0, termios.TCSANOW, self._saved)
        os.kill(os.getpid(), signal.SIGSTOP)
        # Here again when continued.
        tty.setraw(0, termios.TCSANOW)
        os.kill(os.getpid(), signal.SIGWINCH)  # the window may have another size by now


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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
    """Send signals this process receives to the container instead of dying of them.

    The third that asks to end ends us, as Docker's client ends: a first process without a handler
    does not see them (pid_namespaces(7)), and the user is to get the terminal back.
    """
    asked = 0

    def handler(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        if asked == _PATIENCE:
            print(
                f"\nsampan: {asked} times asked to end: the container goes on running",
                file=sys.stderr,
            )
            raise SystemExit(1)
        send(signal.Signals(number).name.removeprefix("SIG"))

    for name in _PASSED:
        signal.signal(getattr(signal, "SIG" + name), handler)
