"""Restart policies and restarts by hand, on real containers; their life across daemons is in
tests/daemon/test_restarts.py."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root


def policy(name: str, count: int = 0) -> dict[str, Any]:
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": count}}


def actions(daemon: Daemon, container: str, since: float) -> list[str]:
    filters = json.dumps({"container": [container]})
    body = daemon.get("/events", since=since, until=time.time(), filters=filters).body
    return [json.loads(line)["Action"] for line in body.splitlines()]


def test_a_failure_is_answered_as_often_as_was_said(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("sh", "-c", "echo run; exit 3", HostConfig=policy("on-failure", 2))
    daemon.wait_for(lambda: daemon.state(container)["Status"] == "exited")
    # 100 and 200 ms lie between the three runs.
    assert time.time() - begin > 0.3
    shown = daemon.get(f"/containers/{container}/json").json()
    assert (shown["RestartCount"], shown["State"]["ExitCode"]) == (2, 3)
    assert shown["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert daemon.logs(container) == "run\n" * 3
    life = actions(daemon, container, begin)
    assert life == ["create", *["start", "die"] * 3]
    # A start by hand begins the count anew.
    assert daemon.post(f"/containers/{container}/start").status == 204
    daemon.wait_for(lambda: daemon.logs(container) == "run\n" * 6)
    daemon.wait_for(lambda: daemon.state(container)["Status"] == "exited")
    daemon.delete(f"/containers/{container}")


def test_between_two_runs_it_is_restarting_and_what_is_asked_of_it_says_so(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "exit 5", name="again", HostConfig=policy("always"))
    # From the fifth run on it waits for a second and more.
    daemon.wait_for(lambda: daemon.get("/containers/again/json").json()["RestartCount"] >= 5)
    daemon.wait_for(lambda: daemon.state(container)["Status"] == "restarting")
    state = daemon.state(container)
    assert (state["Running"], state["Restarting"], state["Pid"]) == (True, True, 0)
    assert state["ExitCode"] == 5
    assert state["FinishedAt"] > state["StartedAt"] > "2"
    [entry] = daemon.get("/containers/json").json()
    assert (entry["State"], entry["Status"].startswith("Restarting (5) ")) == ("restarting", True)
    assert daemon.post(f"/containers/{container}/start").status == 304
    for path, body in (("pause", None), ("exec", {"Cmd": ["true"]}), ("attach", None)):
        answer = daemon.post(f"/containers/{container}/{path}", body)
        assert answer.status == 409, answer.body
        assert "is restarting, wait until the container is running" in answer.message
    answer = daemon.delete(f"/containers/{container}")
    assert answer.status == 409
    assert answer.message == (
        'cannot remove container "/again": container is restarting: stop the container before '
        "removing or force remove"
    )
    assert daemon.post(f"/containers/{container}/stop").status == 204
    state = daemon.state(container)
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 5, False)
    time.sleep(2)
    assert daemon.state(container)["Status"] == "exited"
    daemon.delete(f"/containers/{container}")


@pytest.mark.parametrize("request_", ["stop?t=0", "kill", "kill?signal=TERM"])
def test_who_stops_it_stops_its_policy_too(daemon: Daemon, request_: str) -> None:
    command = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
    container = daemon.run("sh", "-c", command, HostConfig=policy("always"))
    daemon.wait_for(lambda: daemon.logs(container) == "up\n")
    assert daemon.post(f"/containers/{container}/{request_}").status == 204
    daemon.wait_for(lambda: not daemon.state(container)["Running"])
    time.sleep(0.3)
    assert daemon.state(container)["Status"] == "exited"
    assert daemon.get(f"/containers/{container}/json").json()["RestartCount"] == 0
    daemon.delete(f"/containers/{container}")


def test_a_reload_leaves_the_policy_in_force(daemon: Daemon) -> None:
    command = "trap 'exit 7' USR1; trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done"
    container = daemon.run("sh", "-c", command, HostConfig=policy("unless-stopped"))
    daemon.wait_for(lambda: daemon.logs(container) == "up\n")
    assert daemon.post(f"/containers/{container}/kill", signal="HUP").status == 204
    daemon.wait_for(lambda: "hup" in daemon.logs(container))
    assert daemon.post(f"/containers/{container}/kill", signal="USR1").status == 204
    daemon.wait_for(lambda: daemon.logs(container) == "up\nhup\nup\n")
    assert daemon.delete(f"/containers/{container}", force=1).status == 204


def test_force_removes_it_between_two_runs(daemon: Daemon) -> None:
    container = daemon.run("false", HostConfig=policy("always"))
    daemon.wait_for(lambda: daemon.get(f"/containers/{container}/json").json()["RestartCount"] > 3)
    assert daemon.delete(f"/containers/{container}", force=1).status == 204
    assert daemon.leftovers(container) == []
    assert daemon.get(f"/containers/{container}/json").status == 404


def test_a_wait_ends_with_each_run(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "sleep 0.2; exit 4", HostConfig=policy("always"))
    answer = daemon.post(f"/containers/{container}/wait", condition="next-exit")
    assert answer.json() == {"StatusCode": 4}
    assert daemon.post(f"/containers/{container}/wait").json() == {"StatusCode": 4}
    daemon.delete(f"/containers/{container}", force=1)


def test_a_policy_that_is_none_is_refused(daemon: Daemon) -> None:
    for host, words in (
        (policy("sometimes"), "unknown policy 'sometimes'"),
        ({**policy("always"), "AutoRemove": True}, "can't create 'AutoRemove' container"),
    ):
        body = {"Image": "host", "Cmd": ["true"], "HostConfig": host}
        answer = daemon.post("/containers/create", body)
        assert (answer.status, words in answer.message) == (400, True), answer.body


def test_a_restart_stops_and_starts(daemon: Daemon) -> None:
    begin = time.time()
    command = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
    container = daemon.run("sh", "-c", command, HostConfig={"AutoRemove": True})
    daemon.wait_for(lambda: daemon.logs(container) == "up\n")
    pid = daemon.state(container)["Pid"]
    assert daemon.post(f"/containers/{container}/restart", t=5).status == 204
    state = daemon.state(container)
    assert (state["Status"], state["Pid"] != pid) == ("running", True)
    daemon.wait_for(lambda: daemon.logs(container) == "up\nup\n")
    life = actions(daemon, container, begin)
    assert life == ["create", "start", "kill", "die", "stop", "start", "restart"]
    assert daemon.post(f"/containers/{container}/stop").status == 204
    assert daemon.get(f"/containers/{container}/json").status == 404


def test_a_restart_starts_what_is_ended_and_says_what_it_cannot(daemon: Daemon) -> None:
    ended = daemon.run("sh", "-c", "echo x")
    daemon.wait(ended)
    assert daemon.post(f"/containers/{ended}/restart").status == 204
    daemon.wait_for(lambda: daemon.logs(ended) == "x\nx\n")
    daemon.delete(f"/containers/{ended}", force=1)
    broken = daemon.create("no-such-program", name="broken")
    answer = daemon.post("/containers/broken/restart")
    assert (answer.status, answer.message.startswith("Cannot restart container broken: ")) == (
        400,
        True,
    )
    daemon.delete(f"/containers/{broken}")
    assert daemon.post("/containers/nobody/restart").status == 404


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_the_docker_client_restarts(daemon: Daemon) -> None:
    done = daemon.docker(
        "run", "-d", "--name", "rr", "--network", "none", "--restart", "on-failure:1", "host",
        "sh", "-c", "exit 9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    daemon.wait_for(lambda: not daemon.state("rr")["Running"])
    done = daemon.docker("inspect", "-f", "{{.RestartCount}} {{.State.ExitCode}}", "rr")
    assert done.stdout == "1 9\n"
    assert daemon.docker("restart", "-t", "1", "rr").stdout == "rr\n"
    daemon.wait_for(lambda: not daemon.state("rr")["Running"])
    done = daemon.docker("run", "--rm", "--restart", "always", "host", "true")
    assert done.returncode == 125
    assert daemon.docker("rm", "rr").returncode == 0


def test_a_restart_that_the_machine_fails_is_an_end(daemon: Daemon) -> None:
    """Its files cannot be written, as on a full disk."""
    bridge = {"NetworkMode": "bridge"}
    container = daemon.run("sleep", "600", HostConfig={**policy("always"), **bridge})
    hosts = daemon.data_root / "containers" / container / "hosts"
    hosts.unlink()
    hosts.mkdir()
    os.kill(daemon.state(container)["Pid"], signal.SIGKILL)
    daemon.wait_for(lambda: daemon.state(container)["Status"] == "exited")
    assert str(hosts) in daemon.state(container)["Error"]
    assert daemon.post(f"/containers/{container}/stop").status == 304
    answer = daemon.post(f"/containers/{container}/start")
    assert (answer.status, str(hosts) in answer.message) == (500, True)
    hosts.rmdir()
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert daemon.delete(f"/containers/{container}", force=1).status == 204
    assert daemon.leftovers(container) == []
