"""The time that leases and expiries count on.

It is started with the wall clock's, or with the last time that was noted where that is later, and
goes on with the monotonic clock: it never runs backwards, and a wall clock that is set while we run
does not end every lease at once. Servers that share a database follow its clock.
"""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """It is ``start`` now, in seconds since the epoch."""

    def __init__(self, start: float) -> None:
        self._base = start
        self._start = time.monotonic()
        self._floor = start

    def now(self) -> float:
        return max(self._floor, self._base + (time.monotonic() - self._start))

    def follow(self, now: float) -> None:
        """Another clock says it is ``now``: go with it. Where it is behind, ours waits for it."""
        self._floor = self.now()
        self._base, self._start = now, time.monotonic()
