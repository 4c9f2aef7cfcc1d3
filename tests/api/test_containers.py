"""The container routes, request by request."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def test_an_inspection_shows_what_was_asked_for(daemon: Daemon) -> None:
    container = daemon.create(
        "sleep", "1", name="shown", Env=["A=1"], Labels={"x": "y"}, WorkingDir="/usr"
    )
    shown = daemon.get("/containers/shown/json").json()
    assert shown["Id"] == container
    assert (shown["Path"], shown["Args"]) == ("sleep", ["1"])
    assert shown["Config"]["Env"][0] == "A=1"
    assert shown["Config"]["Labels"] == {"x": "y"}
    assert shown["Config"]["Hostname"] == container[:12]
    assert shown["State"]["Status"] == "created"
    assert shown["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    assert shown["Image"].startswith("sha256:")
    assert shown["HostConfig"]["NetworkMode"] == "none"
    assert shown["GraphDriver"]["Name"] == "overlay2"
    daemon.delete("/containers/shown")


def test_a_life_of_states(daemon: Daemon) -> None:
    container = daemon.run("sleep", "60")
    state = daemon.state(container)
    assert (state["Status"], state["Running"]) == ("running", True)
    assert state["Pid"] > 1
    assert daemon.post(f"/containers/{container}/start").status == 304
    assert daemon.post(f"/containers/{container}/pause").status == 204
    assert daemon.state(container)["Status"] == "paused"
    assert daemon.post(f"/containers/{container}/pause").status == 409
    assert daemon.post(f"/containers/{container}/unpause").status == 204
    assert daemon.delete(f"/containers/{container}").status == 409
    assert daemon.post(f"/containers/{container}/kill", signal="KILL").status == 204
    state = daemon.state(container)
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
    assert daemon.post(f"/containers/{container}/kill").status == 409
    assert daemon.post(f"/containers/{container}/stop").status == 304
    assert daemon.leftovers(container) == []
    assert daemon.delete(f"/containers/{container}").status == 204
    answer = daemon.get(f"/containers/{container}/json")
    assert (answer.status, answer.message) == (404, f"No such container: {container}")


def test_a_container_starts_again_with_what_it_wrote(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "echo x >> /kept; cat /kept")
    for _ in range(2):
        assert daemon.post(f"/containers/{container}/start").status == 204
        daemon.wait(container)
    assert daemon.logs(container) == "x\nx\nx\n"
    daemon.delete(f"/containers/{container}")


def test_stop_asks_first_and_kills_then(daemon: Daemon) -> None:
    kind = daemon.run("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")
    daemon.wait_for(lambda: daemon.logs(kind) == "up\n")
    assert daemon.post(f"/containers/{kind}/stop", t=10).status == 204
    assert daemon.state(kind)["ExitCode"] == 3
    deaf = daemon.run("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    before = time.monotonic()
    assert daemon.post(f"/containers/{deaf}/stop", t=1).status == 204
    assert 1 <= time.monotonic() - before < 9
    assert daemon.state(deaf)["ExitCode"] == 137


def test_a_stop_signal_of_the_containers_own_is_used(daemon: Daemon) -> None:
    command = "trap 'exit 4' USR1; echo up; while :; do sleep 0.05; done"
    container = daemon.run("sh", "-c", command, StopSignal="SIGUSR1")
    daemon.wait_for(lambda: daemon.logs(container) == "up\n")
    daemon.post(f"/containers/{container}/stop")
    assert daemon.state(container)["ExitCode"] == 4


def test_a_stop_waits_as_long_as_the_container_says(daemon: Daemon) -> None:
    command = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    for timeout in (0, 1):
        container = daemon.run("sh", "-c", command, StopTimeout=timeout)
        daemon.wait_for(lambda it=container: daemon.logs(it) == "up\n")
        begin = time.monotonic()
        assert daemon.post(f"/containers/{container}/stop").status == 204
        assert timeout <= time.monotonic() - begin < timeout + 9
        assert daemon.state(container)["ExitCode"] == 137
        daemon.delete(f"/containers/{container}")


def test_a_container_whose_network_is_disabled(daemon: Daemon) -> None:
    host = {"NetworkMode": "host"}
    container = daemon.run("ls", "/sys/class/net", NetworkDisabled=True, HostConfig=host)
    daemon.wait(container)
    assert daemon.logs(container) == "lo\n"
    assert daemon.get(f"/containers/{container}/json").json()["Config"]["NetworkDisabled"] is True
    daemon.delete(f"/containers/{container}")


def test_a_frozen_container_can_be_stopped_and_killed(daemon: Daemon) -> None:
    for path in ("stop?t=1", "kill"):
        container = daemon.run("sleep", "60")
        daemon.post(f"/containers/{container}/pause")
        assert daemon.post(f"/containers/{container}/{path}").status == 204
        assert daemon.state(container)["Status"] == "exited"


def test_wait_sends_its_header_before_the_end(daemon: Daemon) -> None:
    container = daemon.create("true")
    codes: list[int] = []

    def wait() -> None:
        answer = daemon.post(f"/containers/{container}/wait", condition="next-exit")
        codes.append(answer.json()["StatusCode"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    assert not codes
    daemon.post(f"/containers/{container}/start")
    waiting.join(60)
    assert codes == [0]
    answer = daemon.post(f"/containers/{container}/wait", condition="never")
    assert (answer.status, answer.message) == (400, 'invalid condition: "never"')


def test_remove_on_exit_is_told_to_who_waits_for_it(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "exit 5", HostConfig={"AutoRemove": True})
    answers: list[int] = []

    def wait() -> None:
        answer = daemon.post(f"/containers/{container}/wait", condition="removed")
        answers.append(answer.json()["StatusCode"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    daemon.post(f"/containers/{container}/start")
    waiting.join(60)
    assert answers == [5]
    assert daemon.get(f"/containers/{container}/json").status == 404
    assert not (daemon.data_root / "containers" / container).exists()


def test_force_removes_a_running_container(daemon: Daemon) -> None:
    container = daemon.run("sleep", "60")
    assert daemon.delete(f"/containers/{container}", force=1).status == 204
    assert daemon.leftovers(container) == []


def test_a_container_is_found_by_name_and_by_the_beginning_of_its_id(daemon: Daemon) -> None:
    container = daemon.create("true", name="findable")
    for reference in ("findable", "/findable", container[:12], container):
        path = reference.replace("/", "%2F")
        assert daemon.get(f"/containers/{path}/json").json()["Id"] == container
    assert daemon.post("/containers/findable/rename", name="other").status == 204
    assert daemon.get("/containers/findable/json").status == 404
    assert daemon.get("/containers/other/json").json()["Name"] == "/other"
    assert daemon.post("/containers/other/rename", name="-x").status == 400
    daemon.delete("/containers/other")


def test_a_list_tells_of_a_container_in_short(daemon: Daemon) -> None:
    daemon.remove_all()
    three = daemon.run("sleep", "60", name="three", HostConfig={"Annotations": {"a": "b"}})
    [entry] = daemon.get("/containers/json").json()
    assert entry["Id"] == three
    assert entry["Command"] == "sleep 60"
    assert entry["Status"].startswith("Up ")
    assert (entry["Image"], entry["State"]) == ("host", "running")
    assert entry["HostConfig"] == {"NetworkMode": "none", "Annotations": {"a": "b"}}
    [entry] = daemon.get("/v1.45/containers/json").json()
    assert entry["HostConfig"] == {"NetworkMode": "none"}
    daemon.remove_all()


def test_top_lists_the_containers_processes(daemon: Daemon) -> None:
    container = daemon.run("sleep", "61")
    answer = daemon.get(f"/containers/{container}/top").json()
    assert answer["Titles"][:3] == ["UID", "PID", "PPID"]
    assert [row[-1] for row in answer["Processes"]] == ["sleep 61"]
    daemon.delete(f"/containers/{container}", force=1)


def test_a_memory_limit_ends_in_an_oom_kill_that_is_reported(daemon: Daemon) -> None:
    container = daemon.run(
        "sh",
        "-c",
        "x=x; while :; do x=$x$x$x$x; done",
        HostConfig={"Memory": 24 << 20, "MemorySwap": 24 << 20},
    )
    assert daemon.wait(container) == 137
    assert daemon.state(container)["OOMKilled"] is True
    daemon.delete(f"/containers/{container}")


def test_limits_land_in_the_containers_group(daemon: Daemon) -> None:
    container = daemon.run(
        "sleep", "60", HostConfig={"PidsLimit": 42, "CpuShares": 512, "NanoCpus": 500_000_000}
    )
    from sampan.kernel import cgroups

    group = cgroups.detect().group(f"{daemon.cgroup}/{container}")
    usage = group.account().to_json()
    assert usage["pids"]["limit"] == 42  # type: ignore[index]  # JSON
    daemon.delete(f"/containers/{container}", force=1)


def test_a_containers_group_lies_where_it_was_asked_for(daemon: Daemon) -> None:
    parent = f"{daemon.cgroup}/of-one"
    container = daemon.run("sleep", "60", HostConfig={"CgroupParent": parent})
    paths = Path(f"/proc/{daemon.state(container)['Pid']}/cgroup").read_text().splitlines()
    assert {line.split(":", 2)[2] for line in paths} == {f"{parent}/{container}"}
    daemon.delete(f"/containers/{container}", force=1)
    assert daemon.leftovers(container) == []


def test_shared_memory_is_shared_with_who_may_join_and_no_longer_than_its_container(
    daemon: Daemon,
) -> None:
    donor = daemon.run("sleep", "60", name="donor", HostConfig={"IpcMode": "shareable"})
    joining = {"IpcMode": "container:donor"}
    first = daemon.run(
        "sh", "-c", "echo here > /dev/shm/x; ipcmk -S 1 >/dev/null", HostConfig=joining
    )
    daemon.wait(first)
    second = daemon.run("sh", "-c", "cat /dev/shm/x; ipcs -s | grep -c 0x", HostConfig=joining)
    daemon.wait(second)
    assert daemon.logs(second) == "here\n1\n"
    private = daemon.run("sleep", "60", name="private")
    refused = daemon.create("true", HostConfig={"IpcMode": "container:private"})
    answer = daemon.post(f"/containers/{refused}/start")
    assert (answer.status, "shareable" in answer.message) == (400, True)
    daemon.remove_all()
    assert daemon.leftovers(donor) == []
    assert private


def test_two_containers_share_what_they_are_told_to(daemon: Daemon) -> None:
    first = daemon.run("sh", "-c", "exec sleep 60", name="first")
    done = daemon.run("ps", "-e", "-o", "comm=", HostConfig={"PidMode": "container:first"})
    daemon.wait(done)
    assert "sleep" in daemon.logs(done).split()
    daemon.delete("/containers/first", force=1)
    again = daemon.create("true", HostConfig={"PidMode": f"container:{done}"})
    answer = daemon.post(f"/containers/{again}/start")
    assert answer.status == 409
    assert "not running" in answer.message
    assert first
    daemon.remove_all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HostConfig": {"CpuRealtimeRuntime": 999_999}}, "cpu.realtimeRuntime"),
        (
            {"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2**40}]}},
            "RLIMIT_NOFILE",
        ),
        (
            {"User": "nosuchuser"},
            "unable to find user nosuchuser: no matching entries in passwd file",
        ),
    ],
    ids=str,
)
def test_what_the_kernel_or_the_image_refuses_is_named_and_leaves_nothing(
    daemon: Daemon, settings: dict[str, Any], words: str
) -> None:
    container = daemon.create("true", **settings)
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status in (400, 500)
    assert words in answer.message
    state = daemon.state(container)
    assert (state["Status"], state["Running"]) == ("created", False)
    assert words in state["Error"]
    assert daemon.leftovers(container) == []
    daemon.delete(f"/containers/{container}")


def test_sizes_are_told_when_asked_for(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo 123456789 > /sized")
    daemon.wait(container)
    shown = daemon.get(f"/containers/{container}/json", size=1).json()
    assert shown["SizeRw"] == 10
    assert shown["SizeRootFs"] >= 10
    assert "SizeRw" not in daemon.get(f"/containers/{container}/json").json()
    entries = daemon.get("/containers/json", all=1, size=1).json()
    entry = next(entry for entry in entries if entry["Id"] == container)
    assert (entry["SizeRw"], entry["SizeRootFs"]) == (10, shown["SizeRootFs"])
    assert "10B (virtual" in daemon.docker("ps", "-as").stdout


def test_the_size_of_what_it_stands_on_outlives_the_image(daemon: Daemon) -> None:
    import_image(daemon, "sized:1", {"data": bytes(100_000)})
    container = daemon.create("true", Image="sized:1")
    before = daemon.get(f"/containers/{container}/json", size=1).json()["SizeRootFs"]
    assert before > 100_000
    assert daemon.delete("/images/sized:1", force=1).status == 200
    shown = daemon.get(f"/containers/{container}/json", size=1).json()
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (0, before)
    daemon.delete(f"/containers/{container}")
