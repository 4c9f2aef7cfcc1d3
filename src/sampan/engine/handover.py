"""Bytes between the event loop and a thread that reads or writes them as with a file.

No pipe between: what came is handed over as it is. What waits for the other side is bounded, so a
client sends no faster than its archive is taken apart, and one is made no faster than it is read.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Inlet", "Outlet"]

_HIGH = 4 << 20


class Inlet:
    """The loop's side is ``fill``, the thread's ``read`` and ``close``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._closed = False
        self._news = threading.Condition()
        self._room = asyncio.Event()

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Hand over chunks until they end, or nobody reads any more.

        If that fails the thread does not take what it was given for all there is: it fails too.
        """
        broken = True
        try:
            async for chunk in chunks:
                with self._news:
                    if self._closed:
                        return
                    self._chunks.append(chunk)
                    self._size += len(chunk)
                    full = self._size > _HIGH
                    self._news.notify()
                if full:
                    await self._wait()
            broken = False
        finally:
            with self._news:
                self._ended, self._broken = True, broken
                self._news.notify()

    async def _wait(self) -> None:
        while True:
            self._room.clear()
            with self._news:
                if self._size <= _HIGH or self._closed:
                    return
            await self._room.wait()

    def read(self, count: int, /) -> bytes:
        """Up to ``count`` bytes, all that is there; waits for the first. Nothing at the end.

        Raises SampanError where who sends broke off.
        """
        with self._news:
            while not self._chunks and not self._ended:
                self._news.wait()
            if self._broken:
                raise SampanError("the archive was cut short by who sent it")
            taken: list[bytes] = []
            size = 0
            while self._chunks and size < count:
                chunk = self._chunks.popleft()
                if size + len(chunk) > count:
                    cut = count - size
                    self._chunks.appendleft(chunk[cut:])
                    chunk = chunk[:cut]
                taken.append(chunk)
                size += len(chunk)
            was_full = self._size > _HIGH
            self._size -= size
            has_room = was_full and self._size <= _HIGH
        if has_room:
            self._loop.call_soon_threadsafe(self._room.set)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def close(self) -> None:
        """Nobody reads any more: what comes is of no interest."""
        with self._news:
            self._closed = True
            self._chunks.clear()
            self._size = 0
        self._loop.call_soon_threadsafe(self._room.set)


class Outlet:
    """The thread's side is ``write`` and ``end``, the loop's ``chunks`` and ``close``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._closed = False
        self._room = threading.Condition()
        self._news = asyncio.Event()

    def write(self, data: bytes, /) -> int:
        """Hand over; waits while too much is waiting. Raises BrokenPipeError when nobody reads."""
        if not data:
            return 0
        with self._room:
            while self._size > _HIGH and not self._closed:
                self._room.wait()
            if self._closed:
                raise BrokenPipeError("the client is gone")
            first = not self._chunks
            self._chunks.append(data)
            self._size += len(data)
        if first:
            self._loop.call_soon_threadsafe(self._news.set)
        return len(data)

    def end(self) -> None:
        """Nothing more comes."""
        with self._room:
            self._ended = True
        self._loop.call_soon_threadsafe(self._news.set)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is written, to its end."""
        while True:
            with self._room:
                chunk = self._chunks.popleft() if self._chunks else b""
                full = self._size > _HIGH
                self._size -= len(chunk)
                if full and self._size <= _HIGH:
                    self._room.notify()
                over = self._ended and not chunk
                if not chunk:
                    self._news.clear()
            if chunk:
                yield chunk
            elif over:
                return
            else:
                await self._news.wait()

    def close(self) -> None:
        """Nobody reads any more: the thread's next write fails."""
        with self._room:
            self._closed = True
            self._chunks.clear()
            self._room.notify()
