"""``GET /system/df``: images, containers and volumes, measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def filled(daemon: Daemon) -> Iterator[str]:
    """An image, and one that shares its layer; a container that wrote 10 bytes; two volumes."""
    import_image(daemon, "df:1", {"large": b"x" * 5000})
    container = daemon.run(
        "sh", "-c", "echo 123456789 >/wrote; echo 1234 >/v/file", Image="df:1", name="wrote",
        HostConfig={"Binds": ["used:/v"]},
    )  # fmt: skip
    daemon.wait(container)
    unused = daemon.post("/volumes/create", {"Name": "unused"}).json()
    Path(unused["Mountpoint"], "file").write_bytes(b"x" * 100)
    options = {"type": "tmpfs", "device": "tmpfs"}
    daemon.post("/volumes/create", {"Name": "optional", "DriverOpts": options})
    yield container


def by(entries: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {str(entry[key]): entry for entry in entries}


def test_all_of_it(daemon: Daemon, filled: str) -> None:
    shown = daemon.get("/system/df").json()
    image = next(one for one in shown["Images"] if one["RepoTags"] == ["df:1"])
    assert image["Containers"] == 1
    assert image["SharedSize"] == 0
    assert shown["LayersSize"] >= image["Size"] > 5000
    entry = by(shown["Containers"], "Id")[filled]
    assert (entry["SizeRw"], entry["SizeRootFs"]) == (10, image["Size"] + 10)
    volumes = by(shown["Volumes"], "Name")
    assert volumes["used"]["UsageData"] == {"Size": 5, "RefCount": 1}
    assert volumes["unused"]["UsageData"] == {"Size": 100, "RefCount": 0}
    assert volumes["optional"]["UsageData"] == {"Size": -1, "RefCount": 0}
    assert shown["BuildCache"] == []


@pytest.mark.parametrize(
    ("kinds", "fields"),
    [
        (["volume"], {"Volumes"}),
        (["image", "build-cache"], {"Images", "BuildCache"}),
        (["container"], {"Containers"}),
    ],
)
def test_what_is_asked_for(daemon: Daemon, filled: str, kinds: list[str], fields: set[str]) -> None:
    shown = daemon.get("/system/df", type=kinds).json()
    assert {name for name, value in shown.items() if value is not None} == {"LayersSize", *fields}
    assert bool(shown["LayersSize"]) == ("image" in kinds)


def test_before_api_1_42_there_was_no_choice(daemon: Daemon, filled: str) -> None:
    answer = daemon.get("/system/df", type="nonsense")
    assert (answer.status, answer.message) == (400, "unknown object type: nonsense")
    shown = daemon.get("/v1.41/system/df", type="nonsense").json()
    assert shown["Images"] and shown["Volumes"] and shown["BuilderSize"] == 0


def test_the_real_client_and_docker_py(daemon: Daemon, filled: str) -> None:
    done = daemon.docker("system", "df")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "10B" in rows["Containers"]
    assert "105B" in done.stdout
    verbose = daemon.docker("system", "df", "-v")
    assert verbose.returncode == 0, verbose.stderr
    assert "unused" in verbose.stdout and "wrote" in verbose.stdout
    client = docker.DockerClient(base_url=daemon.host)
    try:
        assert client.df()["LayersSize"] > 5000
    finally:
        client.close()
