"""A commit of a container that is removed meanwhile: all of it, or no image."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.test_commit import BUSYBOX
from tests.daemon_fixture import Answer, Daemon
from tests.image.archives import docker_save

pytestmark = pytest.mark.root

FILES = 8000


def tree() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(FILES):
            tar.addfile(tarfile.TarInfo(f"many/{number // 100}/{number}"))
    return packed.getvalue()


def files_of_last_layer(daemon: Daemon, image: str) -> int:
    saved = daemon.get(f"/images/{image}/get").body
    with tarfile.open(fileobj=io.BytesIO(saved)) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        last = outer.extractfile(json.load(manifest)[0]["Layers"][-1])
        with tarfile.open(fileobj=last) as inner:
            return sum(member.isfile() for member in inner)


def test_an_image_has_no_hole_where_its_container_was_removed(daemon: Daemon) -> None:
    daemon.request("POST", "/images/load", docker_save([BUSYBOX], ["base:1"]))
    made = daemon.create("/bin/sh", Image="base:1")
    kind = {"Content-Type": "application/x-tar"}
    path = f"/containers/{made}/archive?path=/"
    assert daemon.request("PUT", path, tree(), headers=kind).status == 200
    ingest = daemon.data_root / "content" / "ingest"
    known = set(ingest.iterdir())

    def commit() -> Answer:
        return daemon.post("/commit", container=made)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(commit)
        daemon.wait_for(lambda: answer.done() or set(ingest.iterdir()) - known)
        assert daemon.delete(f"/containers/{made}").status == 204
        done = answer.result()
    if done.status == 201:  # it was faster
        assert files_of_last_layer(daemon, done.json()["Id"]) == FILES
    else:
        assert (done.status, "removed meanwhile" in done.message) == (404, True)
        assert len(daemon.get("/images/json", all=1).json()) == 2
