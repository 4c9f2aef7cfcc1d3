"""Old API versions, as their clients speak them: the same engine, in the words of their time."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, OLD_DOCKER, Daemon

pytestmark = pytest.mark.root

VERSIONS = ["1.24", "1.30", "1.41", "1.44", "1.51"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_life_in_every_version(daemon: Daemon, version: str) -> None:
    def ask(method: str, path: str, body: object = None, **query: object) -> Any:
        return daemon.request(method, f"/v{version}{path}", body, query=query)

    assert ask("GET", "/version").json()["ApiVersion"] == "1.51"
    assert ask("GET", "/info").json()["Driver"] == "overlay2"
    body = {"Image": "host", "Cmd": ["echo", "x"], "HostConfig": {"NetworkMode": "none"}}
    container = ask("POST", "/containers/create", body, name="old").json()["Id"]
    assert ask("POST", "/containers/old/start").status == 204
    assert ask("POST", "/containers/old/wait").json()["StatusCode"] == 0
    answer = ask("GET", "/containers/old/logs", stdout=1)
    assert answer.body == b"\x01\0\0\0\0\0\0\x02x\n"
    multiplexed = "application/vnd.docker.multiplexed-stream"
    raw = "application/vnd.docker.raw-stream"
    assert answer.headers["Content-Type"] == (multiplexed if version >= "1.42" else raw)
    (listed,) = ask("GET", "/containers/json", all=1).json()
    assert (listed["Id"], listed["State"]) == (container, "exited")
    shown = ask("GET", "/containers/old/json").json()
    assert shown["State"]["ExitCode"] == 0
    image = ask("GET", "/images/host/json").json()
    assert ask("GET", "/images/json").json()[0]["Id"] == image["Id"]
    assert ask("DELETE", "/containers/old").status == 204
    assert ask("GET", "/containers/old/json").status == 404


def test_info_speaks_as_it_did(daemon: Daemon) -> None:
    info = daemon.get("/v1.24/info").json()
    assert info["SecurityOptions"] == ["seccomp"]
    assert info["ExecutionDriver"] == "<not supported>"
    assert daemon.get("/v1.41/info").json()["BridgeNfIptables"] is False
    info = daemon.get("/v1.51/info").json()
    assert info["SecurityOptions"][0].startswith("name=seccomp")
    assert not {"ExecutionDriver", "KernelMemory", "BridgeNfIptables"} & info.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_images_fields_are_those_of_the_version(daemon: Daemon, version: str) -> None:
    """Until 1.43 an image with neither name nor digest is called so, and only such an image; until
    1.50 its configuration has the fields of a container's, empty."""
    old = [int(part) for part in version.split(".")]
    (listed,) = daemon.get(f"/v{version}/images/json").json()
    assert (listed["RepoTags"], listed["RepoDigests"]) == (["host:latest"], [])
    config = daemon.get(f"/v{version}/images/host/json").json()["Config"]
    assert ("Hostname" in config) == ("Tty" in config) == (old < [1, 50])
    assert {"Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"} <= (
        config.keys()
    )


@pytest.mark.peer
@pytest.mark.parametrize("version", ["1.24", "1.41"])
@pytest.mark.parametrize("client", [DOCKER, OLD_DOCKER], ids=["new", "old"])
def test_clients_held_to_an_old_version_work(daemon: Daemon, client: str, version: str) -> None:
    def docker(*words: str) -> str:
        done = subprocess.run(
            [client, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(daemon.root),
                "DOCKER_HOST": daemon.host,
                "DOCKER_API_VERSION": version,
            },
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert docker("run", "--rm", "--network", "none", "host", "echo", "in") == "in\n"
    name = docker("run", "-d", "--network", "none", "host", "sleep", "600").strip()
    assert docker("exec", name, "echo", "more") == "more\n"
    assert docker("ps", "-q", "--no-trunc").strip() == name
    assert "host" in docker("images")
    docker("info")
    assert version in docker("version")
    docker("rm", "-f", name)


@pytest.mark.peer
@pytest.mark.parametrize("version", ["1.24", "1.41", "auto"])
def test_docker_py_of_an_old_version_works(daemon: Daemon, version: str) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=daemon.host, version=version, timeout=60)
    out = client.containers.run("host", ["echo", "x"], network_mode="none", remove=True)
    assert out == b"x\n"
    assert client.info()["Name"]
    assert client.networks.list(names=["host"])[0].name == "host"
    assert client.containers.list() == []
    client.close()
