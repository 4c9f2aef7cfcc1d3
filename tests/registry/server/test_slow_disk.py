"""A disk that keeps a reader waiting keeps nobody else waiting."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.http.files import _THREADS
from tests.registry.registries import sha256
from tests.registry.server.house import House
from tests.registry.server.slow_disk import SlowDisk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
]

DATA = os.urandom(5_000_000)  # more than a socket takes at once
_DEADLINE = 60.0


@pytest.fixture
def slow(house: House) -> Iterator[tuple[SlowDisk, str]]:
    """A blob on such a disk, and its path."""
    digest = house.push("slow/one", "v", DATA)
    assert digest
    (file,) = (house.root / "blobs").glob(f"*/*/{sha256(DATA)[7:]}.*")
    with SlowDisk(file, DATA) as disk:
        yield disk, f"/v2/slow/one/blobs/{sha256(DATA)}"


def get(house: House, path: str) -> socket.socket:
    """A request whose answer nobody has looked at yet."""
    sock = socket.create_connection(("127.0.0.1", house.port), timeout=_DEADLINE)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return sock


def body(sock: socket.socket) -> bytes:
    found = bytearray()
    with sock:
        while data := sock.recv(1 << 20):
            found += data
    head, _, rest = bytes(found).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return rest


def others_are_answered(house: House) -> None:
    for path in ("/v2/slow/one/manifests/v", "/healthz", "/v2/slow/one/tags/list", "/readyz"):
        assert house.request("GET", path).status == 200
    assert house.push("slow/other", "w", b"layer")
    assert house.request("GET", f"/v2/slow/other/blobs/{sha256(b'layer')}").body == b"layer"


def test_others_are_answered_while_one_waits(house: House, slow: tuple[SlowDisk, str]) -> None:
    disk, path = slow
    sock = get(house, path)
    assert disk.asked.wait(_DEADLINE)
    others_are_answered(house)
    disk.flow()
    assert body(sock) == DATA


def test_more_may_wait_than_there_are_threads(house: House, slow: tuple[SlowDisk, str]) -> None:
    disk, path = slow
    socks = [get(house, path) for _ in range(_THREADS * 3)]
    assert disk.asked.wait(_DEADLINE)
    assert house.request("GET", "/healthz").status == 200
    assert house.request("GET", "/v2/slow/one/manifests/v").status == 200
    disk.flow()
    found: list[bytes] = []
    readers = [threading.Thread(target=lambda s=s: found.append(body(s))) for s in socks]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [DATA] * len(socks)


def test_a_client_that_goes_leaves_nothing_open(house: House, slow: tuple[SlowDisk, str]) -> None:
    disk, path = slow
    sock = get(house, path)
    assert disk.asked.wait(_DEADLINE)
    sock.close()
    others_are_answered(house)
    disk.flow()
    deadline = time.monotonic() + _DEADLINE
    while opened(house, disk.path):
        assert time.monotonic() < deadline, opened(house, disk.path)
        time.sleep(0.02)


def opened(house: House, file: Path) -> list[str]:
    """Descriptors of a file that the server has."""
    assert house.process is not None
    found = []
    for one in Path(f"/proc/{house.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(one) == str(file):
                found.append(one.name)
    return found
