"""Signals as calls from the event loop.

The interpreter's C handler writes the number of each signal to a pipe (``signal.set_wakeup_fd``),
which the loop reads. asyncio's own ``add_signal_handler`` does the same, and imports a megabyte of
``inspect`` to find out that a callback is no coroutine (``lean``).
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Signals"]

_MOST = 512


class Signals:
    """Of the main thread; ``close`` it before the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        loop.add_reader(self._reader, self._read)

    def on(self, number: int, callback: Callable[[], None]) -> None:
        """Call back, from the loop, after each signal of this number."""
        self._callbacks[number] = callback
        signal.signal(number, _no_handler)
        signal.siginterrupt(number, False)

    def _read(self) -> None:
        for number in os.read(self._reader, _MOST):
            callback = self._callbacks.get(number)
            if callback is not None:
                callback()

    def close(self) -> None:
        """Let the signals seen to so far be ignored from now on."""
        for number in self._callbacks:
            signal.signal(number, signal.SIG_IGN)
        self._loop.remove_reader(self._reader)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)


def _no_handler(number: int, frame: object) -> None:
    """A signal must have a handler to be written to the wake-up descriptor."""
