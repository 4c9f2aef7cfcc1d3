"""Everyday commands of the real client, and docker-py: what people and programs actually send."""

from __future__ import annotations

import io
import json
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import DOCKER, OLD_DOCKER, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.peer]

CLIENTS = [
    pytest.param(DOCKER, marks=pytest.mark.skipif(not DOCKER, reason="no client"), id="new"),
    pytest.param(
        OLD_DOCKER, marks=pytest.mark.skipif(not OLD_DOCKER, reason="no client"), id="old"
    ),
]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_day_of_the_command_line(daemon: Daemon, client: str) -> None:
    def docker(*arguments: str) -> str:
        done = daemon.docker(*arguments, program=client)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run = ("run", "-d", "--network", "none", "--name", "worker", "-l", "kind=day")
    command = "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"
    container = docker(*run, "host", "sh", "-c", command).strip()
    assert docker("ps", "-q", "--no-trunc").strip() == container
    assert "Up " in docker("ps", "--filter", "label=kind=day")
    daemon.wait_for(lambda: docker("logs", "worker") == "up\n")
    assert docker("inspect", "-f", "{{.State.Status}} {{.Name}}", "worker") == "running /worker\n"
    assert docker("exec", "worker", "echo", "in") == "in\n"
    docker("pause", "worker")
    assert "(Paused)" in docker("ps")
    docker("unpause", "worker")
    docker("rename", "worker", "helper")
    assert "sh -c" in docker("top", "helper")
    docker("stop", "helper")
    assert docker("wait", "helper") == "5\n"
    assert "Exited (5)" in docker("ps", "-a")
    docker("start", "helper")
    docker("kill", "-s", "KILL", "helper")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "helper") == "137\n"
    assert docker("start", "-a", docker("create", "--network", "none", "host", "echo", "a").strip())
    docker("rm", "-f", *docker("ps", "-aq").split())
    assert docker("ps", "-aq") == ""
    assert "host" in docker("images")
    assert "Server" in docker("version")
    assert "overlay2" in docker("info")


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Any]:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=daemon.host, timeout=60)
    yield client
    client.close()
    daemon.remove_all()


def test_docker_py_runs_and_looks(api: Any) -> None:
    out = api.containers.run("host", ["sh", "-c", "echo out; echo err >&2"], network_mode="none",
                             remove=True, stdout=True, stderr=True)  # fmt: skip
    assert sorted(out.splitlines()) == [b"err", b"out"]
    errors = __import__("docker").errors
    with pytest.raises(errors.ContainerError) as caught:
        api.containers.run("host", ["sh", "-c", "exit 3"], network_mode="none", remove=True)
    assert caught.value.exit_status == 3
    with pytest.raises(errors.NotFound):
        api.containers.get("nosuch")
    assert api.ping()
    assert api.version()["ApiVersion"] == "1.51"
    assert "host:latest" in [tag for image in api.images.list() for tag in image.tags]


def test_docker_py_drives_a_container(api: Any) -> None:
    container = api.containers.run(
        "host",
        ["sh", "-c", "trap 'exit 4' TERM; while :; do echo tick; sleep 0.05; done"],
        detach=True,
        network_mode="none",
        name="driven",
        environment={"A": "1"},
        labels={"k": "v"},
        mem_limit="64m",
        working_dir="/usr",
        tmpfs={"/scratch": "size=1m"},
        cap_drop=["ALL"],
    )
    assert container.status in ("created", "running")
    code, output = container.exec_run(["sh", "-c", "echo $A; pwd; exit 7"])
    assert (code, output) == (7, b"1\n/usr\n")
    result = container.exec_run("sh -c 'echo out; echo err >&2'", demux=True)
    assert result.output == (b"out\n", b"err\n")
    lines = container.logs(stream=True, follow=True)
    assert next(lines) == b"tick\n"
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    assert container.top()["Processes"]
    container.rename("renamed")
    container.stop(timeout=5)
    assert container.wait()["StatusCode"] == 4
    container.remove(v=True)


def test_docker_py_attaches_with_input(api: Any) -> None:
    container = api.containers.create("host", "cat", stdin_open=True, network_mode="none")
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    sock._sock.sendall(b"ping\n")
    time.sleep(0.1)
    assert sock._sock.recv(100)[8:] == b"ping\n"
    sock.close()


def test_docker_py_moves_images(api: Any, daemon: Daemon) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    answer = api.api.import_image_from_data(tar.getvalue(), repository="py", tag="1")
    assert json.loads(answer.splitlines()[-1])["status"].startswith("sha256:")
    image = api.images.get("py:1")
    assert image.tag("py", "2")
    data = b"".join(image.save(named=True))
    api.images.remove("py:1")
    api.images.remove("py:2")
    assert [tag for one in api.images.load(data) for tag in one.tags] == ["py:1"]
    assert api.images.get("py:1").history()[0]["Tags"] == ["py:1"]
    api.images.remove("py:1")
