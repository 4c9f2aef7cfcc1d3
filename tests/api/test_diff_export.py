"""``docker diff`` and ``docker export``: what a container wrote, and all it stands on."""

from __future__ import annotations

import http.client
import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sampan.storage.drivers import DRIVERS
from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon, own_root

pytestmark = pytest.mark.root

SCRIPT = (
    "echo new >/new; rm /data/gone; echo more >>/data/file; mkdir -p /data/d/e; echo v >/v/file"
)


@pytest.fixture(scope="module", params=DRIVERS)
def daemon(request: pytest.FixtureRequest, quick: Path) -> Iterator[Daemon]:
    one = Daemon(own_root(quick), "--storage-driver", request.param)
    try:
        one.start()
        import_image(one, "diff:1", {"data": None, "data/file": b"x", "data/gone": b""})
        yield one
    finally:
        one.close()


@pytest.fixture
def container(daemon: Daemon) -> Iterator[str]:
    made = daemon.run(
        "sh", "-c", SCRIPT, Image="diff:1", HostConfig={"Binds": ["vol:/v"], "Tmpfs": {"/t": ""}}
    )
    assert daemon.wait(made) == 0
    yield made
    daemon.remove_all()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_changes(daemon: Daemon, container: str) -> None:
    expected = [
        ("C", "/data"), ("A", "/data/d"), ("A", "/data/d/e"), ("C", "/data/file"),
        ("D", "/data/gone"), ("A", "/new"), ("A", "/t"), ("A", "/v"),
    ]  # fmt: skip
    answer = daemon.get(f"/containers/{container}/changes")
    shown = [("CAD"[change["Kind"]], change["Path"]) for change in answer.json()]
    assert shown == expected
    done = daemon.docker("diff", container)
    assert sorted(done.stdout.splitlines()) == sorted(f"{kind} {path}" for kind, path in expected)
    client = docker.DockerClient(base_url=daemon.host)
    try:
        assert len(client.containers.get(container).diff()) == len(expected)
    finally:
        client.close()


def test_nothing_changed_before_anything_ran(daemon: Daemon) -> None:
    container = daemon.create("true", Image="diff:1")
    assert daemon.get(f"/containers/{container}/changes").json() == []
    assert daemon.get("/containers/nobody/changes").status == 404
    daemon.post(f"/containers/{container}/start")
    daemon.wait(container)
    assert daemon.docker("diff", container).stdout == ""
    daemon.remove_all()


@pytest.mark.parametrize("running", [True, False])
def test_an_export_has_all_but_what_is_mounted(
    daemon: Daemon, container: str, running: bool, tmp_path: Path
) -> None:
    if running:
        script = f"{SCRIPT.replace('rm /data/gone; ', '')}; touch /ready; sleep 100"
        daemon.delete(f"/containers/{container}")
        container = daemon.run("sh", "-c", script, Image="diff:1",
                               HostConfig={"Binds": ["vol:/v"], "Tmpfs": {"/t": ""}})  # fmt: skip
        daemon.wait_for(lambda: daemon.docker("exec", container, "ls", "/ready").returncode == 0)
    answer = daemon.get(f"/containers/{container}/export")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    found = names(answer.body)
    assert {"bin/busybox", "data/file", "new", "v", "t", "etc/hosts", "etc/mtab", "proc"} <= set(
        found
    )
    assert not [name for name in found if name.startswith(("v/", "proc/", "dev/", "/"))]
    target = tmp_path / "out.tar"
    done = daemon.docker("export", "-o", str(target), container)
    assert done.returncode == 0, done.stderr
    (tmp_path / "root").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "root"), "-xf", str(target)], check=True)
    assert (tmp_path / "root/data/file").read_text() == "xmore\n"
    assert os.readlink(tmp_path / "root/bin/sh") == "busybox"
    again = daemon.docker("import", str(target), "again:1")
    assert again.returncode == 0, again.stderr
    ran = daemon.docker("run", "--rm", "--network=none", "again:1", "cat", "/new")
    assert ran.stdout == "new\n", ran.stderr


def test_the_host_image_is_exported_with_what_is_written_over_it(
    daemon: Daemon, request: pytest.FixtureRequest
) -> None:
    if "vfs" in request.node.name:
        pytest.skip("vfs cannot lay anything over this machine's directories")
    container = daemon.run("sh", "-c", "echo mine >/etc/mine; rm /etc/profile")
    daemon.wait(container)
    with (
        daemon_stream(daemon, f"/containers/{container}/export") as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        found = set()
        for info in archive:
            found.add(info.name)
            if info.name > "etc/z":
                break
    assert "etc/mine" in found and "etc/passwd" in found
    assert "etc/profile" not in found
    daemon.remove_all()


def daemon_stream(daemon: Daemon, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    connection.request("GET", path)
    return connection.getresponse()
