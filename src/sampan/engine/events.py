"""What happened, told to whoever listens: the source of ``GET /events``.

An event is published when the change it reports is committed. A listener that does not keep up
loses its subscription rather than holding up the engine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import now

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Event", "Events", "Subscription"]

_BACKLOG = 1024


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """``time`` in nanoseconds since the epoch; ``attributes`` of the actor at that moment."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int


class Subscription:
    """An asynchronous iterator over events; close it when done."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_BACKLOG)

    def put(self, event: Event) -> bool:
        """False when the listener is too far behind."""
        if self._queue.qsize() >= _BACKLOG - 1:
            self._queue.put_nowait(None)
            return False
        self._queue.put_nowait(event)
        return True

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        self._events.drop(self)


class Events:
    """The list of listeners."""

    def __init__(self) -> None:
        self._listeners: list[Subscription] = []

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._listeners)

    def subscribe(self) -> Subscription:
        subscription = Subscription(self)
        self._listeners.append(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        if subscription in self._listeners:
            self._listeners.remove(subscription)

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """Tell every listener; costs nothing when there is none."""
        if not self._listeners:
            return
        event = Event(type=kind, action=action, id=actor, attributes=attributes, time=now())
        self._listeners = [listener for listener in self._listeners if listener.put(event)]
