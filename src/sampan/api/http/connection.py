"""One connection: the state machine between a socket and a handler.

    HEAD ── a head is complete ──► BODY ── its last byte ──► BUSY ── the answer is out ──► HEAD
                                     │                         │
                                     └── the answer is out ──► DRAIN ── the body's end ──► HEAD
    any ── an error, Connection: close, the client's end ──► CLOSING
    BODY, BUSY ── take_over ──► TAKEN

Requests are handled one at a time, so answers stand in the requests' order; what a client sends
ahead waits, in bounded memory. A handler learns that the client is gone by ``lost``, which is also
done when the client has ended its half of the connection: one that still listens gets the answer
of a handler that does not look (as with Go's server, where such a request's context ends).
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from sampan.api.http.body import Body
from sampan.api.http.head import read_head
from sampan.api.http.messages import REASONS, HttpError, Response
from sampan.api.http.stream import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Mapping

    from sampan.api.http.framing import Framing
    from sampan.api.http.messages import Request
    from sampan.api.http.server import Server
    from sampan.api.http.stream import Answer

__all__ = ["Connection"]

_HEAD, _BODY, _BUSY, _DRAIN, _TAKEN, _CLOSING = range(6)
_END = re.compile(rb"\n\r?\n")
_BODILESS = (204, 304)


class Connection(asyncio.Protocol):
    """See the module's text. ``transport`` is None when the connection is over."""

    __slots__ = (
        "_ahead",
        "_body",
        "_ended",
        "_framing",
        "_idling",
        "_loop",
        "_relayed",
        "_request",
        "_scanned",
        "_server",
        "_stalled",
        "_state",
        "_stream",
        "_timer",
        "_writable",
        "lost",
        "transport",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._state = _HEAD
        self._ahead = b""
        self._scanned = 0
        self._ended = False
        self._stalled = False
        self._idling = False
        self._request: Request | None = None
        self._framing: Framing | None = None
        self._body: Body | None = None
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._relayed: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = loop.create_future()

    @property
    def idle(self) -> bool:
        """No request is being handled."""
        return self._request is None

    @property
    def answering(self) -> bool:
        """A stream has begun, or the connection was taken over."""
        return self._stream is not None or self._state == _TAKEN

    # -- what the event loop reports ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections.add(self)
        self._set_timer(self._server.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSING
        self.transport = None
        self._server.connections.discard(self)
        self._clear_timer()
        self._gone()
        self.resume_writing()

    def _gone(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._body is not None:
            self._body.fail(ConnectionResetError("the client is gone"))

    def eof_received(self) -> bool:
        self._ended = True
        self._gone()
        # What was asked before is still answered.
        return self._request is not None and self._state != _DRAIN

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        if self._stalled:
            self._stalled = False
            self._loop.call_soon(self._next)

    def data_received(self, data: bytes) -> None:
        if self._state == _CLOSING:
            return  # read so that the client can read our last words before a reset
        if self._ahead:
            data, self._ahead = self._ahead + data, b""
        self._advance(data)

    # -- requests ----------------------------------------------------------------------------------

    def _advance(self, data: bytes) -> None:
        try:
            fresh = None
            if self._state == _HEAD:
                data = self._read_head(data)
                fresh = self._request
            if self._framing is not None:
                data = self._read_body(self._framing, data)
        except HttpError as error:
            self._refuse(error)
            return
        self._ahead = data
        if fresh is not None:
            self._begin(fresh)
        self._flow()

    def _read_head(self, data: bytes) -> bytes:
        """Begin a request if its head is there; returns what is not used."""
        if data.startswith((b"\r", b"\n")):
            data = data.lstrip(b"\r\n")
        if data and not data[:1].isalpha():
            # TLS, most of all: such a client waits for an answer, and would for long.
            raise HttpError(400, "malformed request: it does not begin with a method")
        limit = self._server.limits.head
        found = _END.search(data, max(0, self._scanned - 2))
        if (found.end() if found else len(data)) > limit:
            raise HttpError(431, f"the request's head is larger than {limit} bytes")
        if found is None:
            self._scanned = len(data)
            if data and (self._timer is None or self._idling):
                self._clear_timer()
                self._set_timer(self._server.limits.head_seconds)
            return data
        self._clear_timer()
        self._scanned = 0
        request, self._framing = read_head(data[: found.end()])
        request.body = self._body = Body(self._flow, self._ask)
        request.connection = self
        self._request = request
        self._state = _BODY
        if self._framing is None:
            self._body.end()
            self._state = _BUSY
        return data[found.end() :]

    def _begin(self, request: Request) -> None:
        """Answer at once, if the handler does, or let it work."""
        answer = self._server.ask(self, request)
        if isinstance(answer, Response) and not self._ahead:
            self._send(request, answer)
            self._answered()
        elif answer is not None:
            # Also when the next request is here already: each in its own turn of the loop.
            self._server.run(self, self._serve(request, answer))

    def _read_body(self, framing: Framing, data: bytes) -> bytes:
        assert self._body is not None
        if self._state == _DRAIN:
            rest = framing.feed(data, len)
        else:
            try:
                rest = framing.feed(data, self._body.feed)
            except HttpError as error:
                # The handler decides what becomes of what it has read.
                self._body.fail(error)
                self._framing = None
                assert self._request is not None
                self._request.keep_alive = False
                return b""
        if framing.done:
            self._framing = None
            self._body.end()
            if self._state == _DRAIN:
                self._clear_timer()
                self._loop.call_soon(self._next)
            else:
                self._state = _BUSY
        return rest

    def _flow(self) -> None:
        """Read from the client, or let it wait."""
        if self.transport is None:
            return
        if self._state == _BODY:
            wait = self._body is not None and self._body.full
        elif self._state == _BUSY:
            upgrade = self._request is not None and self._request.upgrade != ""
            wait = upgrade or len(self._ahead) > self._server.limits.head
        else:
            wait = self._state == _TAKEN
        if wait:
            self.transport.pause_reading()
        elif not self._ended:
            self.transport.resume_reading()

    def _ask(self) -> None:
        """Send 100 if the client holds its body back until then."""
        request = self._request
        if request is not None and request.expects and self.transport is not None:
            request.expects = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _serve(self, request: Request, given: Response | Awaitable[Answer]) -> None:
        answer = given if isinstance(given, Response) else await given
        if self._state == _TAKEN:
            self.close()
        elif self.transport is None:
            return
        elif self._stream is not None:
            if answer is not self._stream:
                # It failed midway: a cut connection is the only way left to say so.
                self.abort()
                return
            self._stream.finish()
            self._answered()
        elif isinstance(answer, Response):
            self._send(request, answer)
            self._answered()

    def crashed(self) -> None:
        """The handler did not return."""
        if self._stream is not None or self._state in (_TAKEN, _CLOSING):
            self.abort()
        else:
            self._refuse(HttpError(500, "internal error: see the daemon's log"))

    def _answered(self) -> None:
        request, self._request, self._stream = self._request, None, None
        assert request is not None
        if self._state == _BODY:
            assert self._body is not None
            self._body.drop()
        if self._server.stopping or not request.keep_alive:
            self._linger() if self._framing is not None else self.close()
        elif self._framing is not None:
            # Its end may be near: then the connection can go on.
            self._state = _DRAIN
            self._set_timer(self._server.limits.drain_seconds)
            self._flow()
        else:
            self._next()

    def _next(self) -> None:
        """On to the next request."""
        if self._state == _CLOSING:
            return
        if self._writable is not None:
            # It has not taken the last answer: who asks ahead and never reads costs one, not all.
            self._stalled = True
            if self.transport is not None:
                self.transport.pause_reading()
            return
        self._state, self._body = _HEAD, None
        data, self._ahead = self._ahead, b""
        if data:
            self._advance(data)
        if self._ended and self._request is None:
            self.close()
            return
        idle = self._server.limits.idle_seconds
        if idle is not None and self._request is None and self._timer is None:
            self._set_timer(idle)
            self._idling = True
        self._flow()

    # -- answers -----------------------------------------------------------------------------------

    def _header(self, request: Request | None, status: int, headers: Mapping[str, str]) -> str:
        """Status line and fields, without those of the body's length."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(self._server.fields())
        if request is None or not request.keep_alive:
            lines.append("Connection: close")
        elif request.version == (1, 0):
            lines.append("Connection: keep-alive")
        return "\r\n".join(lines)

    def _send(self, request: Request | None, response: Response) -> None:
        if self.transport is None:
            return
        if request is not None and (request.expects or self._server.stopping):
            request.keep_alive = False  # nobody knows whether the body will follow
        head = self._header(request, response.status, response.headers)
        body = response.body
        if response.status in _BODILESS:
            self.transport.write(f"{head}\r\n\r\n".encode("latin-1", "replace"))
            return
        data = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1", "replace")
        if request is not None and request.method == "HEAD":
            body = b""
        self.transport.write(data + body)

    def stream(
        self, request: Request, media_type: str, headers: Mapping[str, str] | None = None
    ) -> Stream:
        """Begin an answer whose body comes piece by piece; its head is sent now.

        Raises ConnectionResetError when the client is gone.
        """
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        chunked = request.version == (1, 1)
        if not chunked or request.expects:
            request.keep_alive = False
        head = self._header(request, 200, {"Content-Type": media_type, **(headers or {})})
        if chunked:
            head += "\r\nTransfer-Encoding: chunked"
        self.transport.write(f"{head}\r\n\r\n".encode("latin-1", "replace"))
        self._stream = Stream(self, chunked, request.method == "HEAD")
        return self._stream

    def begin(
        self, request: Request, status: int, headers: Mapping[str, str], length: int
    ) -> Stream:
        """Begin an answer of ``length`` bytes, which the caller sends; its head is sent now.

        Raises ConnectionResetError when the client is gone.
        """
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        if request.expects or self._server.stopping:
            request.keep_alive = False
        head = f"{self._header(request, status, headers)}\r\nContent-Length: {length}\r\n\r\n"
        self.transport.write(head.encode("latin-1", "replace"))
        self._stream = Stream(self, False, request.method == "HEAD", status)
        return self._stream

    async def drain(self) -> None:
        """Wait while the client has too much to read. Raises ConnectionResetError."""
        if self._writable is not None:
            # Shielded by being nobody's own: more than one may wait.
            await asyncio.wait((self._writable,))
        if self.transport is None:
            raise ConnectionResetError("the client is gone")

    async def flush(self) -> None:
        """Wait until all that was written is sent. Raises ConnectionResetError."""
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(high=0)
            await self.drain()
            self.transport.set_write_buffer_limits()

    async def take_over(
        self,
        request: Request,
        protocol: str,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[socket.socket, bytes]:
        """Answer 101 (200 without an end, to a client that asked for no upgrade to ``protocol``)
        and leave HTTP. ``headers`` instead of a media type, where the protocol has its own.

        Returns a socket of the stream, which the caller owns, and the bytes that came behind the
        request. The handler then waits for ``released`` and returns ``Taken``; our end closes.
        Raises ConnectionResetError when the client is gone.
        """
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self._state = _TAKEN
        self._flow()
        if request.upgrade == protocol:
            status = f"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {protocol}"
        else:
            status = "HTTP/1.1 200 OK"
        lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
        if media_type:
            lines.append(f"Content-Type: {media_type}")
        head = "\r\n".join((status, *lines, self._server.fields(), "", ""))
        # Nobody may overtake our answer: with this limit, drain waits until all of it is sent.
        self.transport.set_write_buffer_limits(high=0)
        self.transport.write(head.encode("latin-1", "replace"))
        await self.drain()
        rest, self._ahead = self._ahead, b""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            return sock.dup(), rest
        from sampan.api.http.relay import relay

        sock, self._relayed = await relay(self, self.transport, rest)
        return sock, b""

    async def released(self) -> None:
        """Wait until this process is out of a stream's way that was taken over."""
        if self._relayed is not None:
            await asyncio.wait((self._relayed,))

    # -- ends --------------------------------------------------------------------------------------

    def _refuse(self, error: HttpError) -> None:
        """Answer what could not become a request, or failed without an answer, and close."""
        self._clear_timer()
        self._send(None, self._server.refusal(error))
        self._linger()

    def _linger(self) -> None:
        """Close, but let the client read our answer first: closing on unread bytes resets."""
        self._state = _CLOSING
        if self.transport is None:
            return
        if self._ended or not self.transport.can_write_eof():
            self.close()
            return
        self.transport.resume_reading()
        self.transport.write_eof()
        self._set_timer(self._server.limits.drain_seconds)

    def close(self) -> None:
        """Close when everything written is sent."""
        self._state = _CLOSING
        self._clear_timer()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self._state = _CLOSING
        if self.transport is not None:
            self.transport.abort()

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._late)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idling = False

    def _late(self) -> None:
        self._timer = None
        if self._state == _HEAD and self._ahead:
            self._refuse(HttpError(408, "the request's head did not arrive in time"))
        else:
            self.close()
