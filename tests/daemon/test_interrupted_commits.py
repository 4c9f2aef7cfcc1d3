"""A commit that its daemon does not live to see the end of."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_fixture import Daemon
from tests.image.archives import docker_save
from tests.storage.drivers.layers import layer

pytestmark = pytest.mark.root

BUSYBOX = layer({"bin/": None, "bin/sh": Path("/bin/busybox").read_bytes()}, 0o755)
WRITING = (
    "dd if=/dev/urandom of=/big bs=1M count=60; echo ready; while :; do echo x; sleep 0.05; done"
)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path).start()
    one.request("POST", "/images/load", docker_save([BUSYBOX], ["base:1"]))
    yield one
    one.close()


def lines(daemon: Daemon, container: str) -> int:
    answer = daemon.get(f"/containers/{container}/logs", stdout=1)
    return answer.body.count(b"x\n")


def left(daemon: Daemon) -> dict[str, list[str]]:
    content = daemon.data_root / "content"
    layers = daemon.data_root / "overlay2"
    places = (content / "ingest", content / "blobs/sha256", layers / "staging", layers / "layers")
    return {str(place): sorted(os.listdir(place)) for place in places}


def begin(daemon: Daemon, container: str) -> threading.Thread:
    def ask() -> None:
        with contextlib.suppress(OSError):
            daemon.post("/commit", container=container, repo="half")

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.parametrize("part", [0, 10_000_000])
def test_what_it_was_frozen_for_has_ended_and_left_nothing(own: Daemon, part: int) -> None:
    made = own.create("/bin/sh", "-c", WRITING, Image="base:1")
    own.post(f"/containers/{made}/start")
    own.wait_for(lambda: lines(own, made) > 0)
    images = sorted(image["Id"] for image in own.get("/images/json", all=1).json())
    before = left(own)
    thread = begin(own, made)
    own.wait_for(lambda: own.state(made)["Status"] == "paused")
    ingest = own.data_root / "content/ingest"
    own.wait_for(lambda: sum(e.stat().st_size for e in os.scandir(ingest)) >= part)
    own.kill()
    thread.join(60)
    own.start()
    assert own.state(made)["Status"] == "running"
    seen = lines(own, made)
    own.wait_for(lambda: lines(own, made) > seen)
    assert left(own) == before
    assert sorted(image["Id"] for image in own.get("/images/json", all=1).json()) == images
    assert own.post("/commit", container=made, repo="whole").status == 201
    assert own.state(made)["Status"] == "running"


def test_what_somebody_froze_stays_frozen(own: Daemon) -> None:
    made = own.create("/bin/sh", "-c", "while :; do echo x; sleep 0.05; done", Image="base:1")
    own.post(f"/containers/{made}/start")
    assert own.post("/commit", container=made, repo="first").status == 201
    own.post(f"/containers/{made}/pause")
    own.kill()
    own.start()
    assert own.state(made)["Status"] == "paused"
    assert own.post(f"/containers/{made}/unpause").status == 204
