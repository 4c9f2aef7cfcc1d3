"""Which makers become the init of their container, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sampan.oci.runtime import Process, Spec
from sampan.runtime.supervisor import exec_maker, messages, protocol
from sampan.runtime.supervisor.heir import Heir, takes_over
from tests.runtime.containers import configuration
from tests.runtime.supervisor.spawning import PATIENCE, Factory, frames, read_all, spawn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from sampan.runtime.gate import Channel

__all__ = ["spawn"]

pytestmark = pytest.mark.root
_TRUE = Process(cwd="/", args=("true",))
NOTIFY = {"program": "", "notify": True}


def _hook(kind: str) -> dict[str, Any]:
    return {"hooks": {kind: [{"path": "/bin/true"}]}}


def _limit(kind: str, soft: int) -> dict[str, Any]:
    return {"process": {"rlimits": [{"type": f"RLIMIT_{kind}", "soft": soft, "hard": soft}]}}


@pytest.mark.parametrize(
    ("fields", "changes", "expected"),
    [
        ({}, {}, True),
        ({"terminal": True}, {}, True),
        ({"init": True}, {}, False),
        ({"seccomp": NOTIFY}, {}, False),
        ({"seccomp": {**NOTIFY, "notify": False}}, {}, True),
        ({}, {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}, False),
        ({}, {"linux": {"netDevices": {"eth9": {}}}}, False),
        ({}, _hook("poststop"), True),
        ({}, _hook("prestart"), False),
        ({}, _hook("createRuntime"), False),
        ({}, _hook("createContainer"), False),
        ({}, _hook("startContainer"), False),
        ({}, _hook("poststart"), False),
        ({}, _limit("NOFILE", 64), True),
        ({}, _limit("NOFILE", 63), False),
        ({}, _limit("NPROC", 1), True),
        ({}, _limit("AS", 1 << 30), False),
    ],
)
def test_a_maker_takes_over_what_needs_no_parent(
    fields: dict[str, Any], changes: dict[str, Any], expected: bool
) -> None:
    request = messages.Spawn.from_json(
        {"id": "x", "run_dir": "/x", "spec": True, "bundle": "/", **fields}
    )
    assert takes_over(request, Spec.from_json(configuration("true", **changes))) is expected


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_program_runs_where_its_maker_was_and_nothing_is_left_of_that(
    spawn: Factory, terminal: bool
) -> None:
    changes = {"process": {"terminal": terminal}}
    container = spawn("sleep", "1000", terminal=terminal, spec=changes)
    init = int(container.call("status")["pid"])
    assert _children(container.monitor()) == [init, container.awake()]
    assert Path(f"/proc/{init}/comm").read_text() == "sleep\n"
    for name in ("mem", "root", "environ"):
        assert Path(f"/proc/{init}/{name}").exists()
    fds = sorted(path.name for path in Path(f"/proc/{init}/fd").iterdir())
    assert fds == ["0", "1", "2"]
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137


def test_a_program_that_cannot_be_executed_is_undone_by_the_monitor(spawn: Factory) -> None:
    for start in (True, False):
        container = spawn("/etc/passwd", wait=False, start=start)
        error = container.event("failed")["error"]
        assert (error["type"], error["exit_code"]) == ("CommandNotExecutable", 126)
        assert not spawn.hierarchy.group(spawn.group(container.name)).exists()
        assert not container.run_dir.exists()


def test_limits_are_set_before_rights_are_gone(spawn: Factory) -> None:
    process = {
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 100},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
        "user": {"uid": 1000, "gid": 1000},
    }
    container = spawn("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c", spec={"process": process})
    container.event("exit")
    assert container.logged().split() == ["64", "100", "0"]


def test_a_start_is_told_once_whoever_woke_the_monitor(spawn: Factory) -> None:
    for start in (True, False):
        container = spawn("echo", "x", wait=False, start=start)
        if not start:
            container.event("created")
            container.call("start")
        while container.receive():
            pass
        names = [event["event"] for event in container.events]
        assert [name for name in names if name != "created"] == ["started", "exit"]
        assert json.loads((container.run_dir / "exit.json").read_text())["code"] == 0


def test_a_monitor_ends_with_a_maker_that_fails_before_it_has_anything_to_report(
    spawn: Factory,
) -> None:
    container = spawn("true", wait=False, rootfs=[{"destination": "/x", "type": "tmpfs"}])
    container.event("failed")
    assert not container.receive(), "and the connection ends, as the pair has"
    deadline = time.monotonic() + 60
    while len(_children(spawn.zygote.pid)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_an_init_was_ends_with_its_monitor(spawn: Factory) -> None:
    """It is stopped, or was killed just now: however soon the monitor goes, it goes too."""
    for pause in (0, 0.005, 0.02):
        container = spawn("sleep", "1000")
        monitor = container.monitor()
        children = _children(monitor)
        time.sleep(pause)
        os.kill(monitor, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline, children
            time.sleep(0.01)


@pytest.mark.v2
def test_what_an_exec_was_takes_no_place_in_the_container(spawn: Factory) -> None:
    """Of three places one is for a process that the program starts at once."""
    limit = {"linux": {"resources": {"pids": {"limit": 3}}}}
    container = spawn("sleep", "1000", spec=limit)
    for number in range(5):
        stream, reply = container.exec("sh", "-c", "/bin/true; echo x", exec_id=f"e{number}")
        assert reply.get("ok"), reply
        assert frames(read_all(stream)) == {1: b"x\n", 2: b""}
    container.call("kill", signal=9)


@pytest.mark.v2
def test_what_an_exec_was_is_not_seen_in_the_container_and_soon_gone(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    init, awake = int(container.call("status")["pid"]), container.awake()
    group = spawn.hierarchy.group(spawn.group(container.name))
    for number in range(3):
        container.call("prepare-exec")
        stream, reply = container.exec("sleep", "1000", exec_id=f"e{number}")
        assert sorted(group.processes()) == sorted({init, reply["pid"]})
        container.call("kill", signal=9, exec_id=f"e{number}")
        read_all(stream)
        deadline = time.monotonic() + PATIENCE
        while _children(awake):
            assert time.monotonic() < deadline, _children(awake)
            time.sleep(0.01)
    container.call("kill", signal=9)


def _of_an_exec(monitor: socket.socket) -> Channel:
    return exec_maker._Heir(monitor, _TRUE, {})


def _of_a_start(monitor: socket.socket) -> Channel:
    return Heir(
        monitor.fileno(),
        -1,
        process=_TRUE,
        at_once=True,
        shield=lambda: None,
        report=lambda _: None,
        tell=lambda _: None,
    )


@pytest.mark.parametrize("heir", [_of_an_exec, _of_a_start])
def test_whose_monitor_is_gone_runs_no_program(heir: Callable[[socket.socket], Channel]) -> None:
    """Nobody would stop what it was, nor know of the program."""
    ours, theirs = protocol.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            heir(theirs).expect(b"x")
        finally:
            os._exit(0)
    theirs.close()
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
