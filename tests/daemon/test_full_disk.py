"""A disk that is full to the last byte: containers are stopped, and things are removed.

What else a full disk is in the way of, and what of it is said, is in ``test_loads``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sampan.kernel.mounts import mount, umount
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, docker_save

pytestmark = pytest.mark.root

DISK = 40 << 20
ROWS = 5000


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    disk = tmp_path_factory.mktemp("small")
    mount("tmpfs", str(disk), "tmpfs", 0, f"size={DISK}")
    one = Daemon(disk)
    try:
        one.start()
        yield one
    finally:
        one.close()
        umount(str(disk))


def fill(daemon: Daemon) -> None:
    """Until neither a byte nor a row finds room: what SQLite has allocated is used up too."""
    fd = os.open(daemon.data_root / "fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for piece in (1 << 20, 4096, 1):
        with suppress(OSError):
            while True:
                os.write(fd, bytes(piece))
    os.close(fd)
    idle = daemon.get("/containers/json", all=1, filters='{"label":["idle"]}').json()[0]["Id"]
    for number in range(ROWS):
        answer = daemon.post(f"/containers/{idle}/rename", name=f"idle{number}")
        if answer.status != 204:
            assert "no space left on device" in answer.message
            return
    raise AssertionError("the disk is not full")


def held(daemon: Daemon) -> int:
    return (daemon.data_root / "reserve").stat().st_blocks * 512


def test_what_is_on_a_full_disk_is_stopped_and_removed(small: Daemon) -> None:
    images = [("a:1", [BASE, ONE]), ("b:1", [BASE]), ("c:1", [ONE])]
    for name, layers in images:
        assert small.request("POST", "/images/load", docker_save(layers, [name])).status == 200
    small.create("true", Labels={"idle": ""})
    policy = {"RestartPolicy": {"Name": "unless-stopped"}}
    for name in ("stopped", "removed"):
        small.run("sleep", "600", name=name, HostConfig=policy)
    small.run("sleep", "600", name="passing", HostConfig={"AutoRemove": True})
    assert small.post("/volumes/create", {"Name": "vol"}).status == 201
    assert small.post("/networks/create", {"Name": "net"}).status == 201
    fill(small)
    whole = held(small)
    assert small.post("/containers/stopped/stop", t=0).status == 204
    assert small.state("stopped")["Status"] == "exited"
    assert small.delete("/containers/removed", force=1).status == 204
    assert small.post("/containers/passing/kill").status == 204
    small.wait_for(lambda: small.get("/containers/passing/json").status == 404, 60)
    assert small.delete("/volumes/vol").status == 204
    assert small.delete("/networks/net").status == 204
    for name, _ in images:
        assert small.delete(f"/images/{name}").status == 200
    # The next daemon knows all of that, and may remove things too.
    small.kill()
    small.start()
    assert small.state("stopped")["Status"] == "exited"
    assert [one["Names"] for one in small.get("/containers/json", all=1).json()] != []
    assert small.delete("/containers/stopped").status == 204
    assert [i["RepoTags"] for i in small.get("/images/json").json()] == [["host:latest"]]
    assert small.get("/volumes").json()["Volumes"] == []
    assert whole == 1 << 20
    (small.data_root / "fill").unlink()
    assert small.post("/volumes/create", {"Name": "after"}).status == 201
    assert held(small) == whole
