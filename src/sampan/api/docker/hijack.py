"""Taking a connection over from HTTP: attach and exec.

The answer is 101 for a client that asked for an upgrade, else a 200 without an end. Then the
connection's own descriptor goes to the container's monitor, and this process is out of the way:
the stream survives the daemon, half-closes included. Only bytes that came with the request itself
need a hand: they, and what follows them, are pumped through a pair of sockets.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from sampan.api.http.messages import Taken
from sampan.engine.beside import beside

if TYPE_CHECKING:
    from sampan.api.docker.context import Context

__all__ = ["Hijack"]

_MOST_UNREAD = 16 * 1024 * 1024


class Hijack:
    """One connection. ``take`` gives its descriptor, ``write`` is for our own words."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pump: asyncio.Task[None] | None = None

    async def take(self, media_type: str) -> int:
        """Answer, and return a descriptor of the stream, which the caller owns.

        Raises ConnectionResetError when the client is gone.
        """
        request = self._context.request
        sock, rest = await request.connection.take_over(request, "tcp", media_type)
        if not rest:
            return sock.detach()
        ours, theirs = socket.socketpair()
        theirs.setblocking(True)
        self._pump = asyncio.get_running_loop().create_task(_pump(sock, ours, rest))
        return theirs.detach()

    def write(self, data: bytes) -> None:
        """Send to the client, before or instead of a monitor."""
        transport = self._context.connection.transport
        if transport is not None:
            transport.write(data)

    async def response(self) -> Taken:
        """What the handler returns when it is done; our end of the connection closes."""
        if self._pump is not None:
            await self._pump
        await self._context.connection.released()
        return Taken()


async def _copy(source: socket.socket, target: socket.socket, first: bytes = b"") -> None:
    """Copy to the end, then close the target's receiving half."""
    loop = asyncio.get_running_loop()
    data = first
    try:
        while True:
            if data:
                await loop.sock_sendall(target, data)
            data = await loop.sock_recv(source, 65536)
            if not data:
                break
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side is gone; the other direction sees it too


def _empty(sock: socket.socket) -> None:
    """Take what a client sends to nobody: unread, it would make the close a reset."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
        left = _MOST_UNREAD
        while left > 0 and (data := sock.recv(65536)):
            left -= len(data)
    except OSError:
        return  # there is nothing more, or the client is gone


async def _pump(client: socket.socket, monitor: socket.socket, first: bytes) -> None:
    for sock in (client, monitor):
        sock.setblocking(False)
    with client, monitor:
        try:
            async with beside(_copy(client, monitor, first)):
                await _copy(monitor, client)
        finally:
            _empty(client)
