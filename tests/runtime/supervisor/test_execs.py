"""Processes executed in a container by its monitor."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.containers import process_of
from tests.runtime.supervisor.spawning import (
    PATIENCE,
    Factory,
    children,
    frames,
    read_all,
    read_until,
    spawn,
)

__all__ = ["spawn"]

pytestmark = pytest.mark.root


@pytest.mark.v2
def test_a_process_is_executed_beside_init(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, reply = container.exec("sh", "-c", "echo out; echo err >&2; exit 5")
    assert reply.get("ok"), reply
    assert reply["pid"] > 0
    assert frames(read_all(stream)) == {1: b"out\n", 2: b"err\n"}
    assert container.event("exec-exit") == {"event": "exec-exit", "exec_id": "x", "code": 5}
    status = container.call("status")["execs"]["x"]
    assert (status["running"], status["code"]) == (False, 5)
    assert not container.log.read_text(), "only init's output is logged"
    container.call("kill", signal=9)


def test_an_exec_takes_input_to_its_end(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, _ = container.exec("cat", stdin=True)
    stream.sendall(b"typed")
    stream.shutdown(socket.SHUT_WR)
    assert frames(read_all(stream))[1] == b"typed"
    container.call("kill", signal=9)


def test_an_exec_may_have_a_terminal_of_its_own(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, _ = container.exec(
        "sh", terminal=True, stdin=True, multiplex=False, console_size=[20, 60]
    )
    stream.sendall(b"stty size\n")
    read_until(stream, b"20 60")
    container.call("resize", exec_id="x", rows=21, cols=61)
    stream.sendall(b"stty size; exit\n")
    read_until(stream, b"21 61")
    read_all(stream)
    assert container.event("exec-exit")["code"] == 0
    container.call("kill", signal=9)


def test_a_detached_exec_needs_no_stream(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    process = process_of("sh", "-c", "cat; exit 4").to_json()
    container.call("exec", exec_id="d", process=process)
    assert container.event("exec-exit")["code"] == 4
    container.call("kill", signal=9)


def test_an_exec_that_cannot_start_says_which_way(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, reply = container.exec("/missing")
    assert reply["error"]["type"] == "CommandNotFound"
    assert reply["error"]["exit_code"] == 127
    assert read_all(stream) == b""
    _, reply = container.exec("/etc", exec_id="y")
    assert reply["error"]["exit_code"] == 126
    assert container.call("status")["execs"] == {}
    container.call("kill", signal=9)


def test_many_execs_run_at_once_and_a_name_in_use_is_refused(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    streams = []
    for number in range(8):
        script = f"read line; echo {number} $line"
        streams.append(container.exec("sh", "-c", script, exec_id=f"e{number}", stdin=True)[0])
    _, reply = container.exec("true", exec_id="e3")
    assert reply["error"]["type"] == "AlreadyExists"
    for stream in reversed(streams):
        stream.sendall(b"go\n")
    for number, stream in enumerate(streams):
        assert frames(read_all(stream))[1] == f"{number} go\n".encode()
    container.call("kill", signal=9)


def test_execs_that_end_at_once_are_reported_like_others(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    for number in range(30):
        stream, reply = container.exec("echo", "x", exec_id=f"e{number}")
        assert reply.get("ok"), reply
        assert frames(read_all(stream))[1] == b"x\n"
    container.call("kill", signal=9)


def test_execs_end_with_the_container_and_are_reported_first(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, _ = container.exec("sh", "-c", "echo up; sleep 1000")
    read_until(stream, b"up")
    container.call("kill", signal=9)
    assert container.event("exec-exit")["code"] == 137
    assert container.event("exit")["code"] == 137
    read_all(stream)


HARSH = {"rlimits": [{"type": "RLIMIT_AS", "soft": 1 << 27, "hard": 1 << 27}]}
WAYS = pytest.mark.parametrize(
    "changes", [{}, HARSH], ids=["its maker becomes it", "its maker forks it"]
)


@WAYS
def test_an_exec_is_the_monitors_child_and_holds_nothing_of_ours(
    spawn: Factory, changes: dict[str, Any]
) -> None:
    """Limits that our own program could not live with are for a process that is forked."""
    container = spawn("sleep", "1000")
    script = "ls /proc/self/fd | wc -l; ulimit -v; echo; read line"
    stream, reply = container.exec("sh", "-c", script, process=changes, stdin=True, multiplex=False)
    assert reply.get("ok"), reply
    count, limit = read_until(stream, b"\n\n").split()
    assert count == b"4", "its standard streams, and the directory it lists"
    assert limit == (b"131072" if changes else b"unlimited")
    monitor, pid = container.awake(), reply["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{monitor}\n" in status
    init = container.call("status")["pid"]
    deadline = time.monotonic() + PATIENCE
    while children(monitor) != {pid}:
        assert time.monotonic() < deadline, "a maker is left"
        time.sleep(0.01)
    scores = {Path(f"/proc/{one}/oom_score_adj").read_text() for one in (init, pid)}
    assert len(scores) == 1, "the monitor's shield is not the container's"
    stream.sendall(b"\n")
    read_all(stream)
    assert container.event("exec-exit")["code"] == 0
    container.call("kill", signal=9)


@WAYS
def test_execs_that_fail_late_leave_nothing(spawn: Factory, changes: dict[str, Any]) -> None:
    container = spawn("sleep", "1000")
    for name, command, more, code in (
        ("a", "/etc", {}, 126),
        ("b", "nosuch", {}, 127),
        ("c", "true", {"cwd": "/nosuch"}, 125),
        ("d", "true", {"user": {"username": "nobody-here"}}, 125),
    ):
        stream, reply = container.exec(command, process={**changes, **more}, exec_id=name)
        assert reply["error"]["exit_code"] == code, reply
        assert read_all(stream) == b""
    deadline = time.monotonic() + PATIENCE
    while children(container.awake()):
        assert time.monotonic() < deadline, "a process that failed is left"
        time.sleep(0.01)
    container.call("kill", signal=9)


def test_an_exec_sends_the_streams_that_were_asked_for(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, _ = container.exec("sh", "-c", "echo out; echo err >&2", stdout=False)
    assert frames(read_all(stream)) == {1: b"", 2: b"err\n"}
    container.call("kill", signal=9)


def test_what_an_exec_leaves_running_does_not_keep_its_client(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    stream, _ = container.exec("sh", "-c", "(while :; do echo noise; done) & echo done")
    assert b"done\n" in frames(read_all(stream))[1]
    assert container.event("exec-exit")["code"] == 0
    container.call("kill", signal=9)
    container.event("exit")
