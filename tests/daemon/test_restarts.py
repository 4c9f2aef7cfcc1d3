"""Restart policies across the daemon's own restarts: what it finds, and what it then starts."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import Daemon, own_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def own(quick: Path) -> Iterator[Daemon]:
    one = Daemon(own_root(quick))
    try:
        yield one.start()
    finally:
        one.close()


def policy(name: str, count: int = 0) -> dict[str, Any]:
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": count}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_stopped_starts_with_the_daemon_only_where_that_is_always(
    own: Daemon, number: int
) -> None:
    always = own.run("sleep", "600", HostConfig=policy("always"))
    unless = own.run("sleep", "600", HostConfig=policy("unless-stopped"))
    failure = own.run("sleep", "600", HostConfig=policy("on-failure"))
    untouched = own.create("sleep", "600", HostConfig=policy("always"))
    running = own.run("sleep", "600", HostConfig=policy("always"))
    pid = own.state(running)["Pid"]
    for container in (always, unless, failure):
        assert own.post(f"/containers/{container}/kill").status == 204
    own.stop(number)
    own.start()
    own.wait_for(lambda: own.state(always)["Status"] == "running")
    assert own.get(f"/containers/{always}/json").json()["RestartCount"] == 0
    time.sleep(0.3)
    assert own.state(unless)["Status"] == "exited"
    assert own.state(failure)["Status"] == "exited"
    assert own.state(untouched)["Status"] == "created"
    assert own.state(running)["Pid"] == pid


def test_what_ended_while_the_daemon_was_away_is_answered_when_it_is_back(own: Daemon) -> None:
    failing = own.run("sh", "-c", "sleep 0.3; exit 2", HostConfig=policy("on-failure", 1))
    well = own.run("sh", "-c", "sleep 0.3; exit 0", HostConfig=policy("on-failure"))
    command = "echo run; if [ -e /seen ]; then exec sleep 600; fi; touch /seen; sleep 0.3"
    unless = own.run("sh", "-c", command, HostConfig=policy("unless-stopped"))
    own.kill()
    time.sleep(0.6)
    own.start()
    own.wait_for(lambda: own.logs(unless) == "run\nrun\n")
    own.wait_for(lambda: own.state(failing)["Status"] == "exited")
    assert own.get(f"/containers/{failing}/json").json()["RestartCount"] == 1
    assert (own.state(well)["Status"], own.state(well)["ExitCode"]) == ("exited", 0)
    assert own.state(unless)["Status"] == "running"


def test_a_planned_start_is_the_next_daemons(own: Daemon) -> None:
    container = own.run("false", HostConfig=policy("always"))
    own.wait_for(lambda: own.get(f"/containers/{container}/json").json()["RestartCount"] >= 5)
    own.wait_for(lambda: own.state(container)["Status"] == "restarting")
    before = own.get(f"/containers/{container}/json").json()["RestartCount"]
    own.kill()
    own.start()
    assert own.get(f"/containers/{container}/json").json()["RestartCount"] >= before
    own.wait_for(
        lambda: own.get(f"/containers/{container}/json").json()["RestartCount"] > before, 20
    )
    own.delete(f"/containers/{container}", force=1)


def test_who_joins_anothers_namespace_starts_after_it(own: Daemon) -> None:
    """After a reboot both are to start; that one joins the other must not be left to luck."""
    donors = [own.run("sleep", "600", HostConfig=policy("always")) for _ in range(3)]
    joiners = [
        own.run("sleep", "600", HostConfig={**policy("always"), "PidMode": f"container:{donor}"})
        for donor in donors
    ]
    monitors = [own.monitor_of(container) for container in (*joiners, *donors)]
    own.kill()
    for monitor in monitors:
        os.kill(monitor, signal.SIGKILL)
    own.start()
    for container in (*joiners, *donors):
        own.wait_for(lambda one=container: own.state(one)["Status"] == "running")
    ended = [own.get(f"/containers/{one}/json").json() for one in (*joiners, *donors)]
    assert [one["RestartCount"] for one in ended] == [1] * 6


def test_a_container_being_stopped_when_the_daemon_dies_stays_stopped(own: Daemon) -> None:
    command = "trap 'echo told; sleep 0.5; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    container = own.run("sh", "-c", command, HostConfig=policy("unless-stopped"))
    own.wait_for(lambda: own.logs(container) == "up\n")
    import threading

    stopping = threading.Thread(target=lambda: _ignored(own, container))
    stopping.start()
    own.wait_for(lambda: "told" in own.logs(container))
    own.kill()
    stopping.join(60)
    time.sleep(0.6)
    own.start()
    own.wait_for(lambda: not own.state(container)["Running"])
    time.sleep(0.5)
    state = own.state(container)
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)


def _ignored(own: Daemon, container: str) -> None:
    try:
        own.post(f"/containers/{container}/stop")
    except (OSError, ValueError):
        pass  # the daemon was killed: that is the test
