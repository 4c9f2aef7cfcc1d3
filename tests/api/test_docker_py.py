"""docker-py, operation by operation: what test suites and tools of Python's world are built on."""

from __future__ import annotations

import io
import json
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.busybox import import_image
from tests.daemon_fixture import DOCKER, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.peer]

RUNS = {"network_mode": "none", "detach": True}


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Any]:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=daemon.host, timeout=60)
    yield client
    client.close()
    daemon.remove_all()


def test_a_container_is_restarted_killed_and_updated(api: Any) -> None:
    one = api.containers.run("host", ["sleep", "600"], tty=True, name="one", **RUNS)
    began = one.attrs["State"].get("StartedAt")
    one.resize(30, 100)
    one.restart(timeout=0)
    one.reload()
    assert one.attrs["State"]["StartedAt"] != began
    one.update(mem_limit="64m", memswap_limit="64m", cpu_shares=300)
    one.reload()
    assert one.attrs["HostConfig"]["Memory"] == 64 * 1024 * 1024
    assert one.attrs["HostConfig"]["CpuShares"] == 300
    one.pause()
    one.unpause()
    one.rename("other")
    assert api.containers.get("other").id == one.id
    assert one.stats(stream=False)["id"] == one.id
    assert one.top()["Processes"]
    one.kill("KILL")
    assert one.wait()["StatusCode"] == 137


def test_files_go_in_and_out(daemon: Daemon, api: Any) -> None:
    import_image(daemon, "small:1", {"tmp": None})
    one = api.containers.run("small:1", ["sleep", "600"], name="files", **RUNS)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("made")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"here"))
    assert one.put_archive("/tmp", out.getvalue())
    parts, status = one.get_archive("/tmp/made")
    assert status["name"] == "made"
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        held = archive.extractfile("made")
        assert held is not None
        assert held.read() == b"here"
    assert {"Path": "/tmp/made", "Kind": 1} in one.diff()
    with tarfile.open(fileobj=io.BytesIO(b"".join(one.export()))) as archive:
        assert "tmp/made" in archive.getnames()
    image = one.commit("kept", "1", changes=["LABEL by=docker-py"])
    assert image.labels["by"] == "docker-py"
    assert b"".join(image.save())[257:262] == b"ustar"
    assert api.containers.run("kept:1", ["cat", "/tmp/made"], network_mode="none") == b"here"
    assert api.containers.prune()["ContainersDeleted"]
    one.remove(force=True)
    api.images.remove("kept:1")
    api.images.prune({"dangling": True})


def test_an_exec_has_a_terminal_and_a_code(api: Any) -> None:
    one = api.containers.run("host", ["sleep", "600"], **RUNS)
    code, out = one.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
    assert (code, out) == (3, (b"out\n", b"err\n"))
    instance = api.api.exec_create(one.id, ["sleep", "5"], tty=True)["Id"]
    api.api.exec_start(instance, detach=True)
    api.api.exec_resize(instance, height=20, width=70)
    assert api.api.exec_inspect(instance)["Running"] is True
    stream = api.api.exec_start(api.api.exec_create(one.id, ["cat"], stdin=True)["Id"], socket=True)
    stream._sock.sendall(b"echoed\n")
    assert b"echoed" in stream._sock.recv(100)
    stream.close()


def test_what_happens_is_told(api: Any) -> None:
    before = int(time.time())
    one = api.containers.run("host", ["true"], labels={"told": "yes"}, **RUNS)
    one.wait()
    events = list(
        api.events(since=before, until=int(time.time()) + 1, decode=True,
                   filters={"container": one.id})
    )  # fmt: skip
    assert [event["Action"] for event in events][:3] == ["create", "start", "die"]
    assert events[0]["Actor"]["Attributes"]["told"] == "yes"


def test_the_engine_is_asked(api: Any) -> None:
    assert api.ping()
    assert api.version()["ApiVersion"] == "1.51"
    assert api.info()["Driver"] == "overlay2"
    assert api.df()["Images"]
    assert api.networks.get("host").attrs["Driver"] == "host"
    volume = api.volumes.create("held", labels={"a": "b"})
    assert api.volumes.get("held").attrs["Labels"] == {"a": "b"}
    assert [one.name for one in api.volumes.list(filters={"label": "a=b"})] == ["held"]
    volume.remove()
    assert api.volumes.prune()["SpaceReclaimed"] == 0


@pytest.mark.skipif(not DOCKER, reason="no client")
def test_the_client_prunes_the_system(daemon: Daemon) -> None:
    daemon.wait(daemon.run("true", name="ended"))
    done = daemon.docker("system", "prune", "-f", "--volumes")
    assert done.returncode == 0, done.stderr
    assert "Total reclaimed space" in done.stdout
    assert daemon.get("/containers/ended/json").status == 404
    assert json.loads(daemon.post("/build/prune").body)["SpaceReclaimed"] == 0
