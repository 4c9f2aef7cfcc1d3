"""Streams both ways, upgrades, and how a connection ends: by its client or by the server."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from sampan.api.http.messages import Request, Response, Taken
from sampan.api.http.stream import Answer
from tests.api.serving import GET, PLAIN, echo, looped, site


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
