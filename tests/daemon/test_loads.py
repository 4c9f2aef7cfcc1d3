"""Archives that are bombs, and clients that go away in the middle of ``load`` and ``import``.

The daemon is one of a small disk: what an archive unpacks to has to fit there, and never in memory.
"""

from __future__ import annotations

import gzip
import os
import socket
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from sampan.kernel.mounts import mount, umount
from tests.api.copying import memory
from tests.api.pulling import is_clean, left
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, configuration, docker_save, sha256, tar

pytestmark = pytest.mark.root

DISK = 48 << 20
INODES = 4000
BOMB = 128 << 20
MEMORY = 64 << 20
"""What the daemon may take while it reads an archive, in bytes."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    disk = tmp_path_factory.mktemp("small")
    mount("tmpfs", str(disk), "tmpfs", 0, f"size={DISK},nr_inodes={INODES}")
    one = Daemon(disk)
    try:
        one.start()
        one.get("/images/json")
        yield one
    finally:
        one.close()
        umount(str(disk))


@pytest.fixture(autouse=True)
def nothing_stays(small: Daemon) -> Iterator[None]:
    """Neither in memory nor on the disk; and another archive goes in at once."""
    before, peak, free = left(small), memory(small), room(small)
    yield
    small.wait_for(lambda: is_clean(small, before))
    small.wait_for(lambda: room(small) + (1 << 20) > free)
    assert memory(small) - peak < MEMORY
    answer = small.request("POST", "/images/load", docker_save([BASE], ["after:1"]))
    assert (answer.status, b"Loaded image: after:1" in answer.body) == (200, True), answer.body
    assert small.delete("/images/after:1").status == 200


def room(daemon: Daemon) -> int:
    status = os.statvfs(daemon.data_root)
    return status.f_bavail * status.f_frsize


def large(fill: bytes, name: str = "x") -> bytes:
    """A tar of one file of one byte again and again, gzipped, without ever having it whole."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    header = tarfile.TarInfo(name)
    header.size = BOMB
    packed = packer.compress(header.tobuf(tarfile.GNU_FORMAT))
    for _ in range(BOMB >> 20):
        packed += packer.compress(fill * (1 << 20))
    return packed + packer.compress(bytes(10240)) + packer.flush()


def many(count: int) -> bytes:
    """A tar of empty files, gzipped."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = b""
    for number in range(count):
        packed += packer.compress(tarfile.TarInfo(f"{number}").tobuf(tarfile.GNU_FORMAT))
    return packed + packer.compress(bytes(10240)) + packer.flush()


def saved(packed: bytes) -> bytes:
    """An archive with one packed layer, of which the diff ID is not known."""
    members = {
        "layer": packed,
        "config.json": configuration([b"unknown"]),
        "manifest.json": b'[{"Config":"config.json","RepoTags":["bomb:1"],"Layers":["layer"]}]',
    }
    return tar(members)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a layer": (lambda: saved(large(b"1")), "no space left on device"),
    "packed twice": (lambda: gzip.compress(saved(large(b"1"))), "no space left on device"),
    "a member": (lambda: large(b"1"), "no space left on device"),
    "a document": (lambda: large(b" ", "manifest.json"), "no space left on device"),
    "a blob": (lambda: large(b"\0", f"blobs/sha256/{sha256(b'x')}"), "no space left on device"),
    "files in a layer": (lambda: saved(many(INODES)), "no space left on device"),
    "json": (lambda: tar({"manifest.json": b"[" + b"[]," * (1 << 20) + b"[]]"}), "manifest.json"),
}


@pytest.mark.parametrize(("archive", "named"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_fills_neither_memory_nor_the_disk(
    small: Daemon, archive: Callable[[], bytes], named: str
) -> None:
    data = archive()
    assert len(data) < 24 << 20
    answer = small.request("POST", "/images/load", data)
    said = answer.body.decode()
    assert answer.status in (200, 400, 500), said
    assert "error" in said or "message" in said, said[-500:]
    assert named in said


def test_a_bomb_to_import_is_no_different(small: Daemon) -> None:
    query: dict[str, object] = {"fromSrc": "-", "repo": "bomb", "tag": "1"}
    answer = small.request("POST", "/images/create", large(b"1"), query=query)
    assert "no space left on device" in answer.body.decode()
    assert small.get("/images/bomb:1/json").status == 404


def test_what_a_full_disk_is_in_the_way_of_is_said_and_goes_on_later(small: Daemon) -> None:
    container = small.run("sleep", "600", name="there")
    fill = small.data_root / "fill"
    try:
        for piece in (1 << 20, 1):
            with suppress(OSError), fill.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(piece))
        body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
        answers = [
            small.post("/containers/create", body),
            small.post("/containers/there/rename", name="renamed"),
            small.post("/volumes/create", {"Name": "full"}),
        ]
        for answer in answers:
            assert answer.status == 500
            assert "no space left on device" in answer.message
        # What needs no room is there: a look at things, a process in what runs, its end.
        assert [one["Id"] for one in small.get("/containers/json").json()] == [container]
        made = small.post("/containers/there/exec", {"Cmd": ["true"]}).json()["Id"]
        assert small.post(f"/exec/{made}/start", {"Detach": True}).status == 200
        assert small.post("/containers/there/kill").status == 204
    finally:
        fill.unlink()
    assert small.state("there")["Status"] == "exited"
    assert [one["Names"] for one in small.get("/containers/json", all=1).json()] == [["/there"]]
    assert small.post("/containers/there/rename", name="renamed").status == 204
    assert small.post("/volumes/create", {"Name": "full"}).status == 201
    assert small.delete("/volumes/full").status == 204
    assert small.delete("/containers/renamed").status == 204


@pytest.mark.parametrize("path", ["/images/load", "/images/create?fromSrc=-&repo=gone&tag=1"])
@pytest.mark.parametrize("part", [0, 700, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_vanishes_leaves_nothing(
    small: Daemon, path: str, part: int, chunked: bool
) -> None:
    layer = tar({"big": os.urandom(6 << 20)})
    data = docker_save([layer], ["gone:1"]) if "load" in path else layer
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n{length}\r\n\r\n"
    body = data[:part]
    if chunked and body:
        body = b"%x\r\n%s" % (len(data), body)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(small.socket)
        sock.sendall(head.encode() + body)
        # Far enough for it to be at work.
        if part > 100_000:
            small.wait_for(lambda: os.listdir(small.data_root / "content/ingest") != [])
    assert small.get("/images/gone:1/json").status == 404
    assert small.get("/_ping").status == 200
