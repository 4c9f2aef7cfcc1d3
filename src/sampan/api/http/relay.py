"""The way between a connection whose bytes are not its socket's (TLS) and a plain socket.

Who takes a connection over from HTTP wants a descriptor of the stream to hand to another process.
Of a TLS connection there is none, so it gets one end of a socket pair, and this process stays in
between: the stream ends with us.

Each side waits for the other: what one cannot take yet is not read from the other. The client's
half-close goes on to the socket; the socket's end is the whole stream's, as with a plain one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.api.http.connection import Connection

__all__ = ["relay"]


class _Side(asyncio.Protocol):
    """What comes in here goes out at ``other``."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.own: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.own = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def pause_writing(self) -> None:
        """Here nothing more goes out: nothing more may come in there."""
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()
        if not self.ended.done():
            self.ended.set_result(None)


class _Client(_Side):
    """The connection's side; HTTP's own protocol still wants to know of its end."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def eof_received(self) -> bool:
        if self.other is not None and not self.other.is_closing():
            self.other.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.connection_lost(exc)


class _Socket(_Side):
    def eof_received(self) -> bool:
        return False  # and the transport closes, which ends the client's side


async def relay(
    connection: Connection, transport: asyncio.Transport, first: bytes
) -> tuple[socket.socket, asyncio.Future[None]]:
    """A socket that is the stream of ``transport``, and a future of its end.

    ``first`` are bytes that the client has sent already. The caller owns the socket. Raises
    ConnectionResetError when the client is gone.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    outer, inner = _Client(connection), _Socket()
    inner.other = transport
    await loop.connect_accepted_socket(lambda: inner, ours)
    if connection.transport is None:
        # Its end was told already, and will not be told again.
        assert inner.own is not None
        inner.own.abort()
        theirs.close()
        raise ConnectionResetError("the client is gone")
    outer.own, outer.other = transport, inner.own
    transport.set_protocol(outer)
    outer.data_received(first)
    transport.resume_reading()
    return theirs, outer.ended
