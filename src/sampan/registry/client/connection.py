"""One HTTP/1.1 connection of a client: one exchange at a time (RFC 9112).

llhttp (httptools) takes heads and chunks apart; what it does not know is held here: that an answer
to HEAD has no body, that 1xx is not the answer, how long a head may be, and that a body without a
length ends with the connection. What has come and was not read yet is bounded: above the high mark
the socket is not read.

A server is a stranger: a head of more than 64 KiB, bytes nobody asked for, or anything that is not
HTTP ends the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import httptools

from sampan.registry.client.errors import NotHttp, Transient

if TYPE_CHECKING:
    from sampan.errors import SampanError

__all__ = ["Connection", "Head"]

_HEAD_LIMIT = 64 * 1024
_HIGH = 1 << 20
_LOW = 1 << 18


class Head(NamedTuple):
    """Status line and fields; names are lower-case, a repeated field's values are joined."""

    status: int
    reason: str
    fields: dict[str, str]


class _Parser:
    """What llhttp reports, one answer long."""

    def __init__(self, connection: Connection, bodiless: bool) -> None:
        self._connection = connection
        self._bodiless = bodiless
        self._fields: dict[str, str] = {}
        self._reason = b""
        self.feed = httptools.HttpResponseParser(self)
        self.headed = False
        self.done = False

    # httptools' protocol

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:
            return  # trailers say nothing we act on
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        self._fields[key] = f"{self._fields[key]}, {text}" if key in self._fields else text

    def on_headers_complete(self) -> None:
        status = self.feed.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._fields, self._reason = {}, b""
            return
        self.headed = True
        self._connection.head_came(Head(status, self._reason.decode("latin-1"), self._fields))
        if self._bodiless:
            self.done = True
            self._connection.body_came(b"", last=True)

    def on_body(self, data: bytes) -> None:
        if not self.done:
            self._connection.body_came(data)

    def on_message_complete(self) -> None:
        if self.headed and not self.done:
            self.done = True
            self._connection.body_came(b"", last=True)

    @property
    def until_close(self) -> bool:
        """Whether only the connection's end tells the body's."""
        return self.headed and not {"content-length", "transfer-encoding"} & self._fields.keys()


class Connection(asyncio.Protocol):
    """See the module's text. ``where`` names the other end in errors."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._parser: _Parser | None = None
        self._fed = 0
        self._head: asyncio.Future[Head] | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._last = False
        self._error: SampanError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._keep = False

    @property
    def reusable(self) -> bool:
        """Nothing is under way, and the other end agreed to go on."""
        return (
            self.transport is not None
            and not self.transport.is_closing()
            and self._parser is None
            and self._error is None
        )

    # -- what the event loop reports -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or parser.done:
            self._fail(NotHttp(f"{self.where} sent what nobody asked for"))
            return
        self._fed += len(data)
        try:
            parser.feed.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not parser.done:  # a HEAD's answer may be followed by what llhttp takes for a body
                self._fail(NotHttp(f"{self.where} does not speak HTTP: {error}"))
        if not parser.headed and self._fed > _HEAD_LIMIT:
            self._fail(
                NotHttp(f"{self.where} answers with a head of more than {_HEAD_LIMIT} bytes")
            )
        if self._waiting > _HIGH and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        parser = self._parser
        if parser is not None and parser.until_close and exc is None and self._error is None:
            parser.done = True
            self.body_came(b"", last=True)
        else:
            reason = f": {exc}" if exc is not None and str(exc) else ""
            self._fail(Transient(f"{self.where} closed the connection{reason}"))
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- what the parser reports ---------------------------------------------------------------

    def head_came(self, head: Head) -> None:
        assert self._parser is not None
        if head.status == 101:
            self._fail(NotHttp(f"{self.where} switched to another protocol unasked"))
        closing = head.fields.get("connection", "").lower() == "close"
        self._keep = not closing and self._parser.feed.get_http_version() == "1.1"
        if self._head is not None and not self._head.done():
            self._head.set_result(head)

    def body_came(self, data: bytes, *, last: bool = False) -> None:
        if data:
            self._pieces.append(data)
            self._waiting += len(data)
        self._last = self._last or last
        self._wake()

    def _fail(self, error: SampanError) -> None:
        if self._error is None:
            self._error = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(self._error)
        self._wake()
        if self.transport is not None:
            self.transport.abort()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # -- an exchange ---------------------------------------------------------------------------

    def begin(self, method: str) -> asyncio.Future[Head]:
        """Expect an answer; the future is its head."""
        assert self._parser is None
        self._parser = _Parser(self, method in ("HEAD", "CONNECT"))
        self._fed = 0
        self._pieces.clear()
        self._waiting = 0
        self._last = False
        self._head = self._loop.create_future()
        if self.transport is None:
            self._fail(Transient(f"{self.where} closed the connection"))
        return self._head

    async def write(self, data: bytes | memoryview) -> None:
        """Send, and wait while the other end is behind. Raises Transient."""
        if self.transport is None or self.transport.is_closing():
            raise self._error or Transient(f"{self.where} closed the connection")
        self.transport.write(data)
        if self._writable is not None:
            await asyncio.shield(self._writable)

    async def read(self) -> bytes:
        """The next piece of the body as it came; nothing at its end. Raises Transient, NotHttp."""
        while not self._pieces:
            if self._last:
                return b""
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._waiting < _LOW and self.transport is not None:
            self.transport.resume_reading()
        return piece

    def finish(self) -> None:
        """The answer was read whole: what comes next is another exchange."""
        done = self._parser is not None and self._parser.done and not self._pieces
        self._parser = None
        if not (done and self._keep):
            self.close()

    def stop_reuse(self) -> None:
        """Our request was cut short: the other end cannot know where the next begins."""
        self._keep = False

    def close(self) -> None:
        """Now; nothing that is under way is of interest."""
        if self.transport is not None:
            self.transport.abort()
