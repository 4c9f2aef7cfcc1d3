"""An answer whose body comes piece by piece: chunked (RFC 9112, 7.1), or of a given length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.http.messages import Response, Taken

if TYPE_CHECKING:
    from sampan.api.http.connection import Connection

__all__ = ["Answer", "Stream"]


class Stream:
    """The body of an answer, piece by piece."""

    __slots__ = ("_chunked", "_connection", "_last", "_silent", "status")

    def __init__(
        self, connection: Connection, chunked: bool, silent: bool, status: int = 200
    ) -> None:
        self.status = status
        self._connection = connection
        self._chunked = chunked
        self._silent = silent
        self._last = b""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client is behind. Raises ConnectionResetError."""
        transport = self._connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        if not data or self._silent:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(data)
        await self._connection.drain()

    def last(self, data: bytes) -> Stream:
        """The last piece, which goes out with the body's end."""
        self._last = data
        return self

    def finish(self) -> None:
        """The body is complete."""
        transport = self._connection.transport
        if transport is None or self._silent:
            return
        data = self._last
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            transport.write(data)


Answer = Response | Stream | Taken
"""What a handler returns."""
