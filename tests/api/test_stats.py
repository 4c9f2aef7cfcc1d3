"""Figures of containers: they agree with the work done, in Docker's shape; and top's rows."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
from datetime import datetime
from typing import Any

import pytest

from sampan.api.docker.stats import shown
from sampan.api.docker.top import parse
from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.container import ContainerRecord
from sampan.engine.live import Live
from sampan.engine.stats import Interface, Sample
from sampan.errors import InvalidArgument
from sampan.kernel.cgroups.usage import Counter, CpuUsage, DeviceIO, MemoryUsage, PidsUsage, Usage
from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root

ZERO = "0001-01-01T00:00:00Z"


def percent(stats: dict[str, Any]) -> float:
    """CPU use as Docker's documentation computes it."""
    now, before = stats["cpu_stats"], stats["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    machine = now["system_cpu_usage"] - before["system_cpu_usage"]
    return float(used / machine * now["online_cpus"] * 100)


def test_a_busy_container_uses_the_cpu_it_is_given(daemon: Daemon) -> None:
    fifth = {"NanoCpus": 200_000_000}
    container = daemon.run("sh", "-c", "while :; do :; done", HostConfig=fifth)
    stats = daemon.get(f"/containers/{container}/stats", stream=0).json()
    # Other work may take CPU from it, but nothing gives it more than its fifth.
    assert 2 < percent(stats) < 30
    throttled = stats["cpu_stats"]["throttling_data"]
    assert throttled["periods"] >= throttled["throttled_periods"] > 0
    assert stats["id"] == container
    assert stats["name"].startswith("/")
    assert stats["read"] > stats["preread"] > ZERO
    usage = stats["cpu_stats"]["cpu_usage"]
    assert usage["total_usage"] >= stats["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert len(usage["percpu_usage"]) == stats["cpu_stats"]["online_cpus"] == os.cpu_count()
    daemon.delete(f"/containers/{container}", force=1)


def test_memory_and_processes_are_counted(daemon: Daemon) -> None:
    command = "head -c 30000000 /dev/zero > /dev/shm/x; sleep 600 & sleep 600 & echo ready; wait"
    host = {"Memory": 100 << 20, "PidsLimit": 50}
    container = daemon.run("sh", "-c", command, HostConfig=host)
    daemon.wait_for(lambda: daemon.logs(container) == "ready\n")
    query: dict[str, object] = {"stream": 0, "one-shot": 1}
    stats = daemon.request("GET", f"/containers/{container}/stats", query=query).json()
    memory = stats["memory_stats"]
    assert memory["limit"] == 100 << 20
    assert 30_000_000 <= memory["usage"] < 60_000_000
    assert memory["max_usage"] >= memory["usage"]
    assert memory["stats"]["total_cache"] >= 30_000_000
    assert stats["pids_stats"] == {"current": 3, "limit": 50}
    assert (stats["preread"], stats["precpu_stats"]["cpu_usage"]["total_usage"]) == (ZERO, 0)
    assert "networks" not in stats
    daemon.delete(f"/containers/{container}", force=1)


def test_a_container_that_does_not_run_has_zeros(daemon: Daemon) -> None:
    container = daemon.create("true", name="resting")
    queries: list[dict[str, object]] = [{"stream": 0}, {"stream": 0, "one-shot": 1}]
    for query in queries:
        answer = daemon.request("GET", f"/containers/{container}/stats", query=query)
        stats = answer.json()
        assert stats["read"] == stats["preread"] == ZERO
        assert (stats["memory_stats"], stats["pids_stats"]) == ({}, {})
        assert stats["cpu_stats"] == stats["precpu_stats"]
        assert stats["blkio_stats"]["io_service_bytes_recursive"] is None
        assert stats["name"] == "/resting"
    refused = daemon.request("GET", f"/containers/{container}/stats", query={"one-shot": 1})
    assert (refused.status, refused.message) == (400, "cannot have stream=true and one-shot=true")
    assert daemon.get("/containers/nosuch/stats").status == 404


def moment(text: str) -> float:
    """The time of an RFC 3339 text."""
    return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp() + float(f"0{text[19:-1]}")


def test_a_stream_has_a_line_each_second_and_ends_with_the_container(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(daemon.socket)
    connection.request("GET", f"/containers/{container}/stats")
    response = connection.getresponse()
    first, second = json.loads(response.readline()), json.loads(response.readline())
    assert 0.8 < moment(second["read"]) - moment(first["read"]) < 60
    assert first["preread"] == ZERO
    assert second["preread"] == first["read"]
    assert second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]
    daemon.delete(f"/containers/{container}", force=1)
    rest = response.read().splitlines()
    assert len(rest) <= 2
    connection.close()


@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip")
def test_interfaces_of_a_network_of_its_own_are_counted(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    pid = daemon.state(container)["Pid"]
    inside = ["nsenter", "-t", str(pid), "-n"]
    for command in (
        "ip link add one type veth peer name two",
        "ip address add 10.9.9.1/24 dev one",
        "ip link set one up",
        "ip link set two up",
    ):
        subprocess.run([*inside, *command.split()], check=True)
    query: dict[str, object] = {"stream": 0, "one-shot": 1}
    daemon.wait_for(
        lambda: daemon.request("GET", f"/containers/{container}/stats", query=query)
        .json()["networks"]["two"]["rx_bytes"] > 0
    )  # fmt: skip
    stats = daemon.request("GET", f"/containers/{container}/stats", query=query).json()
    assert sorted(stats["networks"]) == ["one", "two"]
    assert stats["networks"]["one"]["tx_packets"] > 0
    assert set(stats["networks"]["one"]) == {
        f"{way}_{what}"
        for way in ("rx", "tx")
        for what in ("bytes", "packets", "errors", "dropped")
    }
    daemon.delete(f"/containers/{container}", force=1)


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs the docker client")
def test_the_real_clients_print_what_they_should(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "while :; do :; done", name="busy")
    layout = "{{.Name}} {{.CPUPerc}} {{.PIDs}} {{.NetIO}} {{.MemPerc}}"
    done = daemon.docker("stats", "--no-stream", "--format", layout, "busy")
    name, cpu, pids, *_ = done.stdout.split()
    assert (name, pids) == ("busy", "1"), done.stderr
    assert 5 < float(cpu.rstrip("%")) < 120
    top = daemon.docker("top", "busy", "-o", "pid,args")
    lines = top.stdout.splitlines()
    assert lines[0].split() == ["PID", "COMMAND"]
    assert lines[1].split(None, 1)[1] == "sh -c while :; do :; done"
    import docker  # not everywhere where tests are collected

    client = docker.DockerClient(base_url=daemon.host)
    stats = client.containers.get("busy").stats(stream=False)
    assert 5 < percent(stats) < 120
    assert client.containers.get("busy").top()["Titles"][:2] == ["UID", "PID"]
    client.close()
    daemon.delete(f"/containers/{container}", force=1)


def test_version_2_leaves_out_what_it_does_not_count() -> None:
    usage = Usage(
        cpu=CpuUsage(total=5, user=3, system=2),
        memory=MemoryUsage(usage=Counter(usage=7, max=9), stat={"file": 1}),
        pids=PidsUsage(current=2),
        io=(DeviceIO(major=8, minor=1, read_bytes=10, reads=1),),
    )
    interface = Interface(1, 2, 3, 4, 5, 6, 7, 8)
    one = Sample(
        at=10**18, usage=usage, machine=99, cpus=4, memory=1000, networks={"eth0": interface}
    )
    record = ContainerRecord(
        id="1", name="n", created=0, image_id="", image_name="", driver="",
        config=ContainerConfig(), host_config=HostConfig(), args=("x",),
    )  # fmt: skip
    answer = shown(Live(record), one, None, v1=False)
    assert answer["memory_stats"] == {"usage": 7, "stats": {"file": 1}, "limit": 1000}
    assert answer["pids_stats"] == {"current": 2, "limit": (1 << 64) - 1}
    assert "percpu_usage" not in answer["cpu_stats"]["cpu_usage"]
    assert answer["blkio_stats"]["io_serviced_recursive"] is None
    assert answer["blkio_stats"]["io_service_bytes_recursive"][0] == {
        "major": 8, "minor": 1, "op": "read", "value": 10,
    }  # fmt: skip
    assert answer["networks"] == {"eth0": interface}


# -- top -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(daemon: Daemon) -> str:
    container = daemon.run("sh", "-c", "sleep 600 & while :; do sleep 600; done")

    def sleepers() -> int:
        rows = daemon.get(f"/containers/{container}/top").json()["Processes"]
        return sum(row[-1] == "sleep 600" for row in rows)

    daemon.wait_for(lambda: sleepers() == 2)
    return container


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-o pid,comm", "PID COMMAND"),
        ("-eLf", "UID PID PPID LWP C NLWP STIME TTY TIME CMD"),
    ],
)
def test_top_shows_the_containers_processes_alone(
    daemon: Daemon, crowd: str, arguments: str, titles: str
) -> None:
    query = {"ps_args": arguments} if arguments else {}
    answer = daemon.get(f"/containers/{crowd}/top", **query).json()
    assert answer["Titles"] == titles.split()
    rows = answer["Processes"]
    assert len(rows) == 3
    assert all(len(row) == len(answer["Titles"]) for row in rows)
    if arguments != "-o pid,comm":
        assert sorted(row[-1] for row in rows)[1:] == ["sleep 600", "sleep 600"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-eo user", "Couldn't find PID field in ps output"),
        ("o xpid=PID", 'specifying "xpid=PID" is not allowed'),
        ("--nonsense", "ps: error: unknown gnu long option"),
        ("-eo  pid,\0comm", "ps_args: contains a NUL character"),
    ],
)
def test_top_refuses_as_docker_does(
    daemon: Daemon, crowd: str, arguments: str, message: str
) -> None:
    answer = daemon.get(f"/containers/{crowd}/top", ps_args=arguments)
    assert (answer.status, answer.message) == (400, message)


def test_top_needs_a_running_container(daemon: Daemon) -> None:
    container = daemon.create("true")
    answer = daemon.get(f"/containers/{container}/top")
    assert (answer.status, answer.message) == (409, f"container {container} is not running")


def test_a_line_without_a_pid_belongs_to_the_one_before() -> None:
    output = "PID TTY COMMAND\n1 ? init\n- - -\n7 ? sh -c  x\n- - -\n\n"
    answer = parse(output, {7})
    assert answer == {
        "Titles": ["PID", "TTY", "COMMAND"],
        "Processes": [["7", "?", "sh -c x"], ["-", "-", "-"]],
    }
    assert parse(output, {9})["Processes"] is None
    with pytest.raises(InvalidArgument, match="Unexpected pid 'x'"):
        parse("PID CMD\nx y\n", {1})
