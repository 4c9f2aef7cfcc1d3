"""Parts on their way into the bucket while the next bytes come."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.distribution.threads import THREADS
from tests.registry.registries import sha256
from tests.registry.server.buckets import Bucket, Faulty
from tests.registry.server.house import Answer, House
from tests.registry.server.test_bucket import house_at

PART = 8 << 20
DATA = os.urandom(2 * PART - 1000)
"""A part, and nearly another one."""
_DEADLINE = 60.0


@pytest.fixture(scope="module")
def serving(quick: Path, bucket: Bucket) -> Iterator[tuple[House, Faulty, Path]]:
    faulty = Faulty(bucket.endpoint)
    root = quick / "parts"
    house = house_at(root, bucket.address("parts", faulty.endpoint), "--no-redirect").start()
    yield house, faulty, bucket.folder("parts")
    faulty.close()
    house.close()


@pytest.fixture
def house(serving: tuple[House, Faulty, Path]) -> House:
    return serving[0]


@pytest.fixture
def faulty(serving: tuple[House, Faulty, Path]) -> Iterator[Faulty]:
    yield serving[1]
    serving[1].let()


@contextlib.contextmanager
def sending(house: House, method: str, where: str, data: bytes) -> Iterator[socket.socket]:
    """A request whose body is ``data`` so far, and one byte more."""
    with socket.create_connection(("127.0.0.1", house.port), timeout=_DEADLINE) as sock:
        head = f"{method} {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data) + 1}\r\n\r\n"
        sock.sendall(head.encode() + data)
        yield sock


def answer(sock: socket.socket) -> Answer:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def wait_for(house: House, where: str, count: int) -> None:
    """Until so many bytes of an upload have come."""
    deadline = time.monotonic() + _DEADLINE
    while came(house, where) != count:
        assert time.monotonic() < deadline, came(house, where)
        time.sleep(0.02)


def came(house: House, where: str) -> int:
    return int(house.request("GET", where).headers["Range"].partition("-")[2]) + 1


def test_the_next_bytes_come_while_a_part_is_sent(house: House, faulty: Faulty) -> None:
    where = house.begin("parts/next")
    faulty.hold(b"partNumber=1")
    with sending(house, "PATCH", where, DATA) as sock:
        assert faulty.reached.wait(_DEADLINE)
        # The bucket has not even begun to take the first part.
        wait_for(house, where, len(DATA))
        faulty.let()
        sock.sendall(b"!")
        done = answer(sock)
    assert (done.status, done.headers["Range"]) == (202, f"0-{len(DATA)}")
    digest = sha256(DATA + b"!")
    assert house.request("PUT", f"{where}?digest={digest}").status == 201
    assert house.request("GET", f"/v2/parts/next/blobs/{digest}").body == DATA + b"!"


def test_an_upload_has_two_spools_at_most(house: House, faulty: Faulty) -> None:
    where = house.begin("parts/most")
    faulty.hold(b"partNumber=1")
    with sending(house, "PATCH", where, os.urandom(2 * PART)):
        assert faulty.reached.wait(_DEADLINE)
        wait_for(house, where, 2 * PART)
        assert len(opened(house)) == 2
        faulty.let()
    assert house.request("DELETE", where).status == 204


def opened(house: House) -> list[str]:
    """Files in the spool's directory that the server has open."""
    assert house.process is not None
    found = []
    for one in Path(f"/proc/{house.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(one))
    return [path for path in found if path.startswith(str(house.root / "spool"))]


@pytest.mark.parametrize(("method", "part"), [("PATCH", 1), ("PUT", 1), ("PUT", 2)])
def test_a_part_that_fails_while_the_next_bytes_come(
    house: House, faulty: Faulty, method: str, part: int
) -> None:
    """What was acknowledged stays, what was not is sent again."""
    where = house.begin("parts/fail")
    digest = sha256(DATA + b"!")
    assert house.request("PATCH", where, DATA[:1000]).status == 202
    target = f"{where}?digest={digest}" if method == "PUT" else where
    faulty.hold(b"partNumber=%d" % part)
    with sending(house, method, target, DATA[1000:]) as sock:
        if part == 1:
            assert faulty.reached.wait(_DEADLINE)
            wait_for(house, where, len(DATA))
        before = faulty.failed
        sock.sendall(b"!")
        assert faulty.reached.wait(_DEADLINE)
        faulty.let("503")
        failed = answer(sock)
    assert (failed.status, failed.codes) == (503, ["UNAVAILABLE"])
    assert faulty.failed > before
    faulty.let()
    begin = came(house, where)
    assert begin == (1000 if part == 1 else PART)
    assert house.request("PUT", f"{where}?digest={digest}", DATA[begin:] + b"!").status == 201
    blob = f"/v2/parts/fail/blobs/{digest}"
    assert house.request("GET", blob).body == DATA + b"!"
    assert house.request("DELETE", blob).status == 202


def test_an_upload_that_ends_while_a_part_is_sent_leaves_nothing(
    serving: tuple[House, Faulty, Path], house: House, faulty: Faulty
) -> None:
    where = house.begin("parts/gone")
    faulty.hold(b"partNumber=1")
    with sending(house, "PATCH", where, DATA) as sock:
        assert faulty.reached.wait(_DEADLINE)
        wait_for(house, where, len(DATA))
        sock.close()
    faulty.let()
    assert house.request("DELETE", where).status == 204
    assert house.request("GET", where).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert house.tool("gc", "--upload-age", "0").returncode == 0
    assert list((serving[2] / "data").glob("*")) == []
    said = house.tool("gc", "--dry-run", "--upload-age", "0").stdout
    assert [int(line.split()[0]) for line in said.splitlines()[:6]] == [0] * 6, said
    assert opened(house) == []
    assert house.tool("fsck").stdout == "clean\n"


def test_uploads_that_hang_keep_nobody_else_waiting(house: House, faulty: Faulty) -> None:
    house.push("parts/pulled", "v", b"layer")
    manifest = house.request("GET", "/v2/parts/pulled/manifests/v").body
    where = [house.begin("parts/hang") for _ in range(THREADS + 8)]
    faulty.hold(b"PUT /")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(sending(house, "PATCH", one, b"")) for one in where]
        for sock in socks:
            sock.sendall(b"!")
        wait_until_held(faulty, THREADS)
        rows_are_read(house)
        blob = house.request("GET", f"/v2/parts/pulled/blobs/{sha256(b'layer')}")
        assert (blob.status, blob.body) == (200, b"layer")
        assert house.put_manifest("parts/pulled", "w", manifest).status == 201
        still_held(faulty, socks)
        faulty.let()
        assert [answer(sock).status for sock in socks] == [202] * len(socks)
    assert [house.request("DELETE", one).status for one in where] == [204] * len(where)


