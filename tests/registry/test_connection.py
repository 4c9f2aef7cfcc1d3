"""HTTP as a client: what a stranger's server may send, against raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sampan.errors import SampanError
from sampan.registry.client.errors import NoConnection, NotHttp, Transient
from sampan.registry.client.http import Deadlines, Pool
from sampan.registry.client.proxies import Proxies
from sampan.registry.client.tls import Trust
from sampan.registry.client.urls import parse_url

Script = Callable[[socket.socket], None]


@contextmanager
def server(script: Script) -> Iterator[str]:
    """A server that runs ``script`` on each connection; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    def one(sock: socket.socket) -> None:
        with sock:
            try:
                script(sock)
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionResetError
        data += more
    return data


def saying(*parts: bytes) -> Script:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        for part in parts:
            sock.sendall(part)

    return script


def fetch(
    address: str, method: str = "GET", limit: int = 1 << 20, deadlines: Deadlines | None = None
) -> tuple[int, bytes]:
    async def main() -> tuple[int, bytes]:
        pool = Pool(Trust(()), Proxies(), deadlines)
        try:
            async with pool.send(method, parse_url(address)) as response:
                return response.status, await response.read(limit)
        finally:
            pool.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
         b"hello"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
         b"hello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)  # fmt: skip
def test_every_form_of_a_body_is_read_to_its_end(answer: bytes, body: bytes) -> None:
    with server(saying(answer)) as address:
        assert fetch(address)[1] == body


def test_a_head_has_no_body_whatever_length_it_names() -> None:
    with server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")) as address:
        assert fetch(address, "HEAD") == (200, b"")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"220 smtp.example.org ESMTP\r\n", "does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000, "head of more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "head of more than"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            "another protocol",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP"),
    ],
)
def test_what_is_not_http_is_refused_and_named(answer: bytes, words: str) -> None:
    with server(saying(answer)) as address, pytest.raises(NotHttp, match=words):
        fetch(address)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
def test_an_answer_cut_short_may_be_tried_again(answer: bytes) -> None:
    with server(saying(answer)) as address, pytest.raises(Transient, match="closed"):
        fetch(address)


def test_a_body_without_an_end_is_not_read_to_it() -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sock.sendall(b"x" * 65536)

    with server(script) as address, pytest.raises(SampanError, match="larger than 100000 bytes"):
        fetch(address, limit=100_000)


def test_what_nobody_reads_stays_in_the_server() -> None:
    sent = 0

    def script(sock: socket.socket) -> None:
        nonlocal sent
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += sock.send(b"x" * 65536)

    async def main(address: str) -> int:
        pool = Pool(Trust(()), Proxies())
        async with pool.send("GET", parse_url(address)) as response:
            pieces = response.pieces()
            await anext(pieces)
            before = -1
            while sent != before:  # until the socket is full and stays so
                before = sent
                await asyncio.sleep(0.2)
            return sent

    with server(script) as address:
        assert asyncio.run(main(address)) < 64 << 20


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"HTTP/"])
def test_a_server_that_says_nothing_more_is_left(said: bytes) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(said)
        sock.recv(1)  # until the client goes

    with server(script) as address, pytest.raises(Transient, match="seconds"):
        fetch(address, deadlines=Deadlines(head=0.3, quiet=0.3))


def test_a_body_that_drips_is_left() -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while True:
            sock.sendall(b"x")
            threading.Event().wait(0.02)

    with server(script) as address, pytest.raises(Transient, match="less than 1024 bytes"):
        fetch(address, deadlines=Deadlines(quiet=0.4))


def test_a_connection_is_used_again_and_a_closed_one_replaced() -> None:
    connections = 0

    def script(sock: socket.socket) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):  # then it closes, unannounced
            read_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main(address: str) -> None:
        pool = Pool(Trust(()), Proxies())
        for _ in range(5):
            async with pool.send("GET", parse_url(address)) as response:
                assert await response.read(10) == b"ok"
        pool.close()

    with server(script) as address:
        asyncio.run(main(address))
    assert connections == 3


def test_a_connection_with_something_left_to_read_is_not_used_again() -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 ")
        read_head(sock)
        sock.sendall(b"200 OK\r\nContent-Length: 6\r\n\r\npoison")

    async def main(address: str) -> None:
        pool = Pool(Trust(()), Proxies())
        async with pool.send("GET", parse_url(address)):
            pass  # nobody reads the body
        async with pool.send("GET", parse_url(address)) as response:
            assert await response.read(10) == b"HTTP/1.1 "
        pool.close()

    with server(script) as address:
        asyncio.run(main(address))


def test_nobody_there_is_said_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NoConnection, match=f"http://127.0.0.1:{port}: connect: connection refused"):
        fetch(f"http://127.0.0.1:{port}/")


def test_a_refusal_in_the_middle_of_a_request_is_read() -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    class Endless:
        length = None

        async def pieces(self):  # type: ignore[no-untyped-def]  # a generator of bytes
            for _ in range(10_000):
                yield b"x" * 65536
                await asyncio.sleep(0)

    async def main(address: str) -> tuple[int, bytes]:
        pool = Pool(Trust(()), Proxies())
        async with pool.send("PUT", parse_url(address), body=Endless()) as response:
            return response.status, await response.read(100)

    with server(script) as address:
        assert asyncio.run(main(address)) == (413, b"no!")


@pytest.mark.parametrize(
    ("base", "location", "expected"),
    [
        ("http://a/v2/x", "/y?z=1", "http://a/y?z=1"),
        ("http://a/v2/x?q", "y", "http://a/v2/y"),
        ("https://a:5000/", "//b/c", "https://b/c"),
        ("http://a/", "https://B.example:443/c", "https://b.example/c"),
        ("http://a/", "http://[::1]:8080/c", "http://[::1]:8080/c"),
    ],
)
def test_a_location_is_read_from_where_it_was_said(base: str, location: str, expected: str) -> None:
    assert str(parse_url(base).join(location)) == expected


@pytest.mark.parametrize(
    "text", ["ftp://a/", "file:///etc/passwd", "http://", "http://a:x/", "http://a/\r\nX: y", "a b"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SampanError):
        parse_url(text)
