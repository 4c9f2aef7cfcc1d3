"""Health checks of real containers, through their monitors."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root

MS = 1_000_000


def check(command: str, **fields: int) -> dict[str, Any]:
    return {"Healthcheck": {"Test": ["CMD-SHELL", command], "Interval": 50 * MS, **fields}}


def health(daemon: Daemon, container: str) -> dict[str, Any]:
    return dict(daemon.state(container)["Health"])


def told(daemon: Daemon, container: str, begin: float, *names: str) -> list[str]:
    filters = json.dumps({"container": [container], "event": list(names)})
    body = daemon.get("/events", since=begin, until=time.time(), filters=filters).body
    return [json.loads(line)["Action"] for line in body.splitlines()]


def test_a_container_becomes_healthy_falls_ill_and_recovers(daemon: Daemon) -> None:
    begin = time.time()
    test = "test -e /tmp/well && echo fine || { echo ill >&2; exit 1; }"
    container = daemon.run("sleep", "600", name="patient", **check(test, Retries=2))
    first = health(daemon, container)
    assert (first["Status"], first["FailingStreak"]) == ("starting", 0)
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "unhealthy")
    found = health(daemon, container)
    assert found["FailingStreak"] >= 2
    assert (found["Log"][0]["ExitCode"], found["Log"][0]["Output"]) == (1, "ill\n")
    assert found["Log"][0]["Start"] < found["Log"][0]["End"] < found["Log"][1]["Start"]
    instance = daemon.post(f"/containers/{container}/exec", {"Cmd": ["touch", "/tmp/well"]})
    daemon.post(f"/exec/{instance.json()['Id']}/start", {"Detach": True})
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    assert health(daemon, container)["FailingStreak"] == 0
    daemon.wait_for(lambda: {one["ExitCode"] for one in health(daemon, container)["Log"]} == {0})
    assert len(health(daemon, container)["Log"]) == 5
    [entry] = daemon.get("/containers/json").json()
    assert entry["Status"].endswith(" (healthy)")
    daemon.post(f"/containers/{container}/kill")
    assert health(daemon, container)["Status"] == "unhealthy"
    statuses = told(daemon, container, begin, "health_status")
    assert statuses == ["health_status: unhealthy", "health_status: healthy"]
    assert f"exec_create: /bin/sh -c {test}" in told(daemon, container, begin, "exec_create")
    daemon.delete(f"/containers/{container}")


def test_a_check_of_words_is_its_own_shells(daemon: Daemon) -> None:
    fields = check('echo "$0"; exit 0')
    container = daemon.run("sleep", "600", Shell=["bash", "-c"], **fields)
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    assert health(daemon, container)["Log"][0]["Output"] == "bash\n"
    daemon.delete(f"/containers/{container}", force=1)


def test_checks_leave_nothing_behind(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", **check("true"))
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    files = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    monitor = daemon.monitor_of(container)
    held = len(os.listdir(f"/proc/{monitor}/fd"))
    time.sleep(1.5)
    assert len(daemon.get(f"/containers/{container}/json").json()["ExecIDs"] or []) <= 1
    assert abs(len(os.listdir(f"/proc/{daemon.pid}/fd")) - files) <= 3
    assert abs(len(os.listdir(f"/proc/{monitor}/fd")) - held) <= 6
    top = daemon.get(f"/containers/{container}/top").json()["Processes"]
    assert len(top) <= 2
    daemon.delete(f"/containers/{container}", force=1)


def test_a_check_that_hangs_is_killed_with_what_it_started(daemon: Daemon) -> None:
    container = daemon.run(
        "sleep", "600", **check("echo begun; sleep 611; true", Timeout=300 * MS, Retries=1)
    )
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "unhealthy")
    first = health(daemon, container)["Log"][0]
    assert first["ExitCode"] == -1
    assert first["Output"] == "Health check exceeded timeout (300ms): begun\n"
    daemon.wait_for(lambda: len(health(daemon, container)["Log"]) >= 2)
    rows = daemon.get(f"/containers/{container}/top").json()["Processes"]
    assert len([row for row in rows if row[-1] == "sleep 611"]) <= 1
    daemon.delete(f"/containers/{container}", force=1)


def test_output_without_an_end_is_cut(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", **check("head -c 100000 /dev/zero | tr '\\0' x"))
    daemon.wait_for(lambda: len(health(daemon, container)["Log"]) >= 1)
    assert health(daemon, container)["Log"][0] | {"Start": "", "End": ""} == {
        "Start": "", "End": "", "ExitCode": 0, "Output": "x" * 4096,
    }  # fmt: skip
    daemon.delete(f"/containers/{container}", force=1)


def test_a_check_that_cannot_be_executed_says_so(daemon: Daemon) -> None:
    container = daemon.run(
        "sleep",
        "600",
        Healthcheck={"Test": ["CMD", "/no/such/check"], "Interval": 50 * MS, "Retries": 1},
    )
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "unhealthy")
    log = health(daemon, container)["Log"][0]
    assert log["ExitCode"] != 0
    assert "/no/such/check" in log["Output"]
    daemon.delete(f"/containers/{container}", force=1)


def test_a_frozen_container_is_not_asked(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", **check("true"))
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    begin = time.time()
    daemon.post(f"/containers/{container}/pause")
    time.sleep(0.4)
    assert health(daemon, container)["Status"] == "unhealthy"
    assert told(daemon, container, begin, "health_status") == []
    assert len(told(daemon, container, begin, "exec_create")) <= 1
    daemon.post(f"/containers/{container}/unpause")
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    daemon.delete(f"/containers/{container}", force=1)


def test_the_start_period_has_an_interval_of_its_own(daemon: Daemon) -> None:
    fields = {"Interval": 600_000 * MS, "StartPeriod": 60_000 * MS, "StartInterval": 50 * MS}
    container = daemon.run("sleep", "600", **check("exit 1", **fields))
    daemon.wait_for(lambda: len(health(daemon, container)["Log"]) >= 4)
    found = health(daemon, container)
    assert (found["Status"], found["FailingStreak"]) == ("starting", 0)
    daemon.delete(f"/containers/{container}", force=1)


def test_checks_go_on_with_the_next_daemon(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", **check("test ! -e /tmp/ill"))
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "healthy")
    daemon.kill()
    daemon.start()
    assert health(daemon, container)["Status"] == "healthy"
    instance = daemon.post(f"/containers/{container}/exec", {"Cmd": ["touch", "/tmp/ill"]})
    daemon.post(f"/exec/{instance.json()['Id']}/start", {"Detach": True})
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "unhealthy")
    daemon.delete(f"/containers/{container}", force=1)


def test_a_restarted_container_starts_anew(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", **check("exit 3", Retries=1))
    daemon.wait_for(lambda: health(daemon, container)["Status"] == "unhealthy")
    daemon.post(f"/containers/{container}/restart", t=0)
    found = health(daemon, container)
    assert (found["Status"], found["FailingStreak"]) == ("starting", 0)
    assert found["Log"]
    daemon.delete(f"/containers/{container}", force=1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"Test": ["CMD", "x"], "Interval": 5}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Test": ["WHAT", "x"]}, "Unknown healthcheck type 'WHAT'"),
        ({"Test": "x"}, "Test"),
    ],
    ids=str,
)
def test_what_is_no_check_is_refused(daemon: Daemon, asked: Any, words: str) -> None:
    body = {"Image": "host", "Cmd": ["true"], "Healthcheck": asked}
    answer = daemon.post("/containers/create", body)
    assert (answer.status, words in answer.message) == (400, True), answer.body


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_an_images_check_is_run_and_docker_shows_it(daemon: Daemon, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "bin/busybox").chmod(0o755)
    os.symlink("busybox", tmp_path / "bin/sh")
    tar = subprocess.run(["tar", "-C", str(tmp_path), "-c", "."], capture_output=True, check=True)
    done = daemon.docker(
        "import", "-c", "HEALTHCHECK --interval=50ms CMD echo good", "-", "checked:1",
        stdin=tar.stdout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = daemon.docker(
        "run", "-d", "--name", "own", "--network", "none", "checked:1", "busybox", "sleep", "600"
    )
    assert done.returncode == 0, done.stderr
    daemon.wait_for(lambda: health(daemon, "own")["Status"] == "healthy")
    done = daemon.docker("inspect", "-f", "{{(index .State.Health.Log 0).Output}}", "own")
    assert done.stdout.strip() == "good"
    assert "(healthy)" in daemon.docker("ps", "--format", "{{.Status}}").stdout
    done = daemon.docker(
        "run", "-d", "--name", "off", "--network", "none", "--no-healthcheck", "checked:1",
        "busybox", "sleep", "600",
    )  # fmt: skip
    assert "Health" not in daemon.state("off")
    daemon.remove_all()