def test_pulls_that_hang_keep_nobody_else_waiting(house: House, faulty: Faulty) -> None:
    house.push("parts/pulled", "v", b"layer")
    faulty.hold(b"GET /")
    path = f"/v2/parts/pulled/blobs/{sha256(b'layer')}"
    with contextlib.ExitStack() as stack:
        socks = asking(house, path, stack, THREADS + 8)
        wait_until_held(faulty, THREADS)
        rows_are_read(house)
        house.put_blob("parts/pulled", os.urandom(100))
        still_held(faulty, socks)
        faulty.let()
        assert [answer(sock).body for sock in socks] == [b"layer"] * len(socks)


def test_one_look_at_the_bucket_is_for_all_who_ask(house: House, faulty: Faulty) -> None:
    faulty.hold(b"HEAD /bucket HTTP")
    with contextlib.ExitStack() as stack:
        socks = asking(house, "/readyz", stack, 40)
        wait_until_held(faulty, 1)
        rows_are_read(house, "/healthz")
        still_held(faulty, socks, 1)
        faulty.let()
        assert [answer(sock).body for sock in socks] == [b"ready\n"] * len(socks)


def test_a_bucket_that_hangs_keeps_no_server_from_ending(
    root: Path, bucket: Bucket, faulty: Faulty
) -> None:
    """With an upload and pulls under way: nothing acknowledged is lost."""
    address = bucket.address("ending", faulty.endpoint)
    house = house_at(root, address, "--no-redirect", "--drain", "100ms").start()
    try:
        house.push("parts/end", "v", b"layer")
        where = house.begin("parts/end")
        assert house.request("PATCH", where, b"kept").status == 202
        faulty.hold(b" /bucket/ending/data")
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(sending(house, "PATCH", where, b""))
            sock.sendall(b"!")
            asking(house, f"/v2/parts/end/blobs/{sha256(b'layer')}", stack, 2)
            wait_until_held(faulty, 3)
            assert house.stop() == 0
            assert faulty.waiting == 3
        house.said("does not answer")
        faulty.let()
        house.start()
        assert came(house, where) == 4
        assert house.tool("fsck").stdout == "clean\n"
    finally:
        house.close()


def asking(house: House, path: str, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    """So many clients who wait for an answer."""
    socks = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", house.port), timeout=_DEADLINE)
        socks.append(stack.enter_context(sock))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return socks


def rows_are_read(house: House, *more: str) -> None:
    """What needs no byte of a blob is answered."""
    for path in ("/v2/", "/v2/_catalog", "/v1/search?q=pulled", *more):
        assert house.request("GET", path).status == 200


def wait_until_held(faulty: Faulty, count: int) -> None:
    deadline = time.monotonic() + _DEADLINE
    while faulty.waiting < count:
        assert time.monotonic() < deadline, faulty.waiting
        time.sleep(0.02)


def still_held(faulty: Faulty, socks: list[socket.socket], count: int = THREADS) -> None:
    """All that while nothing has moved."""
    assert faulty.waiting == count
    assert select.select(socks, [], [], 0)[0] == []
