"""HTTP/1.1 as our server speaks it: requests, and those that are refused (RFC 9110, RFC 9112)."""

from __future__ import annotations

import asyncio
import json

import pytest

from sampan.api.http.messages import HttpError, Request, Response
from sampan.api.http.stream import Answer
from tests.api.serving import CHUNKED, GET, PLAIN, echo, looped, site


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
