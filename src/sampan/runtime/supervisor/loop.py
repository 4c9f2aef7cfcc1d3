"""A single-threaded event loop over epoll(7), level triggered, for processes that must stay small.

It keeps one callback per descriptor, and the few timers of what waits for something that no
descriptor tells of. Idle, it costs one blocked system call and no memory beyond its table.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ERROR", "HANGUP", "READ", "WRITE", "Loop", "Timer"]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
ERROR = select.EPOLLERR


class Timer:
    """A call that is due at a moment (time.monotonic)."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback


class Loop:
    """Waits on descriptors and calls back with the events seen (epoll bits)."""

    __slots__ = ("_callbacks", "_epoll", "_timers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []

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

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, in so many seconds."""
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a call; harmless when it was made."""
        if timer in self._timers:
            self._timers.remove(timer)

    @property
    def has_timers(self) -> bool:
        """Whether a call is to be made at some moment."""
        return bool(self._timers)

    def turn(self, patience: float | None = None) -> bool:
        """Wait until at least one descriptor is ready or a timer due, and call back for each.

        False when nothing was in ``patience`` seconds; with timers there is no such limit.
        """
        limit = self._until_next() if self._timers else patience
        ready = self._epoll.poll(limit)
        expected = [self._callbacks.get(fd) for fd, _ in ready]
        for (fd, events), callback in zip(ready, expected, strict=True):
            # A callback may close a descriptor that is later in this same list, and another may
            # then be given its number: these events are not the new one's.
            if callback is not None and self._callbacks.get(fd) is callback:
                callback(events)
        if self._timers:
            self._call_due()
            return True
        return bool(ready)

    def _until_next(self) -> float:
        return max(0.0, min(timer.when for timer in self._timers) - time.monotonic())

    def _call_due(self) -> None:
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer.when <= now]:
            if timer in self._timers:
                self._timers.remove(timer)
                timer.callback()

    def close(self) -> None:
        self._epoll.close()
