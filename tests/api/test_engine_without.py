"""What this engine has not: swarm, plugins, experiments, overlay networks; each refused in form.

And what every engine has: OPTIONS, filters in both spellings, the networks ``none`` and ``host``.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compatibility.tables import OPERATIONS
from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root

SWARM = [row for row in OPERATIONS if row.tier == "swarm"]
PLUGINS = [row for row in OPERATIONS if row.tier == "plugin"]
FORM: dict[str, Any] = {"ListenAddr": "0.0.0.0", "Name": "x"}


def ask(daemon: Daemon, method: str, path: str) -> Any:
    path = path.replace("{id}", "x").replace("{name}", "x")
    query: dict[str, object] = {"version": 1} if path.endswith("/update") else {}
    if path.endswith("/logs"):
        query["stdout"] = 1
    body = FORM if method in ("POST", "PUT") else None
    return daemon.request(method, path, body, query=query)


@pytest.mark.parametrize("row", SWARM, ids=lambda row: row.name)
def test_swarm_is_answered_as_outside_of_one(daemon: Daemon, row: Any) -> None:
    answer = ask(daemon, row.method, row.path)
    if row.name in ("SwarmInit", "SwarmJoin"):
        assert (answer.status, "not supported" in answer.message) == (501, True)
    elif row.name == "SwarmLeave":
        assert (answer.status, answer.message) == (503, "This node is not part of a swarm")
    elif row.name == "VolumeUpdate":
        assert (answer.status, "swarm is unavailable" in answer.message) == (503, True)
    else:
        assert answer.status == 503
        assert answer.message.startswith("This node is not a swarm manager. Use ")


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/services/create", "JSON object"),
        ("POST", "/services/x/update?version=1", "JSON object"),
        ("POST", "/swarm/init", "JSON object"),
        ("GET", "/services/x/logs", "at least one stream"),
    ],
)
def test_a_wrong_request_is_said_first(daemon: Daemon, method: str, path: str, words: str) -> None:
    answer = daemon.request(method, path)
    assert (answer.status, words in answer.message) == (400, True)


@pytest.mark.parametrize("row", PLUGINS, ids=lambda row: row.name)
def test_plugins_are_answered_as_where_there_are_none(daemon: Daemon, row: Any) -> None:
    answer = ask(daemon, row.method, row.path)
    if row.name == "PluginList":
        assert answer.json() == []
    elif "{name}" in row.path:
        assert (answer.status, answer.message) == (404, 'plugin "x" not found')
    else:
        assert (answer.status, "plugins are not supported" in answer.message) == (501, True)
    assert daemon.post("/plugins/registry.example/a/b:c/enable").status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/x/checkpoints"),
        ("POST", "/containers/x/checkpoints"),
        ("DELETE", "/containers/x/checkpoints/y"),
        ("POST", "/session"),
        ("POST", "/grpc"),
    ],
)
def test_what_is_not_there_is_refused_by_name(daemon: Daemon, method: str, path: str) -> None:
    answer = daemon.request(method, path, headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    assert answer.status == 501
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/", "/version", "/v1.30/containers/json", "/no/such"])
def test_options_are_headers(daemon: Daemon, path: str) -> None:
    answer = daemon.request("OPTIONS", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Api-Version"] == "1.51"


def test_three_networks_are_there(daemon: Daemon) -> None:
    listed = daemon.get("/networks").json()
    assert {one["Name"]: one["Driver"] for one in listed} == {
        "bridge": "bridge",
        "host": "host",
        "none": "null",
    }
    assert daemon.get("/networks/").json() == listed
    assert len({one["Id"] for one in listed}) == 3
    container = daemon.run("sleep", "600")
    for one in listed:
        for reference in (one["Name"], one["Id"], one["Id"][:40]):
            found = daemon.get(f"/networks/{reference}").json()
            assert (found["Name"], found["Id"]) == (one["Name"], one["Id"])
        inside = list(found["Containers"])
        assert inside == ([container] if one["Name"] == "none" else [])
    daemon.remove_all()


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"name": ["no"]}, ["none"]),
        ({"driver": ["host", "null"]}, ["host", "none"]),
        ({"driver": {"host": True, "null": False}}, ["host"]),
        ({"type": ["custom"]}, []),
        ({"label": ["x"]}, []),
        ({"scope": ["local"], "dangling": ["false"]}, ["bridge", "host", "none"]),
    ],
)
def test_networks_are_filtered(
    daemon: Daemon, filters: dict[str, object], names: list[str]
) -> None:
    found = daemon.get("/networks", filters=json.dumps(filters)).json()
    assert [one["Name"] for one in found] == names


@pytest.mark.parametrize(
    ("request_line", "body", "status", "words"),
    [
        ("GET /networks/nosuch", None, 404, "network nosuch not found"),
        ("DELETE /networks/nosuch", None, 404, "network nosuch not found"),
        ("DELETE /networks/host", None, 403, "host is a pre-defined network"),
        ("POST /networks/create", None, 400, "EOF"),
        ("POST /networks/create", {}, 400, "Name"),
        ("POST /networks/create", {"Name": "bridge"}, 403, "predefined bridge network"),
        ("POST /networks/nosuch/connect", {"Container": "x"}, 404, "No such container: x"),
        ("POST /networks/none/connect", {"Container": "x"}, 404, "No such container: x"),
        ("POST /networks/none/disconnect", {}, 400, "Container"),
    ],
)
def test_networks_are_not_changed(
    daemon: Daemon, request_line: str, body: object, status: int, words: str
) -> None:
    method, path = request_line.split()
    answer = daemon.request(method, path, body)
    assert (answer.status, words in answer.message) == (status, True), answer.body


@pytest.mark.parametrize(
    "text", ["x", "[]", "5", '{"name": "x"}', '{"name": [5]}', '{"name": {"x": 5}}', '{"a": ["b"]}',
             "[" * 5000, '{"name":' * 2000]
)  # fmt: skip
def test_filters_of_the_wrong_shape_are_refused(daemon: Daemon, text: str) -> None:
    for path in ("/networks", "/plugins", "/networks/prune"):
        method = "POST" if path.endswith("prune") else "GET"
        answer = daemon.request(method, path, query={"filters": text})
        assert (answer.status, answer.message.startswith("invalid filter")) == (400, True)


@pytest.mark.parametrize(
    ("version", "words"),
    [("1", "client version 1 is too old"), ("1.23.9", "too old"), ("2.0", "2.0 is too new"),
     ("1.051.7", ""), ("1..3", "too old"), ("99999999999999", "too new")]
)  # fmt: skip
def test_versions_of_other_forms(daemon: Daemon, version: str, words: str) -> None:
    answer = daemon.get(f"/v{version}/_ping")
    if words:
        assert (answer.status, words in answer.message) == (400, True)
    else:
        assert answer.body == b"OK"


def test_info_is_true(daemon: Daemon) -> None:
    import os

    before = daemon.get("/info").json()
    daemon.run("sleep", "600")
    frozen = daemon.run("sleep", "600")
    daemon.post(f"/containers/{frozen}/pause")
    daemon.create("true")
    info = daemon.get("/info").json()
    counts = [info[f"Containers{state}"] - before[f"Containers{state}"]
              for state in ("", "Running", "Paused", "Stopped")]  # fmt: skip
    assert counts == [3, 1, 1, 1]
    assert info["ID"] == before["ID"]
    assert info["ID"] == (daemon.data_root / "engine-id").read_text().strip()
    assert info["Images"] == len(daemon.get("/images/json").json())
    assert (info["Name"], info["NCPU"]) == (os.uname().nodename, len(os.sched_getaffinity(0)))
    with open("/proc/meminfo", encoding="ascii") as file:
        assert info["MemTotal"] == int(file.readline().split()[1]) * 1024
    assert info["OperatingSystem"]
    assert info["Debug"] is True
    assert info["NFd"] > 5
    assert info["SecurityOptions"] == ["name=seccomp,profile=builtin", "name=cgroupns"]
    backing = dict(info["DriverStatus"])["Backing Filesystem"]
    with open("/proc/filesystems", encoding="ascii") as file:
        assert backing in file.read().split()
    daemon.remove_all()


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no client")
def test_the_client_lists_networks_and_is_told_about_swarm(daemon: Daemon) -> None:
    done = daemon.docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
    assert done.stdout.split("\n") == [
        "bridge bridge local",
        "host host local",
        "none null local",
        "",
    ]
    done = daemon.docker("network", "inspect", "-f", "{{.Name}}", "host")
    assert done.stdout == "host\n"
    done = daemon.docker("network", "create", "-d", "overlay", "mine")
    assert (done.returncode, "network mine" in done.stderr) == (1, True)
    done = daemon.docker("node", "ls")
    assert (done.returncode, "not a swarm manager" in done.stderr) == (1, True)
    assert daemon.docker("plugin", "ls", "-q").stdout == ""
    done = daemon.docker("info")
    assert done.returncode == 0, done.stderr
    assert "Live Restore Enabled: true" in done.stdout
