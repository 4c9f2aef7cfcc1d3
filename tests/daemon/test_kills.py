"""SIGKILL of the daemon, its zygote and any monitor, at any moment of a mixed load.

The moments come from a seed, which a failure prints. Afterwards: what is dead left no mount,
cgroup, process or directory; whose own monitor was killed is ended and reported so; all others
lived on. Where the daemon alone is killed, nothing that it acknowledged is lost: the long form of
that test is ``python -m bench.kills``.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.kernel.mounts import mountinfo
from tests.daemon.kill_load import Load as Lives
from tests.daemon.kill_load import groups, leaks, names, processes
from tests.daemon_fixture import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

SECONDS = 12.0
KILLS = 12
BYSTANDERS = 4
VICTIMS = 3


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    root = tmp_path / "d"
    root.mkdir()
    one = Daemon(root)
    try:
        yield one.start()
    finally:
        one.close()


class Load(threading.Thread):
    """Lives of containers, one after the other, that mind nothing: the daemon is often away."""

    def __init__(self, daemon: Daemon, stop: threading.Event, kind: int) -> None:
        super().__init__(daemon=True)
        self.lives = 0
        self._daemon = daemon
        self._stop_now = stop
        self._kind = kind

    def run(self) -> None:
        while not self._stop_now.is_set():
            try:
                self._live()
                self.lives += 1
            except (OSError, AssertionError, ValueError, KeyError, http.client.HTTPException):
                time.sleep(0.01)

    def _live(self) -> None:
        daemon = self._daemon
        if self._kind == 0:
            container = daemon.create("true", HostConfig={"AutoRemove": True})
            daemon.post(f"/containers/{container}/start")
        elif self._kind == 1:
            container = daemon.run("sh", "-c", "echo out; sleep 0.05; exit 3")
            daemon.wait(container)
            daemon.delete(f"/containers/{container}", force=1, v=1)
        else:
            container = daemon.run("sleep", "600", HostConfig={"Binds": ["/data"]})
            body = {"Cmd": ["true"], "AttachStdout": True}
            instance = daemon.post(f"/containers/{container}/exec", body).json()["Id"]
            daemon.post(f"/exec/{instance}/start", {"Detach": True})
            daemon.delete(f"/containers/{container}", force=1, v=1)


def test_whatever_is_killed_only_its_own_is_lost(own: Daemon) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    moments = random.Random(seed)
    bystanders = {own.run("sleep", "600"): 0 for _ in range(BYSTANDERS)}
    for container in bystanders:
        bystanders[container] = own.state(container)["Pid"]
    victims = {own.run("sh", "-c", "sleep 600 & sleep 600"): 0 for _ in range(VICTIMS)}
    for container in victims:
        victims[container] = own.monitor_of(container)
    unhurt = list(victims)
    stop = threading.Event()
    loads = [Load(own, stop, kind) for kind in range(3)]
    for load in loads:
        load.start()
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            time.sleep(moments.uniform(0.01, 0.6))
            what = moments.choice(("daemon", "daemon", "zygote", "monitor", "monitor"))
            if what == "daemon":
                own.kill()
                time.sleep(moments.uniform(0.0, 0.1))
                own.start()
            elif what == "zygote":
                for zygote in own.zygotes():
                    os.kill(zygote, signal.SIGKILL)
            elif unhurt and moments.random() < 0.3:
                os.kill(victims[unhurt.pop()], signal.SIGKILL)
            else:
                kill_a_monitor_of_the_load(own, moments, {*bystanders, *victims})
        while unhurt:
            os.kill(victims[unhurt.pop()], signal.SIGKILL)
    finally:
        stop.set()
        for load in loads:
            load.join(40)
    assert sum(load.lives for load in loads) > 3

    own.wait_for(lambda: all(own.state(one)["Status"] == "exited" for one in victims))
    for container in victims:
        state = own.state(container)
        assert (state["ExitCode"], "monitor died" in state["Error"]) == (137, True), state
        assert own.leftovers(container) == []
    for container, pid in bystanders.items():
        assert (own.state(container)["Status"], own.state(container)["Pid"]) == ("running", pid)

    living = set(bystanders)
    for item in own.get("/containers/json", all=1).json():
        if item["Id"] not in living:
            answer = own.delete(f"/containers/{item['Id']}", force=1, v=1)
            assert answer.status in (204, 404, 409), answer.body
    own.wait_for(
        lambda: {item["Id"] for item in own.get("/containers/json", all=1).json()} == living
    )
    own.wait_for(lambda: names(own.data_root / "containers") == living)
    own.wait_for(lambda: names(own.data_root / "overlay2/rw") == living)
    own.wait_for(lambda: names(own.exec_root / "containers") == living)
    own.wait_for(lambda: groups(own) == living)
    own.wait_for(lambda: processes(own) == set(bystanders.values()))
    own.wait_for(lambda: not names(own.data_root / "trash"))
    assert [row.mount_point for row in mountinfo() if str(own.root) in row.mount_point] == []
    for container in bystanders:
        assert own.post(f"/containers/{container}/kill").status == 204
        assert own.wait(container) == 137


def kill_a_monitor_of_the_load(own: Daemon, moments: random.Random, spared: set[str]) -> None:
    """By its run directory, as the kernel would find it: whatever moment that is in its life."""
    found = sorted(names(own.exec_root / "containers") - spared)
    if not found:
        return
    try:
        text = (own.exec_root / "containers" / moments.choice(found) / "monitor.json").read_text()
        pid = int(text.partition('"pid":')[2].lstrip().partition(",")[0].rstrip("} \n"))
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return  # it has just ended, or not quite begun
    try:
        if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def test_a_dozen_kills_of_the_daemon_lose_nothing(own: Daemon) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    moments = random.Random(seed)
    load = Lives(own, containers=10, tickers=3, seed=seed)
    load.start()
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.02, 0.5))
        own.kill()
        time.sleep(moments.choice((0.0, 0.05)))
        own.start()
        load.check()
    lines = load.finish()
    assert load.ledger.wrong == []
    assert lines > 100
    assert sum(load.ledger.lives.values()) > 10
    own.wait_for(lambda: not leaks(own, set()))


@pytest.mark.parametrize("count", [30])
def test_a_daemon_is_ready_at_once_however_many_containers_it_finds(
    own: Daemon, count: int
) -> None:
    """A second for a hundred of them where nothing else runs; tests share their machine."""
    running = [own.run("sleep", "600") for _ in range(count)]
    own.kill()
    begin = time.monotonic()
    own.start()
    seconds = time.monotonic() - begin
    assert {item["Id"] for item in own.get("/containers/json").json()} == set(running)
    assert seconds < 5
