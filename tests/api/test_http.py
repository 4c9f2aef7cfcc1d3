"""The HTTP server alone: framing, order, limits, back-pressure, ends; a real socket, no engine."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api.http.framing import Chunked, Sized
from sampan.api.http.messages import HttpError, Request, Response, Taken
from sampan.api.http.server import Limits, Server
from sampan.api.http.stream import Answer

Handler = Callable[[Request], Awaitable[Answer]]
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
        await asyncio.get_running_loop().create_unix_connection(self.server, sock=theirs)
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


# -- framing ---------------------------------------------------------------------------------------


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b" ;x"]),
    trailers=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
)
@settings(max_examples=300, deadline=None)
def test_chunks_are_the_same_however_the_stream_is_cut(
    parts: list[bytes], cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    wire = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    wire += b"0\r\n" + trailers + b"\r\n" + b"BEHIND"
    found: list[bytes] = []
    framing = Chunked()
    rest, last = b"", 0
    for cut in [*sorted(cut for cut in cuts if cut < len(wire)), len(wire)]:
        piece, last = wire[last:cut], cut
        rest += piece if framing.done else framing.feed(piece, found.append)
    assert framing.done
    assert (b"".join(found), rest) == (b"".join(parts), b"BEHIND")


def test_a_chunked_body_may_be_cut_at_every_byte() -> None:
    wire = b"5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n"
    for cut in range(len(wire) + 1):
        found: list[bytes] = []
        framing = Chunked()
        rest = framing.feed(wire[:cut], found.append)
        if cut < len(wire):
            assert not framing.done
            rest += framing.feed(wire[cut:], found.append)
        assert (framing.done, b"".join(found), rest) == (True, b"hello!", b"")


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello!\r\n",
        b"5 5\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"5;" + b"a" * 2000,
        b"5;" + b"a" * 2000 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 5000,
    ],
)
def test_a_malformed_chunk_is_an_error(wire: bytes) -> None:
    with pytest.raises(HttpError):
        Chunked().feed(wire, len)


def test_a_sized_body_ends_at_its_last_byte() -> None:
    framing, found = Sized(5), list[bytes]()
    assert framing.feed(b"he", found.append) == b""
    assert framing.feed(b"lloGET", found.append) == b"GET"
    assert (framing.done, b"".join(found)) == (True, b"hello")


# -- requests --------------------------------------------------------------------------------------


@looped
async def test_a_request_may_come_byte_by_byte() -> None:
    async with site(echo) as one:
        peer = await one.peer()
        wire = CHUNKED.replace(b"/ ", b"/a%2Fb%20c?x=1&q=%C3%A9+e&q=2 ")
        for byte in wire + b"3\r\nabc\r\n0\r\n\r\n":
            await peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await peer.answer() == (200, "POST /a/b c é e abc".encode())


@looped
async def test_pipelined_requests_are_answered_in_order() -> None:
    async def slower_first(request: Request) -> Answer:
        await asyncio.sleep(0.02 if request.path == "/0" else 0)
        return await echo(request)

    async with site(slower_first) as one:
        peer = await one.peer()
        post = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
        wire = GET % b"/0" + post + CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + GET % b"/3"
        await peer.send(wire)
        answers = [await peer.answer() for _ in range(4)]
        assert [body for _, body in answers] == [
            b"GET /0 None ",
            b"POST /p None hi",
            b"POST / None x",
            b"GET /3 None ",
        ]
        await peer.send(GET % b"/again")
        assert (await peer.answer())[1] == b"GET /again None "


@looped
async def test_requests_sent_ahead_wait_in_bounded_memory() -> None:
    gate = asyncio.Event()

    async def waits(request: Request) -> Answer:
        await gate.wait()
        return Response(200, b"x", PLAIN)

    async with site(waits) as one:
        peer = await one.peer()
        wire = GET % (b"/" + b"a" * 1000) * 2000
        sending = asyncio.create_task(peer.send(wire))
        done, _ = await asyncio.wait((sending,), timeout=0.2)
        assert not done  # the client waits, not our memory
        gate.set()
        for _ in range(2000):
            assert (await peer.answer())[0] == 200
        await sending


@looped
async def test_head_has_the_length_and_no_body() -> None:
    async with site(echo) as one:
        peer = await one.peer()
        await peer.send((GET % b"/h").replace(b"GET", b"HEAD") + GET % b"/next")
        head = await peer.until(b"\r\n\r\n")
        assert b"Content-Length: 13\r\n" in head
        assert (await peer.answer())[1] == b"GET /next None "


@looped
async def test_what_an_http_1_0_client_gets() -> None:
    async def streams(request: Request) -> Answer:
        stream = request.connection.stream(request, PLAIN)
        await stream.write(b"one")
        await stream.write(b"two")
        return stream

    async with site(streams) as one:
        peer = await one.peer()
        await peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        data = await peer.rest()
        assert b"chunked" not in data
        assert data.endswith(b"Connection: close\r\n\r\nonetwo")
    async with site(echo) as one:
        peer = await one.peer()
        await peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await peer.answer())[0] == 200
        await peer.send(b"GET /2 HTTP/1.0\r\n\r\n")
        assert (await peer.rest()).endswith(b"GET /2 None ")


@looped
async def test_a_body_that_is_held_back_is_asked_for_when_it_is_read() -> None:
    async with site(echo) as one:
        peer = await one.peer()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await peer.send(head)
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"hi")
        assert await peer.answer() == (200, b"POST / None hi")

    async def refuses(request: Request) -> Answer:
        return Response(404, b"no", PLAIN)

    async with site(refuses) as one:
        peer = await one.peer()
        await peer.send(head)
        data = await peer.rest()
        assert data.startswith(b"HTTP/1.1 404")
        assert b"Connection: close" in data


@looped
async def test_an_unread_body_does_not_end_the_connection() -> None:
    async def refuses(request: Request) -> Answer:
        return Response(404, b"no", PLAIN)

    async with site(refuses) as one:
        peer = await one.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await peer.answer())[0] == 404
        await peer.send(b"z" * 1_000_000 + GET % b"/next")
        assert (await peer.answer())[0] == 404


@looped
async def test_the_answer_to_a_body_nobody_wants_can_be_read() -> None:
    async def refuses(request: Request) -> Answer:
        return Response(404, b"no", PLAIN)

    async with site(refuses, drain_seconds=0.2) as one:
        peer = await one.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nbegin")
        assert (await peer.answer())[0] == 404
        assert await peer.rest() == b""  # it has given up on the rest


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\x16\x03\x01\x02\x00\n\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n", 400),
        (CHUNKED.replace(b"1.1", b"1.0"), 400),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), 501),
        (CHUNKED[:-2] + b"Expect: tea\r\n\r\n", 417),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431),
    ],
    ids=range(20),
)
@looped
async def test_a_bad_request_is_told_so_and_the_connection_ends(wire: bytes, status: int) -> None:
    async with site(echo) as one:
        peer = await one.peer()
        await peer.send(wire)
        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close" in head
        assert json.loads(body)["message"]
        assert not one.reports


@looped
async def test_a_malformed_body_is_the_handlers_error() -> None:
    errors: list[str] = []

    async def reads(request: Request) -> Answer:
        try:
            return await echo(request)
        except HttpError as error:
            errors.append(error.message)
            return Response(error.status, b"bad", PLAIN)

    async with site(reads) as one:
        peer = await one.peer()
        await peer.send(CHUNKED + b"3\r\nabc\r\nzz\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.1 400")
        peer = await one.peer()
        await peer.send(CHUNKED + b"200000\r\n" + b"x" * 0x200000)
        assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        assert len(errors) == 2


@looped
async def test_a_head_has_to_come_in_time() -> None:
    async with site(echo, head_seconds=0.5) as one:
        silent, slow = await one.peer(), await one.peer()
        await slow.send(b"GET / HT")
        assert (await slow.rest()).startswith(b"HTTP/1.1 408")
        assert await silent.rest() == b""
        idle = await one.peer()
        await idle.send(GET % b"/")
        assert (await idle.answer())[0] == 200
        await asyncio.sleep(0.75)
        await idle.send(GET % b"/")
        assert (await idle.answer())[0] == 200


@looped
async def test_a_client_that_speaks_tls_is_told_at_once() -> None:
    async with site(echo) as one:
        peer = await one.peer()
        await peer.send(b"\x16\x03\x01\x02\x00")  # a ClientHello's beginning
        assert (await peer.rest()).startswith(b"HTTP/1.1 400")


@looped
async def test_a_connection_may_be_idle_for_a_while_only_where_that_is_said() -> None:
    async with site(echo, idle_seconds=0.1) as one:
        idle = await one.peer()
        await idle.send(GET % b"/")
        assert (await idle.answer())[0] == 200
        assert await idle.rest() == b""


@looped
async def test_a_crash_is_reported_and_answered() -> None:
    async def crashes(request: Request) -> Answer:
        raise ZeroDivisionError

    async with site(crashes) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        assert (await peer.rest()).startswith(b"HTTP/1.1 500")
        assert [type(error) for error in one.reports] == [ZeroDivisionError]


# -- streams ---------------------------------------------------------------------------------------


@looped
async def test_the_head_of_a_stream_is_sent_before_its_body() -> None:
    gate = asyncio.Event()

    async def waits(request: Request) -> Answer:
        stream = request.connection.stream(request, PLAIN)
        await gate.wait()
        await stream.write(b"body")
        return stream.last(b"!")

    async with site(waits) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        assert b"Transfer-Encoding: chunked\r\n" in await peer.until(b"\r\n\r\n")
        gate.set()
        assert await peer.until(b"0\r\n\r\n") == b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n"


@looped
async def test_a_client_that_does_not_read_holds_the_writer_up() -> None:
    written = 0

    async def pours(request: Request) -> Answer:
        nonlocal written
        stream = request.connection.stream(request, PLAIN)
        for _ in range(100):
            await stream.write(b"z" * 65536)
            written += 1
        return stream

    async with site(pours) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        async with asyncio.timeout(60):
            while not written:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert written < 50
        data = await peer.until(b"\r\n0\r\n\r\n")
        assert written == 100
        assert data.count(b"z") == 100 * 65536


@looped
async def test_a_handler_that_does_not_read_holds_the_client_up() -> None:
    gate = asyncio.Event()
    total = 8 * 1024 * 1024

    async def late(request: Request) -> Answer:
        await gate.wait()
        size = 0
        async for data in request.body:
            size += len(data)
        return Response(200, str(size).encode(), PLAIN)

    async with site(late) as one:
        peer = await one.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % total)
        sending = asyncio.create_task(peer.send(b"y" * total))
        done, _ = await asyncio.wait((sending,), timeout=0.2)
        assert not done
        gate.set()
        assert await peer.answer() == (200, str(total).encode())
        await sending


@looped
async def test_a_stream_that_fails_is_cut_and_not_completed() -> None:
    async def fails(request: Request) -> Answer:
        stream = request.connection.stream(request, PLAIN)
        await stream.write(b"half")
        return Response(500, b"too late", PLAIN)

    async with site(fails) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        assert (await peer.rest()).endswith(b"\r\n\r\n4\r\nhalf\r\n")


# -- the client's end ------------------------------------------------------------------------------


@looped
async def test_a_half_closed_client_gets_its_answers() -> None:
    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.05)
        return await echo(request)

    async with site(slow) as one:
        peer = await one.peer()
        await peer.send(GET % b"/1" + GET % b"/2" + b"GET /half")
        peer.sock.shutdown(socket.SHUT_WR)
        data = await peer.rest()
        assert data.count(b"200 OK") == 2
        assert data.endswith(b"GET /2 None ")


@looped
async def test_a_handler_learns_that_its_client_is_gone() -> None:
    gone = asyncio.Event()

    async def waits(request: Request) -> Answer:
        await request.connection.lost
        gone.set()
        return Response()

    async with site(waits) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        await asyncio.sleep(0.02)
        peer.sock.close()
        await gone.wait()


@looped
async def test_a_body_that_breaks_off_is_an_error_for_its_reader() -> None:
    errors: list[type[BaseException]] = []

    async def reads(request: Request) -> Answer:
        try:
            await request.body.read(1000)
        except ConnectionError as error:
            errors.append(type(error))
            raise
        return Response()

    async with site(reads) as one:
        peer = await one.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        peer.sock.shutdown(socket.SHUT_WR)
        assert await peer.rest() == b""
        assert errors == [ConnectionResetError]
        assert not one.reports


# -- upgrades --------------------------------------------------------------------------------------


async def takes(request: Request) -> Answer:
    if request.path == "/no":
        return Response(404, b"no", PLAIN)
    body = await request.body.read(1000)
    sock, rest = await request.connection.take_over(request, "tcp", PLAIN)
    with socket.socket(fileno=os.dup(sock.fileno())) as stream:
        stream.sendall(b"[%b][%b]" % (body, rest))
    return Taken()


@pytest.mark.parametrize("upgrade", [b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b""])
@pytest.mark.parametrize(
    ("length", "body"),
    [(b"", b""), (b"Content-Length: 2\r\n", b"{}"), (b"Transfer-Encoding: chunked\r\n", b"c")],
)
@looped
async def test_what_comes_behind_an_upgrade_belongs_to_whoever_takes_it(
    upgrade: bytes, length: bytes, body: bytes
) -> None:
    async with site(takes) as one:
        peer = await one.peer()
        wire = b"1\r\nc\r\n0\r\n\r\n" if body == b"c" else body
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + length + b"\r\n" + wire)
        if not upgrade:
            await asyncio.sleep(0)
        head, _, rest = (await peer.rest()).partition(b"\r\n\r\n")
        status = b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n"
        assert head.startswith(status)
        assert rest == b"[%b][]" % body
        peer = await one.peer()
        await peer.send(
            b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + length + b"\r\n" + wire + b"\r\n\x00GET"
        )
        assert (await peer.rest()).endswith(b"[%b][\r\n\x00GET]" % body)


@looped
async def test_a_refused_upgrade_leaves_the_connection_to_http() -> None:
    async with site(takes) as one:
        peer = await one.peer()
        upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        await peer.send(b"POST /no HTTP/1.1\r\nHost: x\r\n" + upgrade + GET % b"/no")
        assert [await peer.answer(), await peer.answer()] == [(404, b"no")] * 2


# -- the server's end ------------------------------------------------------------------------------


@looped
async def test_shutdown_waits_for_answers_and_not_for_idle_clients() -> None:
    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.1)
        return Response(200, b"done", PLAIN)

    async with site(slow) as one:
        busy, idle = await one.peer(), await one.peer()
        await busy.send(GET % b"/")
        await asyncio.sleep(0.02)
        await one.server.shutdown(5)
        data = await busy.rest()
        assert b"Connection: close" in data
        assert data.endswith(b"done")
        assert await idle.rest() == b""
        assert not one.server.connections


@looped
async def test_shutdown_ends_what_does_not_end() -> None:
    async def forever(request: Request) -> Answer:
        stream = request.connection.stream(request, PLAIN)
        await asyncio.Event().wait()
        return stream

    async with site(forever) as one:
        peer = await one.peer()
        await peer.send(GET % b"/")
        await peer.until(b"\r\n\r\n")
        await one.server.shutdown(0.05)
        assert await peer.rest() == b""
