"""What a monitor holds of its container's log: streams in, batches out, and what waits between.

A driver takes a batch of entries or part of it and never blocks. What becomes of the rest is
decided here, and told in docs/logs.md: with ``blocking`` the container waits (``is_full``), for at
most ``PATIENCE``, then what is not taken at once is dropped and counted until the log works again;
without, the rest waits in a buffer of ``limit`` bytes, and what does not fit is dropped.

The state, by what is set:

    flowing   nothing waits
    waiting   ``_queue``, since ``_since``
    losing    ``_losing``, nothing waits
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sampan.runtime.supervisor.logs.text import Splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from sampan.runtime.supervisor.logs.files import RotatedFile
    from sampan.runtime.supervisor.loop import Loop, Timer

    class Driver(Protocol):
        """Where entries go. A batch is of a type of the driver's own."""

        @property
        def problem(self) -> str:
            """Why a batch was not taken."""

        def encode(self, stream: str, parts: Sequence[bytes], now: int) -> Any:
            """A batch of what a ``Splitter`` gave; ``now`` in nanoseconds since the epoch."""

        def put(self, batch: Any) -> Any:
            """Take what can be taken now; returns the rest, empty when it is all."""

        def size(self, batch: Any) -> int: ...

        def count(self, batch: Any) -> int:
            """How many entries."""

        def split(self, batch: Any, room: int) -> Any:
            """As many whole entries as fit into ``room`` bytes."""

        def waits_for(self) -> tuple[int, int] | None:
            """A descriptor and the epoll events on it that promise room; None: time."""

        def descriptors(self) -> dict[str, int]:
            """What a monitor needs to go on with the log, by name."""

        def close(self) -> None: ...


__all__ = ["LAST_PATIENCE", "PATIENCE", "RETRY", "Log"]

PATIENCE = 60.0
"""Seconds that a container waits for a log that takes nothing."""
LAST_PATIENCE = 10.0
"""Seconds that its end waits for the last lines to leave."""
RETRY = 0.5
"""Seconds between two attempts, where no descriptor tells of room."""
BUFFER = 1024 * 1024
EXCESS = 1024 * 1024
"""Bytes by which a file that is pinned may outgrow its size."""
STREAMS = ("stdout", "stderr")


