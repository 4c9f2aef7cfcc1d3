"""What happened, told to whoever listens: the source of ``GET /events``.

An event is published when the change it reports is committed, and written (``eventlog``) before it
is told. A listener reads the past from the files and the present from a queue; one that does not
keep up loses its queue, not its events: it goes on from the files, as if it asked for the past.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from sampan.engine.container import now
from sampan.engine.eventlog import Event, EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["Event", "Events", "Subscription"]

_BACKLOG = 1024
"""Events that wait in memory for one listener."""


class Subscription:
    """One listener: iterate over it, and close it when done."""

    def __init__(self, events: Events, since: int) -> None:
        self._events = events
        self._since = since
        # The number of the last event that was handed out, or that is none of ours.
        self._seen = 0 if since else events.log.last
        self._behind = since > 0
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._queue) >= _BACKLOG:
            self._queue.clear()
            self._behind = True
        if not self._behind:
            self._queue.append(event)
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether everything that happened was handed out."""
        return not (self._behind or self._queue)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        """Batches of events, without an end; an empty one says that nothing is left for now."""
        while True:
            if self._behind:
                # What happens from here on is in the queue as well; numbers tell what was read.
                self._behind = False
                for batch in self._events.log.read(self._seen, self._since):
                    self._seen = batch[-1].number
                    yield batch
                    await asyncio.sleep(0)
            while self._queue:
                fresh = [event for event in self._queue if event.number > self._seen]
                self._queue.clear()
                if fresh:
                    self._seen = fresh[-1].number
                    yield fresh
            if self._behind:
                continue
            yield []
            self._wake.clear()
            if self.idle:
                await self._wake.wait()

    def close(self) -> None:
        self._events.drop(self)


class Events:
    """The listeners, and the log of what they may ask for."""

    def __init__(self, directory: str) -> None:
        self.log = EventLog(directory)
        self._listeners: list[Subscription] = []
        self._taps: list[Callable[[Event], None]] = []

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._listeners)

    def subscribe(self, since: int = 0) -> Subscription:
        """Hear what happens from now on, and first what happened from ``since`` on."""
        subscription = Subscription(self, since)
        self._listeners.append(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        if subscription in self._listeners:
            self._listeners.remove(subscription)

    def publish(
        self, kind: str, action: str, actor: str, attributes: dict[str, str], mark: int = 0
    ) -> None:
        """Write it down, and tell every listener, with the attributes in the order of their names.
        From the event loop's thread only."""
        event = Event(
            number=self.log.last + 1,
            type=kind,
            action=action,
            id=actor,
            attributes=dict(sorted(attributes.items())),
            time=now(),
            mark=mark,
        )
        self.log.append(event)
        for listener in self._listeners:
            listener.put(event)
        for tap in self._taps:
            tap(event)

    def tap(self, heard: Callable[[Event], None]) -> None:
        """Call ``heard`` with every event from now on; it must not block."""
        self._taps.append(heard)

    def close(self) -> None:
        self.log.close()
