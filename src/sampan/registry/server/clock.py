"""The time that leases and expiries count on.

It is started with the wall clock's, or with the last time that was noted where that is later, and
goes on with the monotonic clock: it never runs backwards, and a wall clock that is set while we run
does not end every lease at once.
"""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """It is ``start`` now, in seconds since the epoch."""

    def __init__(self, start: float) -> None:
        self._base = start
        self._start = time.monotonic()

    def now(self) -> float:
        return self._base + (time.monotonic() - self._start)
