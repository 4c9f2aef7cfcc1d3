"""Versions, headers, errors: what every answer has in common."""

from __future__ import annotations

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.51/_ping"])
def test_ping_answers_bare_and_versioned(daemon: Daemon, path: str) -> None:
    answer = daemon.get(path)
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["Api-Version"] == "1.51"
    assert answer.headers["Ostype"] == "linux"
    assert answer.headers["Docker-Experimental"] == "false"
    assert answer.headers["Server"].startswith("Sampan/")
    answer = daemon.request("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("1.52", "client version 1.52 is too new. Maximum supported API version is 1.51"),
    ],
)
def test_other_versions_are_refused(daemon: Daemon, version: str, words: str) -> None:
    answer = daemon.get(f"/v{version}/info")
    assert answer.status == 400
    assert words in answer.message
    assert answer.headers["Api-Version"] == "1.51"


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nosuch", 404, "page not found"),
        ("GET", "/containers/create", 404, "page not found"),
        ("DELETE", "/version", 404, "page not found"),
        ("POST", "/v1.44/build", 501, "ImageBuild"),
        ("GET", "/containers/nosuch/json", 404, "No such container: nosuch"),
        ("GET", "/images/nosuch:1/json", 404, "No such image: nosuch:1"),
        ("POST", "/containers/nosuch/wait", 404, "No such container: nosuch"),
    ],
)
def test_errors_are_json_and_name_the_thing(
    daemon: Daemon, method: str, path: str, status: int, words: str
) -> None:
    answer = daemon.request(method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/json")
    assert words in answer.message


def test_a_body_must_be_json_and_say_so(daemon: Daemon) -> None:
    path = "/containers/create"
    answer = daemon.request("POST", path, b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status == 400
    assert "unsupported Content-Type header (text/plain)" in answer.message
    answer = daemon.request("POST", path, b"{", headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.message.startswith("invalid JSON")
    assert daemon.post(path).message == "config cannot be empty in order to create a container"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Image": 5}, 400, "Config: Image: Expected `str`, got `int`"),
        ({"Image": "host", "HostConfig": {"Memory": "1g"}}, 400, "HostConfig: Memory"),
        ({"Image": "host", "HostConfig": {"Memory": 1000}}, 400, "Minimum memory limit"),
        ({"Image": "host", "HostConfig": {"StorageOpt": {"size": "1"}}}, 501, "StorageOpt"),
        ({"Image": "host", "HostConfig": {"Nonsense": 1}}, 400, "HostConfig.Nonsense"),
        ({"Image": "host", "Nonsense": 1}, 400, "Nonsense is not a field"),
        ({"Image": "host", "HostConfig": {"CapAdd": ["NONSENSE"]}}, 400, '"NONSENSE"'),
        (
            {"Image": "host", "HostConfig": {"Binds": ["x"]}},
            400,
            "invalid volume specification: 'x'",
        ),
        ({"Image": "host", "HostConfig": {"Binds": ["/a:b"]}}, 400, "must be absolute"),
        (
            {
                "Image": "host",
                "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]},
            },
            400,
            "bind source path does not exist: /no/such",
        ),
        ({"Image": "host", "HostConfig": {"SecurityOpt": ["seccomp={"]}}, 400, "seccomp profile"),
        ({"Image": "host", "HostConfig": {"Devices": [{"PathOnHost": "/no"}]}}, 400, '"/no"'),
        ({"Image": "host", "HostConfig": {"NanoCpus": 10**12}}, 400, "range of CPUs"),
        ({"Image": "host", "HostConfig": {"Ulimits": [{"Name": "x"}]}}, 400, "ulimit type: x"),
        ({"Image": "host", "WorkingDir": "relative"}, 400, "working directory 'relative'"),
        ({"Image": "host", "HostConfig": {"Sysctls": {"kernel.panic": "1"}}}, 400, "kernel.panic"),
        ({"Image": "host", "StopSignal": "SIGWHAT"}, 400, "Invalid signal: SIGWHAT"),
        ({"Image": "host", "Cmd": [], "Entrypoint": [""]}, 400, "no command specified"),
        ({"Image": ""}, 400, "no image specified"),
        ({"Image": "NOT//valid"}, 400, "invalid reference format"),
    ],
    ids=str,
)
def test_a_container_that_cannot_be_is_refused_and_leaves_nothing(
    daemon: Daemon, body: dict[str, object], status: int, words: str
) -> None:
    answer = daemon.post("/containers/create", {"Cmd": ["true"], **body})
    assert words in answer.message
    assert answer.status == status
    assert daemon.get("/containers/json", all=1).json() == []
    assert list((daemon.data_root / "containers").iterdir()) == []


def test_a_bad_name_is_refused(daemon: Daemon) -> None:
    answer = daemon.post("/containers/create", {"Image": "host", "Cmd": ["true"]}, name="a b")
    assert answer.status == 400
    assert answer.message.startswith("Invalid container name (a b)")


def test_info_and_version_say_who_we_are(daemon: Daemon) -> None:
    version = daemon.get("/version").json()
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.51", "1.24")
    assert version["Components"][0]["Name"] == "Engine"
    info = daemon.get("/info").json()
    assert info["Driver"] == "overlay2"
    assert info["DockerRootDir"] == str(daemon.data_root)
    assert info["LiveRestoreEnabled"] is True
    assert info["MemoryLimit"] is True
