"""The daemon's end of a carrier: started when somebody needs it, let go when nobody did for long.

``Carriers`` owns one carrier at a time. A carrier that dies takes its requests with it, each told
so; the next request starts another. Leaving a request cancels it in the carrier.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sampan.errors import Unavailable, by_name
from sampan.kernel.companions import start_companion
from sampan.kernel.processes import pidfd_send_signal
from sampan.registry.carrier import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sampan.registry.carrier.messages import Event, Request

__all__ = ["Carriers"]

E = TypeVar("E")

IDLE_SECONDS = 30.0
_END_SECONDS = 5.0


class _Carrier:
    """A running one."""

    def __init__(
        self, pidfd: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pidfd = pidfd
        self._writer = writer
        self._queues: dict[int, asyncio.Queue[Event | None]] = {}
        self._numbers = itertools.count(1)
        self.lost = False
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    @property
    def busy(self) -> bool:
        return bool(self._queues)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (data := await messages.read_frame(reader)) is not None:
                event = messages.decode_event(data)
                queue = self._queues.get(event.number)
                if queue is not None:
                    queue.put_nowait(event)
        finally:
            self.lost = True
            for queue in self._queues.values():
                queue.put_nowait(None)

    @asynccontextmanager
    async def request(self, request: Request) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """What is said about a request; leaving it before its end cancels it."""
        numbered = msgspec.structs.replace(request, number=next(self._numbers))
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[numbered.number] = queue
        self._writer.write(messages.encode(numbered))
        try:
            yield queue
        except BaseException:
            self._writer.write(messages.encode(messages.Cancel(number=numbered.number)))
            raise
        finally:
            del self._queues[numbered.number]

    async def close(self) -> None:
        """Let it end; kill it where it does not."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        self._writer.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await ended.wait()
        except TimeoutError:
            pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._reading.cancel()


async def _start(content: str) -> _Carrier:
    program = "sampan.registry.carrier"
    ours, pidfd = start_companion(program, socket.SOCK_STREAM, os.environ, content)
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    return _Carrier(pidfd, reader, writer)


class Carriers:
    """``content`` is the blob store's directory. ``close`` at the end."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._carrier: _Carrier | None = None
        self._starting = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def ask(
        self, request: Request, kind: type[E], heard: Callable[[Event], None] | None = None
    ) -> E:
        """The answer to a request, of the kind it is; ``heard`` gets what is said before it.

        Raises the error the carrier met, Unavailable when it died.
        """
        carrier = await self._ready()
        try:
            async with carrier.request(request) as queue:
                while True:
                    event = await queue.get()
                    if isinstance(event, kind):
                        return event
                    if isinstance(event, messages.Failed):
                        raise by_name(event.kind, event.message)
                    if event is None:
                        raise Unavailable(
                            "the process that moves images over the network ended in the middle; "
                            "see the daemon's log"
                        )
                    if heard is not None:
                        heard(event)
        finally:
            self._rest()

    async def _ready(self) -> _Carrier:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        async with self._starting:
            if self._carrier is not None and self._carrier.lost:
                self._let_go()
            if self._carrier is None:
                self._carrier = await _start(self._content)
            return self._carrier

    def _rest(self) -> None:
        """Let the carrier go some time after its last request."""
        if self._carrier is not None and not self._carrier.busy and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._idle = None
        if self._carrier is not None and not self._carrier.busy:
            self._let_go()

    def _let_go(self) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            task = asyncio.get_running_loop().create_task(carrier.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the carrier; requests under way are told that it is gone."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._let_go()
        await asyncio.gather(*self._ending)
