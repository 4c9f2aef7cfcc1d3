"""How much of a file can be sent without waiting for a disk.

The kernel is asked (``sampan.kernel.pages``), a window of a megabyte at a time: some ten
microseconds, where sending it takes hundreds. What it said of a window is good for a moment, for
everybody who sends that file: 64 clients of one blob ask once and not 64 times. Whoever is slow
asks for less.
"""

from __future__ import annotations

import math
import os

from sampan.errors import KernelError
from sampan.kernel.pages import Pages

__all__ = ["Resident"]

_WINDOW = 1 << 20
_MOST = 16 << 20
_FRESH_SECONDS = 0.5
_REMEMBERED = 10_000
_seen: dict[tuple[int, int, int], float] = {}
"""When a window, by its file and place, was in memory."""


class Resident:
    """Of ``count`` bytes from ``offset`` of a file. Call ``close``."""

    def __init__(self, descriptor: int, offset: int, count: int) -> None:
        self._begin = offset
        self._end = offset + count
        self._wanted = _WINDOW
        self._pages: Pages | None = None
        try:
            self._pages = Pages(descriptor, offset, count)
        except KernelError:
            return  # a file system without mmap(2): nobody knows
        status = os.fstat(descriptor)
        self._size = status.st_size
        self._file = (status.st_dev, status.st_ino)

    def ready(self, offset: int, now: float) -> int:
        """Bytes from ``offset`` on that are in memory; there may be more behind them."""
        if self._pages is None:
            return 0
        end = min(offset + self._wanted, self._end)
        at = offset
        while at < end:
            edge = min(at - at % _WINDOW + _WINDOW, end)
            found = self._look(self._pages, at, edge, now)
            at += found
            if at < edge:
                break
        return at - offset

    def _look(self, pages: Pages, at: int, edge: int, now: float) -> int:
        """How much is there of what is between the two, which are in one window."""
        begin = at - at % _WINDOW
        key = (*self._file, begin)
        if now - _seen.get(key, -math.inf) < _FRESH_SECONDS:
            return edge - at
        last = min(begin + _WINDOW, self._size)
        whole = begin >= self._begin and last <= self._end
        if whole and pages.ready(begin, last - begin) == last - begin:
            if len(_seen) >= _REMEMBERED:
                _seen.clear()
            _seen[key] = now
            return edge - at
        return pages.ready(at, edge - at)

    def sent(self, count: int) -> None:
        """So much was taken at once: it is worth to look for twice as much."""
        self._wanted = min(max(2 * count, _WINDOW), _MOST)

    def close(self) -> None:
        if self._pages is not None:
            self._pages.close()
