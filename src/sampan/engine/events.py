"""What happened, told to whoever listens: the source of ``GET /events``.

An event is published when the change it reports is committed. The last few are kept for listeners
that ask for the past. A listener that does not keep up is dropped rather than holding up the
engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Event", "Events", "Subscription"]

_BACKLOG = 4096
_REMEMBERED = 256


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """``time`` in nanoseconds since the epoch; ``attributes`` of the actor at that moment."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int


class Subscription:
    """One listener's queue; close it when done."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_BACKLOG)

    def put(self, event: Event) -> bool:
        """False when the listener is too far behind: it gets its end instead."""
        if self._queue.qsize() >= _BACKLOG - 1:
            self._queue.put_nowait(None)
            return False
        self._queue.put_nowait(event)
        return True

    async def get(self) -> Event | None:
        """The next event; None after falling behind."""
        return await self._queue.get()

    def close(self) -> None:
        self._events.drop(self)


class Events:
    """The listeners, and the last events."""

    def __init__(self) -> None:
        self._listeners: list[Subscription] = []
        self._last: deque[Event] = deque(maxlen=_REMEMBERED)
        self._taps: list[Callable[[Event], None]] = []

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._listeners)

    def subscribe(self, since: int = 0) -> Subscription:
        """Hear what happens from now on, and first what is remembered from ``since`` on."""
        subscription = Subscription(self)
        for event in self._last:
            if 0 < since <= event.time:
                subscription.put(event)
        self._listeners.append(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        if subscription in self._listeners:
            self._listeners.remove(subscription)

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """Tell every listener."""
        event = Event(type=kind, action=action, id=actor, attributes=attributes, time=now())
        self._last.append(event)
        self._listeners = [listener for listener in self._listeners if listener.put(event)]
        for tap in self._taps:
            tap(event)

    def tap(self, heard: Callable[[Event], None]) -> None:
        """Call ``heard`` with every event from now on; it must not block."""
        self._taps.append(heard)
