"""Clients that send too much, too deep, too slowly or never read: refused, and memory bounded.

Peaks are the kernel's (VmHWM of proc(5)), reset before each attack.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon_fixture import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

HEAD = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MIB = 1024


def status(pid: int, field: str) -> int:
    """In KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(field)


class Growth:
    """How far the daemon's memory went up since the beginning, in KiB."""

    def __init__(self, daemon: Daemon) -> None:
        self._pid = daemon.pid
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._before = status(self._pid, "VmRSS")

    @property
    def peak(self) -> int:
        return status(self._pid, "VmHWM") - self._before


@pytest.fixture
def growth(daemon: Daemon) -> Iterator[Growth]:
    assert daemon.get("/_ping").body == b"OK"
    yield Growth(daemon)
    assert daemon.get("/_ping").body == b"OK"


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect(daemon.socket)
    return sock


def answer(sock: socket.socket) -> bytes:
    """Until the connection ends."""
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    sock.close()
    return data


def test_a_body_without_an_end_is_refused_when_it_is_too_large(
    daemon: Daemon, growth: Growth
) -> None:
    sock = connect(daemon)
    sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    deadline = time.monotonic() + 60
    try:
        # It reads a while longer, so that its answer is not lost with a reset.
        while time.monotonic() < deadline:
            sock.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert time.monotonic() < deadline
    assert b" 413 " in answer(sock)[:20]
    assert growth.peak < 24 * MIB


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (4 << 20),
        b'{"a":' * (1 << 19),
        b"[" + b"[]," * (1 << 20) + b"[]]",
        b"[" + b"{}," * (1 << 20) + b"{}]",
        b'{"Env":[' + b'"",' * (1 << 20) + b'""]}',
        b'{"Labels":{' + b",".join(b'"%x":""' % n for n in range(1 << 18)) + b"}}",
        b'"' + b"x" * (4 << 20) + b'"',
    ],
    ids=["deep", "deep objects", "lists", "objects", "texts", "keys", "text"],
)
def test_json_that_is_small_on_the_wire_is_not_large_in_memory(
    daemon: Daemon, growth: Growth, body: bytes
) -> None:
    found = daemon.request(
        "POST", "/containers/create", body, headers={"Content-Type": "application/json"}
    )
    assert found.status in (400, 413)
    assert growth.peak < 40 * MIB


def test_many_at_a_time_are_bounded_too(daemon: Daemon, growth: Growth) -> None:
    """Bodies are read as they come, so what counts is what is decoded at the same moment: one."""
    body = b"[" + b"1," * 90_000 + b"1]"
    errors: list[int] = []

    def send() -> None:
        headers = {"Content-Type": "application/json"}
        errors.append(daemon.request("POST", "/containers/create", body, headers=headers).status)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert errors == [400] * 20
    assert growth.peak < 40 * MIB


def test_a_head_that_never_ends_costs_its_limit(daemon: Daemon, growth: Growth) -> None:
    socks = [connect(daemon) for _ in range(100)]
    for sock in socks:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nX: " + b"x" * 60_000)
    assert daemon.get("/_ping").body == b"OK"
    assert growth.peak < 100 * 130 + 8 * MIB
    for sock in socks[:10]:
        sock.sendall(b"x" * 10_000)
        assert b" 431 " in answer(sock)[:20]
    for sock in socks:
        sock.close()


def test_a_head_with_many_fields_is_one_request(daemon: Daemon, growth: Growth) -> None:
    sock = connect(daemon)
    fields = b"".join(b"a%d:b\r\n" % n for n in range(6000))
    sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + fields + b"\r\n")
    assert b" 200 " in answer(sock)[:20]
    assert growth.peak < 16 * MIB


def test_who_asks_ahead_and_never_reads_waits(daemon: Daemon, growth: Growth) -> None:
    sock = connect(daemon)
    sock.setblocking(False)
    asked = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    deadline = time.monotonic() + 60
    stuck = 0
    while time.monotonic() < deadline and stuck < 20:
        try:
            sock.send(asked)
            stuck = 0
        except BlockingIOError:
            stuck += 1
            time.sleep(0.05)
    assert stuck == 20, "it took everything"
    assert growth.peak < 16 * MIB
    # And who then reads gets answer after answer.
    sock.setblocking(True)
    data = b""
    while data.count(b"HTTP/1.1 200 ") < 1000:
        data += sock.recv(1 << 20)
    sock.close()


def test_a_thousand_connections_that_say_nothing(daemon: Daemon, growth: Growth) -> None:
    limit = min(1000, os.sysconf("SC_OPEN_MAX") - 200)
    socks = [connect(daemon) for _ in range(limit)]
    assert daemon.get("/_ping").body == b"OK"
    assert growth.peak < limit * 12
    for sock in socks:
        sock.close()
    daemon.wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < 100)


def test_a_log_that_nobody_reads_is_not_read_ahead(daemon: Daemon, growth: Growth) -> None:
    container = daemon.run("sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x | fold -w 1000")
    daemon.wait(container)
    path = f"/containers/{container}/logs?stdout=1&follow=1"
    socks = [connect(daemon) for _ in range(5)]
    for sock in socks:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    time.sleep(1)
    assert growth.peak < 24 * MIB
    for sock in socks:
        sock.close()
    daemon.remove_all()


@pytest.mark.parametrize(
    "target",
    [
        b"/containers/\xff\xfe/json",
        b"/containers/%FF%FE/json",
        b"/containers/%00/json",
        b"/containers/a%2F..%2Fb/json",
        b"/images/\xc3\x28/json",
        b"/containers/json?filters=%7B%22name%22%3A%5B%22%FF%22%5D%7D",
        b"/containers/json?%FF=%FF&limit=\xff",
        b"/v1.51/" + b"x" * 60_000,
        b"/" + b"%41" * 20_000,
        b"/containers/json?" + b"&" * 60_000,
        b"/containers/json?" + b"a=b&" * 15_000,
    ],
    ids=lambda target: repr(target[:30]),
)
def test_targets_of_any_bytes_have_an_answer(daemon: Daemon, target: bytes) -> None:
    sock = connect(daemon)
    sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status_line = answer(sock).split(b"\r\n")[0]
    code = int(status_line.split()[1])
    assert code in (200, 400, 404), status_line


@pytest.mark.parametrize(
    "body",
    [b'{"Image": "\xff"}', b'{"Image": "\\ud800"}', b'{"\xc3\x28": 1}', b"\x00", b"\xef\xbb\xbf{}",
     b"{}{}", b'{"Image": 1e999}', b"NaN", b'{"HostConfig": {"Memory": 1e300}}',
     b'{"HostConfig": {"Memory": 99999999999999999999}}', b'{"StopTimeout": 9223372036854775808}']
)  # fmt: skip
def test_json_of_any_bytes_is_refused(daemon: Daemon, body: bytes) -> None:
    found = daemon.request(
        "POST", "/containers/create", body, headers={"Content-Type": "application/json"}
    )
    assert found.status == 400
    assert found.message
