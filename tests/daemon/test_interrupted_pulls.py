"""A pull that its daemon, its disk or its registry does not live to see the end of."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel.mounts import mount, umount
from tests.api.pulling import Slow, carrier_of, left, partials, pull
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE
from tests.registry.registries import Liar, image_of, liar, sha256
from tests.storage.drivers.layers import layer

__all__ = ["liar"]
pytestmark = pytest.mark.root

LAYERS = [
    BASE,
    *(layer({f"f{n}": random.Random(n).randbytes(3_000_000)}) for n in range(3)),
]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path)
    yield one.start()
    one.close()


def begin(daemon: Daemon, name: str) -> socket.socket:
    """Ask for a pull and do not wait."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    target = f"/images/create?fromImage={name}&tag=1"
    sock.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def test_a_killed_daemon_s_next_life_goes_on_with_the_bytes(own: Daemon, liar: Liar) -> None:
    big = LAYERS[1]
    manifest, blobs = image_of([BASE, big])
    liar.hold("a", "1", manifest, blobs)
    slow = Slow(liar, f"/v2/a/blobs/{sha256(big)}", big)
    sock = begin(own, f"{liar.address}/a")
    assert slow.half.wait(60)
    own.wait_for(lambda: sum(partials(own)) >= len(big) // 2)
    carrier = carrier_of(own)
    own.kill()
    sock.close()
    slow.go.set()
    own.wait_for(lambda: not os.path.exists(f"/proc/{carrier}"))
    slow.truthful()
    own.start()
    assert os.listdir(own.data_root / "overlay2/staging") == []
    assert len(big) // 2 in partials(own)  # the small one may have been about to be placed
    assert [i["RepoTags"] for i in own.get("/images/json").json()] == [["host:latest"]]
    status, messages = pull(own, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    last = liar.requests("GET", f"/v2/a/blobs/{sha256(big)}")[-1]
    assert last["range"] == f"bytes={len(big) // 2}-"
    assert partials(own) == []


def test_killed_at_any_moment_a_pull_is_there_or_not_and_can_be_had(
    own: Daemon, liar: Liar
) -> None:
    manifest, blobs = image_of(LAYERS)
    liar.hold("a", "1", manifest, blobs)
    name = f"{liar.address}/a"
    chooser = random.Random(7)
    for _ in range(8):
        sock = begin(own, name)
        time.sleep(chooser.uniform(0, 0.4))
        own.kill()
        sock.close()
        own.start()
        assert os.listdir(own.data_root / "overlay2/staging") == []
        shown = own.get(f"/images/{name}:1/json")
        if shown.status == 200:
            # All of it, down to the bytes of the layers.
            made = own.post("/containers/create", {"Image": f"{name}:1", "Cmd": ["x"]})
            assert made.status == 201, made.body
            assert len(shown.json()["RootFS"]["Layers"]) == len(LAYERS)
            own.remove_all()
            own.delete(f"/images/{name}:1")
    status, messages = pull(own, name, "1")
    assert (status, messages[-1].get("error")) == (200, None)
    own.delete(f"/images/{name}:1")
    found = left(own)
    assert found["content/blobs/sha256"] == []
    assert len(found["overlay2/layers"]) == 1  # the host image's


def test_a_disk_that_fills_up_is_said_and_emptied_again(tmp_path: Path, liar: Liar) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount("tmpfs", str(small), "tmpfs", 0, "size=12m")
    one = Daemon(small)
    try:
        one.start()
        one.get("/images/json")
        manifest, blobs = image_of(LAYERS)
        liar.hold("a", "1", manifest, blobs)
        before, free = left(one), os.statvfs(small).f_bavail
        status, messages = pull(one, f"{liar.address}/a", "1")
        assert status == 200
        assert "no space left on device" in messages[-1]["error"]
        one.wait_for(lambda: left(one) == before)
        kept = sum(partials(one))
        # What is kept for the next try is a download's, nothing else.
        one.wait_for(lambda: os.statvfs(small).f_bavail * 4096 + kept + (1 << 20) > free * 4096)
        assert one.get("/_ping").status == 200
        manifest, blobs = image_of([BASE])
        liar.hold("b", "1", manifest, blobs)
        for path in (one.data_root / "content/ingest").iterdir():
            path.unlink()
        status, messages = pull(one, f"{liar.address}/b", "1")
        assert (status, messages[-1].get("error")) == (200, None)
    finally:
        one.close()
        umount(str(small))


def test_a_registry_that_dies_half_way_and_comes_back_is_waited_for(
    own: Daemon, liar: Liar
) -> None:
    from tests.registry.test_download import at_port

    big = LAYERS[1]
    manifest, blobs = image_of([BASE, big])
    liar.hold("a", "1", manifest, blobs)
    slow = Slow(liar, f"/v2/a/blobs/{sha256(big)}", big)
    slow.on = False
    results: list[tuple[int, list[object]]] = []
    thread = threading.Thread(target=lambda: results.append(pull(own, f"{liar.address}/a", "1")))
    thread.start()
    assert slow.half.wait(60)
    liar.close()
    slow.go.set()
    time.sleep(0.7)  # one attempt finds nobody
    back = at_port(liar.port)
    try:
        back.hold("a", "1", manifest, blobs)
        thread.join(60)
        ((status, messages),) = results
        assert (status, "error" in json.dumps(messages)) == (200, False)
        assert "Retrying in" in json.dumps(messages)
        assert back.requests("GET", f"/v2/a/blobs/{sha256(big)}")[0]["range"].startswith("bytes=")
    finally:
        back.close()


def test_what_unpacks_ends_with_a_killed_daemon(own: Daemon) -> None:
    """At once, with a layer of a few kilobytes that would take long."""
    from tests.storage.unpacking.test_unpacking import zeros

    def below(pid: int) -> set[int]:
        found = set()
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (thread / "children").read_text().split()}
        return found.union(*map(below, found)) if found else found

    data = zeros(3 << 30)
    staging = own.data_root / "overlay2/staging"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(own.socket)
        head = f"POST /images/create?fromSrc=- HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}"
        sock.sendall(head.encode() + b"\r\n\r\n" + data)
        own.wait_for(lambda: any(staging.glob("*/diff/zeros")), 30)
        unpackers = {
            pid
            for pid in below(own.pid)
            if Path(f"/proc/{pid}/comm").read_text() == "sampan-unpack\n"
        }
        assert len(unpackers) == 2
        own.kill()
    own.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in unpackers))
    own.start()
    assert os.listdir(staging) == []
    assert os.listdir(own.data_root / "content/ingest") == []