class Log:
    """See the module's text. ``dropped`` counts the entries that were lost."""

    __slots__ = (
        "_blocking",
        "_driver",
        "_file",
        "_limit",
        "_loop",
        "_losing",
        "_on_change",
        "_on_loss",
        "_pins",
        "_queue",
        "_since",
        "_size",
        "_streams",
        "_timer",
        "_watched",
        "dropped",
    )

    def __init__(
        self,
        driver: Driver,
        *,
        blocking: bool = True,
        limit: int = BUFFER,
        file: RotatedFile | None = None,
    ) -> None:
        """``file``: what the driver writes, where that can be read."""
        self._driver = driver
        self._file = file
        self._pins = 0
        self._blocking = blocking
        self._limit = limit
        self._streams = {name: Splitter() for name in STREAMS}
        self._queue: deque[Any] = deque()
        self._size = 0
        self._since = 0.0
        self._losing = False
        self._loop: Loop | None = None
        self._on_change: Callable[[], None] = _nothing
        self._on_loss: Callable[[str], None] = _nothing_said
        self._timer: Timer | None = None
        self._watched = -1
        self.dropped = 0

    def attend(
        self, loop: Loop, on_change: Callable[[], None], on_loss: Callable[[str], None]
    ) -> None:
        """Wait in ``loop`` from now on: ``on_change`` is called when ``is_full`` may have changed,
        ``on_loss`` with the reason when entries begin to be lost."""
        self._loop = loop
        self._on_change = on_change
        self._on_loss = on_loss

    @property
    def is_full(self) -> bool:
        """Whether the container is to wait."""
        if self._blocking and self._queue:
            return True
        return self._file is not None and self._file.excess > EXCESS

    @property
    def is_behind(self) -> bool:
        """Whether entries wait that are not written yet."""
        return bool(self._queue)

    def write(self, stream: str, data: bytes) -> None:
        """Log output as it was read from ``stream`` (``stdout`` or ``stderr``)."""
        parts = self._streams[stream].feed(data)
        if parts:
            self._put(self._driver.encode(stream, parts, time.time_ns()))

    def finish(self, stream: str) -> None:
        """The stream ended: log what has no line feed."""
        parts = self._streams[stream].finish()
        if parts:
            self._put(self._driver.encode(stream, parts, time.time_ns()))

    def unfinished(self, stream: str) -> bytes:
        """What was read from ``stream`` and is no line yet."""
        return self._streams[stream].unfinished

    @property
    def is_idle(self) -> bool:
        """Whether another process could go on with it from what ``rest`` returns."""
        busy = bool(self._queue) or self._losing or self._timer is not None or self._pins > 0
        return not busy and (self._file is None or self._file.is_idle)

    def rest(self) -> dict[str, Any]:
        """What is to be known of it beside its descriptors."""
        return {
            "dropped": self.dropped,
            "begun": {name: splitter.unfinished for name, splitter in self._streams.items()},
        }

    def go_on(self, rest: dict[str, Any]) -> None:
        """Be what was at ``rest``."""
        self.dropped = rest["dropped"]
        for name, begun in rest["begun"].items():
            self._streams[name].feed(begun)

    def descriptors(self) -> dict[str, int]:
        """What is needed to go on with it, by the driver's names."""
        return self._driver.descriptors()

    def pin(self) -> tuple[int, int, int] | None:
        """Device, inode and size of the file that is written, which goes on to be that one until
        ``unpin``; None where there is no file. Not while the log ``is_behind``."""
        if self._file is None:
            return None
        self._pins += 1
        self._file.is_pinned = True
        status = os.fstat(self._file.fileno())
        return status.st_dev, status.st_ino, status.st_size

    def unpin(self) -> None:
        """Once for each ``pin``."""
        if self._file is not None:
            self._pins -= 1
            self._file.is_pinned = self._pins > 0

    def _put(self, batch: Any) -> None:
        if not self._queue:
            batch = self._driver.put(batch)
            if not batch:
                self._losing = False
                return
            if self._losing:
                self.dropped += self._driver.count(batch)
                return
            self._since = time.monotonic()
        if not self._blocking:
            batch = self._fitting(batch)
            if not batch:
                return
        self._queue.append(batch)
        self._size += self._driver.size(batch)
        self._watch()

    def _fitting(self, batch: Any) -> Any:
        """What of a batch still has a place in the buffer."""
        driver = self._driver
        room = self._limit - self._size
        if driver.size(batch) <= room:
            return batch
        kept = driver.split(batch, room)
        lost = driver.count(batch) - driver.count(kept)
        if not self.dropped:
            self._on_loss(f"its buffer of {self._limit} bytes is full: {driver.problem}")
        self.dropped += lost
        return kept

    def _flush(self) -> bool:
        """Give the driver what waits; whether it took all."""
        driver, queue = self._driver, self._queue
        while queue:
            batch = queue.popleft()
            size = driver.size(batch)
            rest = driver.put(batch)
            if rest:
                queue.appendleft(rest)
                left = driver.size(rest)
                self._size -= size - left
                if left < size:
                    self._since = time.monotonic()
                return False
            self._size -= size
            self._since = time.monotonic()
        return True

    def _retry(self) -> None:
        self._forget()  # A driver may have another descriptor afterwards.
        if not self._flush():
            if not self._blocking or time.monotonic() - self._since < PATIENCE:
                self._watch()
                return
            self._lose()
        self._on_change()

    def _lose(self) -> None:
        """Nothing was taken for too long."""
        self._losing = True
        self.dropped += sum(self._driver.count(batch) for batch in self._queue)
        self._queue.clear()
        self._size = 0
        self._on_loss(f"it took nothing for {PATIENCE:.0f} s: {self._driver.problem}")

    # Waiting

    def _watch(self) -> None:
        """Have ``_retry`` called when it is worth while: at room, and in any case after a time."""
        loop = self._loop
        if loop is None:
            return
        if self._timer is not None:
            return
        self._timer = loop.call_later(RETRY, self._retry)
        wanted = self._driver.waits_for()
        if wanted is not None:
            self._watched = wanted[0]
            loop.watch(wanted[0], wanted[1], lambda _: self._retry())

    def _forget(self) -> None:
        if self._timer is not None and self._loop is not None:
            self._loop.cancel(self._timer)
            if self._watched >= 0:
                self._loop.forget(self._watched)
        self._timer = None
        self._watched = -1

    # The end

    def close(self) -> None:
        """Log what has no line feed, wait a while for what waits, and close."""
        for stream in STREAMS:
            self.finish(stream)
        self._forget()
        deadline = time.monotonic() + LAST_PATIENCE
        while not self._flush():
            left = deadline - time.monotonic()
            if left <= 0 or self._losing:
                self.dropped += sum(self._driver.count(batch) for batch in self._queue)
                self._queue.clear()
                break
            self._sleep(min(left, RETRY))
        self._driver.close()

    def _sleep(self, seconds: float) -> None:
        poller = select.poll()
        wanted = self._driver.waits_for()
        if wanted is not None:
            poller.register(*wanted)
        poller.poll(seconds * 1000)


def _nothing() -> None:
    """Before there is a loop nobody waits for room."""


def _nothing_said(_: str) -> None:
    """Before there is a loop nobody listens."""
