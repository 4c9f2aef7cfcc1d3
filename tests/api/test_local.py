"""The transport of this machine's connections, at its edges; HTTP over it is in ``test_http``."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

from sampan.api.http.local import LocalListener, LocalTransport
from sampan.api.http.messages import Request, Response
from tests.api.serving import GET, PLAIN, looped, site


class Kept(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str | bytes] = []
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.over.set_result(exc)


def _pair() -> tuple[socket.socket, LocalTransport, Kept]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    protocol = Kept()
    return ours, LocalTransport(asyncio.get_running_loop(), theirs, protocol), protocol


@looped
async def test_what_was_sent_before_is_read_with_the_connection() -> None:
    ours, transport, protocol = _pair()
    ours.send(b"early")
    transport.begin()
    assert protocol.told == ["made", b"early"]
    transport.close()
    assert await protocol.over is None
    assert ours.recv(1) == b""
    ours.close()


@looped
async def test_what_is_unsent_at_a_close_is_sent_and_at_an_abort_is_not() -> None:
    loop = asyncio.get_running_loop()
    for end in ("close", "abort"):
        ours, transport, protocol = _pair()
        transport.begin()
        data = os.urandom(4 << 20)
        transport.write(data)
        assert "pause" in protocol.told and transport.get_write_buffer_size()
        getattr(transport, end)()
        transport.write(b"nobody's")
        got = b""
        while piece := await loop.sock_recv(ours, 1 << 20):
            got += piece
        await protocol.over
        assert (got == data) is (end == "close")
        assert data.startswith(got)
        assert protocol.told.count("lost") == 1
        ours.close()


@looped
async def test_half_closes_both_ways() -> None:
    loop = asyncio.get_running_loop()
    ours, transport, protocol = _pair()
    transport.begin()
    ours.shutdown(socket.SHUT_WR)
    while "eof" not in protocol.told:
        await asyncio.sleep(0)
    data = os.urandom(1 << 20)
    transport.write(data)
    transport.write_eof()
    got = b""
    while piece := await loop.sock_recv(ours, 1 << 20):
        got += piece
    assert got == data
    assert not transport.is_closing()
    transport.abort()
    await protocol.over
    ours.close()


@looped
async def test_a_protocol_that_gives_up_when_it_may_write_again() -> None:
    ours, transport, protocol = _pair()
    transport.begin()
    transport.write(bytes(4 << 20))
    protocol.resume_writing = transport.abort  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(ours, 1 << 20):
        pass
    await protocol.over
    # Its number is free, and the loop knows nothing of it.
    one, other = socket.socketpair()
    with one, other:
        loop.add_writer(one, lambda: None)
        assert loop.remove_writer(one)
    ours.close()


@looped
async def test_a_client_waits_until_there_is_a_descriptor_for_it(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen(8)
    protocols: list[Kept] = []
    reports: list[OSError] = []

    def factory() -> Kept:
        protocols.append(Kept())
        return protocols[-1]

    listener = LocalListener(loop, listening, factory, reports.append)
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is the next one's: it is over the limit.
    spare = os.open("/dev/null", os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
    try:
        await loop.sock_connect(client, str(tmp_path / "s"))
        while not reports:
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not protocols
    await loop.sock_sendall(client, b"hello")
    async with asyncio.timeout(30):
        while not protocols or b"hello" not in protocols[0].told:
            await asyncio.sleep(0.01)
    client.close()
    async with asyncio.timeout(30):
        while "eof" not in protocols[0].told:
            await asyncio.sleep(0.01)
    protocols[0].transport.abort()
    await protocols[0].over
    listener.close()


@looped
async def test_answers_without_waiting_come_in_order_and_a_bug_is_told() -> None:
    def handle(request: Request) -> Response:
        if request.path == "/bug":
            raise ZeroDivisionError
        return Response(200, request.path.encode(), PLAIN)

    async with site(handle) as one:
        peer = await one.peer()
        await peer.send(b"".join(GET % b"/%d" % n for n in range(1000)))
        for n in range(1000):
            assert await peer.answer() == (200, b"/%d" % n)
        await peer.send(GET % b"/bug")
        assert (await peer.answer())[0] == 500
        assert [type(error) for error in one.reports] == [ZeroDivisionError]
        assert await peer.rest() == b""
