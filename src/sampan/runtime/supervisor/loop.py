"""A single-threaded event loop over epoll(7), level triggered, for processes that must stay small.

It keeps one callback per descriptor and nothing else: no timers, no tasks. Idle, it costs one
blocked system call and no memory beyond its table.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ERROR", "HANGUP", "Loop", "READ", "WRITE"]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
ERROR = select.EPOLLERR


class Loop:
    """Waits on descriptors and calls back with the events seen (epoll bits)."""

    __slots__ = ("_callbacks", "_epoll")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when ``fd`` is ready; hang-up and error always count."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        """Watch other events of a descriptor already watched."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self) -> None:
        """Wait until at least one descriptor is ready, and call back for each that is."""
        for fd, events in self._epoll.poll():
            # A callback may forget, or close, a descriptor that is later in this same list.
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)

    def close(self) -> None:
        self._epoll.close()
