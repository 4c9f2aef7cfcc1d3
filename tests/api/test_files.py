"""Bodies that go from a file to a socket by sendfile(2): whole, in order, and let go."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sampan.api.http import files
from sampan.api.http.files import send_file
from sampan.api.http.messages import Request, Response
from sampan.api.http.server import Server
from sampan.api.http.stream import Answer

DATA = os.urandom(9_000_000)
PATIENCE = 60.0


class Bytes:
    """``extra``: bytes that are promised and not there."""

    def __init__(self, path: Path, extra: int = 0) -> None:
        path.write_bytes(DATA)
        self._file = path.open("rb")
        self.size = len(DATA) + extra

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self.fileno(), count, offset)


def serve(
    file: Bytes, client: Callable[[socket.socket, list[BaseException]], Awaitable[None]]
) -> list[BaseException]:
    """Answer with the file what a client asks; the errors that ended answers."""
    problems: list[BaseException] = []

    async def handler(request: Request) -> Answer:
        try:
            return await send_file(request, 200, {}, file, offset=0, count=file.size)
        except ConnectionError as error:
            problems.append(error)
            raise

    async def work() -> None:
        server = Server(handler, lambda error: Response(error.status), _crash, fields={})
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(server, ours)
        with theirs:
            await client(theirs, problems)
        await server.shutdown(PATIENCE)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(work(), PATIENCE))
    # What other tests left may be collected meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before
    return problems


def _crash(problem: BaseException) -> None:
    raise problem


async def ask(sock: socket.socket, times: int = 1) -> None:
    await asyncio.get_running_loop().sock_sendall(
        sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * times
    )


async def everything(sock: socket.socket) -> bytes:
    """Until the other end closes, or cuts."""
    found = bytearray()
    try:
        while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
            found += data
    except ConnectionResetError:
        pass
    return bytes(found)


def test_requests_sent_ahead_are_answered_in_order(tmp_path: Path) -> None:
    async def client(sock: socket.socket, _: list[BaseException]) -> None:
        await ask(sock, 3)
        sock.shutdown(socket.SHUT_WR)
        found = await everything(sock)
        assert found.count(DATA) == 3
        assert len(found.replace(DATA, b"")) < 1000

    assert serve(Bytes(tmp_path / "f"), client) == []


def test_a_file_that_is_shorter_than_promised_cuts_the_connection(tmp_path: Path) -> None:
    async def client(sock: socket.socket, _: list[BaseException]) -> None:
        await ask(sock)
        assert (await everything(sock)).endswith(DATA)

    (problem,) = serve(Bytes(tmp_path / "f", extra=10), client)
    assert "ended before its answer" in str(problem)


def test_a_client_that_takes_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_STALL_SECONDS", 0.1)

    async def client(sock: socket.socket, problems: list[BaseException]) -> None:
        await ask(sock)
        while not problems:
            await asyncio.sleep(0.01)
        assert len(await everything(sock)) < len(DATA)

    (problem,) = serve(Bytes(tmp_path / "f"), client)
    assert "takes nothing" in str(problem)


def test_a_client_that_leaves_ends_it(tmp_path: Path) -> None:
    async def client(sock: socket.socket, problems: list[BaseException]) -> None:
        await ask(sock)
        await asyncio.get_running_loop().sock_recv(sock, 1000)
        sock.close()
        while not problems:
            await asyncio.sleep(0.01)

    assert len(serve(Bytes(tmp_path / "f"), client)) == 1
