"""Our HTTP server alone, for tests: a real socket, no engine, and a peer that sends anything."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from sampan.api.http.local import LocalTransport
from sampan.api.http.messages import Request, Response
from sampan.api.http.server import Limits, Server
from sampan.api.http.stream import Answer

__all__ = ["CHUNKED", "GET", "Handler", "P", "PLAIN", "Peer", "Site", "echo", "looped", "site"]

Handler = Callable[[Request], Response | Awaitable[Answer]]
PLAIN = "text/plain"
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
P = ParamSpec("P")


def looped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on an event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Peer:
    """A client by hand, on its end of a pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to ``mark``, with it."""
        while mark not in self.buffer:
            data = await self.loop.sock_recv(self.sock, 65536)
            assert data, f"closed after {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of an answer that has a length."""
        head = await self.until(b"\r\n\r\n")
        status = int(head.split()[1])
        length = head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]
        size = int(length or 0)
        while len(self.buffer) < size:
            data = await self.loop.sock_recv(self.sock, 65536)
            assert data
            self.buffer += data
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return status, body

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        while data := await self.loop.sock_recv(self.sock, 65536):
            self.buffer += data
        return self.buffer


class Site:
    """A server and its peers; ``reports`` are the handlers' bugs."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.reports: list[BaseException] = []
        self.server = Server(
            handler,
            lambda error: Response(
                error.status, json.dumps({"message": error.message}).encode(), "application/json"
            ),
            self.reports.append,
            fields={"Server": "test"},
            limits=limits,
        )
        self.socks: list[socket.socket] = []

    async def peer(self) -> Peer:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.socks.append(ours)
        LocalTransport(asyncio.get_running_loop(), theirs, self.server()).begin()
        return Peer(ours)


@asynccontextmanager
async def site(handler: Handler, **limits: Any) -> AsyncIterator[Site]:
    one = Site(handler, Limits()._replace(**limits))
    try:
        async with asyncio.timeout(60):
            yield one
    finally:
        await one.server.shutdown(0.5)
        for sock in one.socks:
            sock.close()


async def echo(request: Request) -> Answer:
    """Method, path, first query value ``q`` and the body."""
    body = await request.body.read(1 << 20)
    words = f"{request.method} {request.path} {request.query.get('q')} ".encode()
    return Response(200, words + body, PLAIN)
