"""``update`` of containers that run, that do not, and that may not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.kernel import cgroups
from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root

MB = 1 << 20


def limits(daemon: Daemon, container: str) -> dict[str, Any]:
    usage = cgroups.detect().group(f"{daemon.cgroup}/{container}").account().to_json()
    return dict(usage)


def host(daemon: Daemon, container: str) -> dict[str, Any]:
    return dict(daemon.get(f"/containers/{container}/json").json()["HostConfig"])


def file(daemon: Daemon, container: str, controller: str, v1: str, v2: str) -> str:
    tree = cgroups.detect().controllers[controller]
    name = v1 if tree.version == 1 else v2
    return Path(f"{tree.mount_point}{daemon.cgroup}/{container}/{name}").read_text().strip()


def test_a_running_containers_limits_change_at_once_and_for_good(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("sleep", "600", HostConfig={"Memory": 64 * MB, "CpuShares": 512})
    assert host(daemon, container)["MemorySwap"] == 128 * MB
    body = {
        "Memory": 48 * MB, "MemorySwap": 96 * MB, "CpuShares": 256, "PidsLimit": 33,
        "NanoCpus": 500_000_000, "CpusetCpus": "0",
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    }  # fmt: skip
    answer = daemon.post(f"/containers/{container}/update", body)
    assert (answer.status, answer.json()) == (200, {"Warnings": []}), answer.body
    group = limits(daemon, container)
    assert group["memory"]["usage"]["limit"] == 48 * MB
    assert group["pids"]["limit"] == 33
    assert file(daemon, container, "cpu", "cpu.shares", "cpu.weight") in ("256", "10")
    assert file(daemon, container, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    for _ in range(2):
        shown = host(daemon, container)
        assert {name: shown[name] for name in body} == body
        daemon.kill()
        daemon.start()
    daemon.post(f"/containers/{container}/update", {"PidsLimit": -1})
    assert "limit" not in limits(daemon, container)["pids"]
    filters = json.dumps({"container": [container], "event": ["update"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    assert len(past.body.splitlines()) == 2
    daemon.delete(f"/containers/{container}", force=1)


def test_what_does_not_run_has_it_from_its_next_start(daemon: Daemon) -> None:
    container = daemon.create("sleep", "600")
    assert daemon.post(f"/containers/{container}/update", {"PidsLimit": 44}).status == 200
    daemon.post(f"/containers/{container}/start")
    assert limits(daemon, container)["pids"]["limit"] == 44
    daemon.delete(f"/containers/{container}", force=1)


def test_what_the_kernel_refuses_leaves_everything_as_it_was(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", HostConfig={"PidsLimit": 50, "Memory": 64 * MB})
    before = host(daemon, container)
    body = {
        "PidsLimit": 20, "Memory": 32 * MB, "MemorySwap": 64 * MB,
        "CpuRealtimePeriod": 1_000_000, "CpuRealtimeRuntime": 999_999,
    }  # fmt: skip
    answer = daemon.post(f"/containers/{container}/update", body)
    assert answer.status in (400, 500)
    assert answer.message.startswith(f"Cannot update container {container}: ")
    assert "cpu.realtime" in answer.message
    assert host(daemon, container) == before
    assert limits(daemon, container)["pids"]["limit"] == 50
    assert limits(daemon, container)["memory"]["usage"]["limit"] == 64 * MB
    daemon.delete(f"/containers/{container}", force=1)


@pytest.mark.parametrize(
    ("settings", "body", "words"),
    [
        ({}, {"Memory": 1000}, "Minimum memory limit allowed is 6MB"),
        ({"NanoCpus": 10**9}, {"CpuQuota": 5000}, "Conflicting options: CPU Quota cannot"),
        (
            {"AutoRemove": True},
            {"RestartPolicy": {"Name": "always"}},
            "Restart policy cannot be updated because AutoRemove is enabled",
        ),
        ({}, {"RestartPolicy": {"Name": "often"}}, "unknown policy 'often'"),
        ({}, {"Ulimits": [{"Name": "nofile"}]}, "Ulimits cannot be updated"),
        ({}, {"Mystery": 1}, "Mystery is not a field"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(
    daemon: Daemon, settings: dict[str, Any], body: dict[str, Any], words: str
) -> None:
    container = daemon.create("true", HostConfig=settings)
    answer = daemon.post(f"/containers/{container}/update", body)
    assert (answer.status in (400, 501), words in answer.message) == (True, True), answer.body
    daemon.delete(f"/containers/{container}")


def test_a_policy_that_comes_later_is_in_force(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo run; sleep 0.5; exit 3")
    body = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}
    assert daemon.post(f"/containers/{container}/update", body).status == 200
    daemon.wait_for(lambda: daemon.logs(container) == "run\nrun\n")
    daemon.wait_for(lambda: not daemon.state(container)["Running"])
    daemon.delete(f"/containers/{container}")


def test_nobody_and_nothing(daemon: Daemon) -> None:
    assert daemon.post("/containers/nobody/update", {}).status == 404
    container = daemon.create("true")
    assert daemon.post(f"/containers/{container}/update", {}).json() == {"Warnings": []}
    daemon.delete(f"/containers/{container}")


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_the_docker_client_updates(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", name="changing")
    done = daemon.docker("update", "--memory", "40m", "--cpus", "0.5", "--restart", "always",
                         "--pids-limit", "21", "changing")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "changing\n"), done.stderr
    shown = host(daemon, container)
    assert shown["Memory"] == 40 * MB
    assert (shown["NanoCpus"], shown["PidsLimit"]) == (500_000_000, 21)
    assert shown["RestartPolicy"]["Name"] == "always"
    assert limits(daemon, container)["pids"]["limit"] == 21
    done = daemon.docker("update", "--cpu-shares", "300", "changing")
    assert done.returncode == 0, done.stderr
    assert limits(daemon, container)["pids"]["limit"] == 21
    daemon.delete(f"/containers/{container}", force=1)
