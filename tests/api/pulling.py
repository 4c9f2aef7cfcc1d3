"""Pulls, for tests: asked for through the API, and what is left behind by them."""

from __future__ import annotations

import base64
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import Daemon
from tests.image.archives import BASE
from tests.registry.registries import (
    OCI_INDEX,
    OCI_MANIFEST,
    PASSWORD,
    USER,
    Liar,
    image_of,
    sha256,
)
from tests.storage.drivers.layers import layer

__all__ = [
    "BIG",
    "DOCKER_LAYER",
    "DOCKER_MANIFEST",
    "NOISE",
    "Slow",
    "auth",
    "carrier_of",
    "failure",
    "index_of",
    "is_clean",
    "left",
    "nothing_stays",
    "partials",
    "peak",
    "pull",
    "slow",
]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
NOISE = random.Random(2).randbytes(6_000_000)
BIG = layer({"big": NOISE})


def pull(daemon: Daemon, name: str, tag: str = "", **query: object) -> tuple[int, list[Any]]:
    """Status and messages."""
    headers = query.pop("headers", {})
    answer = daemon.request(
        "POST",
        "/images/create",
        query={"fromImage": name, "tag": tag, **query},
        headers=headers,  # type: ignore[arg-type]
        timeout=90,
    )
    return answer.status, [json.loads(line) for line in answer.body.splitlines() if line]


def failure(daemon: Daemon, name: str, tag: str = "", **query: object) -> str:
    """The error's message, wherever it was told; nothing may be left of the pull."""
    before = left(daemon)
    status, messages = pull(daemon, name, tag, **query)
    if status != 200:
        (message,) = messages
        text = message["message"]
    else:
        assert messages[-1]["errorDetail"]["message"] == messages[-1]["error"]
        text = messages[-1]["error"]
    daemon.wait_for(lambda: is_clean(daemon, before))
    return str(text)


def left(daemon: Daemon) -> dict[str, list[str]]:
    """What is there of images and their layers, partial downloads apart."""
    # What is in the trash is gone already, and deleted a moment later.
    places = ("content/blobs/sha256", "overlay2/layers", "overlay2/staging")
    images = sorted(image["Id"] for image in daemon.get("/images/json").json())
    return {
        "images": images,
        **{place: sorted(os.listdir(daemon.data_root / place)) for place in places},
    }


def is_clean(daemon: Daemon, before: dict[str, list[str]]) -> bool:
    """Nothing is there that was not before; what was may have gone, an earlier test's last."""
    return all(set(names) <= set(before[place]) for place, names in left(daemon).items())


def partials(daemon: Daemon) -> list[int]:
    place = daemon.data_root / "content/ingest"
    return [path.stat().st_size for path in place.iterdir()]


def auth(user: str = USER, password: str = PASSWORD, **more: str) -> dict[str, str]:
    config = {"username": user, "password": password, **more}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(config).encode()).decode()}


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
    for image in daemon.get("/images/json").json():
        daemon.delete(f"/images/{image['Id']}", force=1)
    for path in (daemon.data_root / "content/ingest").iterdir():
        path.unlink()


def index_of(entries: list[tuple[bytes, dict[str, str]]]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": sha256(manifest),
                    "size": len(manifest),
                    "platform": platform,
                }
                for manifest, platform in entries
            ],
        }
    ).encode()


def peak(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))


def carrier_of(daemon: Daemon) -> int:
    for pid in daemon.zygotes():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sampan-carrier":
            return pid
    raise AssertionError("no carrier runs")


class Slow:
    """Sends half of a blob, then waits until it is let go, and hangs up or goes on."""

    def __init__(self, liar: Liar, path: str, data: bytes) -> None:
        self.half = threading.Event()
        self.go = threading.Event()
        self.on = True
        self._data = data
        self._liar = liar
        self._path = path
        liar.paths["GET", path] = self

    def __call__(self, request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(self._data)))
        request.end_headers()
        middle = len(self._data) // 2
        request.wfile.write(self._data[:middle])
        request.wfile.flush()
        self.half.set()
        assert self.go.wait(60)
        if self.on:
            request.wfile.write(self._data[middle:])
        request.close_connection = True

    def truthful(self) -> None:
        self._liar.held[self._path] = "x", self._data
        del self._liar.paths["GET", self._path]


@pytest.fixture
def slow(liar: Liar) -> Iterator[Slow]:
    manifest, blobs = image_of([BASE, BIG])
    liar.hold("a", "1", manifest, blobs)
    one = Slow(liar, f"/v2/a/blobs/{sha256(BIG)}", BIG)
    yield one
    one.go.set()
