"""A maker that is ready before an exec is asked for: it is used, given up, and lost with grace."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import Any

import pytest

from sampan.runtime.supervisor import execs, protocol
from tests.runtime.containers import process_of
from tests.runtime.supervisor.spawning import (
    PATIENCE,
    Container,
    Factory,
    children,
    frames,
    read_all,
    spawn,
)

__all__ = ["spawn"]
pytestmark = [pytest.mark.root, pytest.mark.v2]


def prepared(container: Container) -> int:
    """The pid of a maker that waits."""
    container.call("prepare-exec")
    (spare,) = children(container.awake())
    return spare


def drafted(container: Container, *args: str, **fields: Any) -> int:
    """The pid of a maker that knows what it will be asked for."""
    draft = {"exec_id": "x", "multiplex": True, "process": process_of(*args).to_json(), **fields}
    container.call("prepare-exec", draft=draft)
    (spare,) = children(container.awake())
    return spare


def go(container: Container, name: str = "x") -> tuple[socket.socket, dict[str, Any]]:
    """(the stream, the reply) of what was drafted."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with theirs:
        request = container.ask("exec-drafted", (theirs.fileno(),), exec_id=name)
        return ours, container.answer(request)


def wait_for_its_end(container: Container) -> None:
    deadline = time.monotonic() + PATIENCE
    while children(container.awake()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_was_prepared_is_the_one_that_becomes_it(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    spare = prepared(container)
    assert prepared(container) == spare, "one is enough"
    stream, reply = container.exec("sh", "-c", "echo out; exit 3")
    assert reply.get("ok"), reply
    assert frames(read_all(stream))[1] == b"out\n"
    assert container.event("exec-exit")["code"] == 3
    wait_for_its_end(container)
    container.call("kill", signal=9)


def test_what_was_drafted_is_executed_when_its_name_is_said(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    drafted(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert "ok" not in go(container, "y")[1], "another name"
    stream, reply = go(container)
    assert reply.get("ok"), reply
    assert frames(read_all(stream)) == {1: b"out\n", 2: b"err\n"}
    assert container.event("exec-exit") == {"event": "exec-exit", "exec_id": "x", "code": 3}
    wait_for_its_end(container)
    assert go(container)[1]["error"]["type"] == "NotFound", "once is enough"
    container.call("kill", signal=9)


def test_a_draft_without_a_stream_and_one_with_input_and_terminal(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    drafted(container, "sh", "-c", "exit 5")
    container.call("exec-drafted", exec_id="x")
    assert container.event("exec-exit")["code"] == 5
    wait_for_its_end(container)
    terminal = {"stdin": True, "terminal": True, "console_size": [11, 22], "multiplex": False}
    drafted(container, "sh", "-c", "read x; stty size; echo $x", **terminal)
    stream, _ = go(container)
    stream.sendall(b"typed\n")
    assert read_all(stream).split() == [b"typed", b"11", b"22", b"typed"]
    container.call("kill", signal=9)


def test_another_exec_comes_first(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    drafted(container, "echo", "drafted")
    stream, reply = container.exec("echo", "other", exec_id="other")
    assert reply.get("ok"), reply
    assert frames(read_all(stream))[1] == b"other\n"
    assert go(container)[1]["error"]["type"] == "NotFound"
    container.call("kill", signal=9)


def test_the_maker_of_a_draft_that_was_killed_is_replaced(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    os.kill(drafted(container, "echo", "all the same"), signal.SIGKILL)
    wait_for_its_end(container)
    stream, reply = go(container)
    assert reply.get("ok"), reply
    assert frames(read_all(stream))[1] == b"all the same\n"
    container.call("kill", signal=9)


def test_what_is_wrong_with_a_draft_is_told_when_it_is_asked_for(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    drafted(container, "no-such-program")
    assert go(container)[1]["error"]["type"] == "CommandNotFound"
    draft = {"exec_id": "x", "process": {**process_of("true").to_json(), "args": 7}}
    container.call("prepare-exec", draft=draft)
    assert go(container)[1]["error"]["type"] == "InvalidArgument"
    assert container.refuse("prepare-exec", draft={"exec_id": 7})["type"] == "InvalidArgument"
    assert container.refuse("prepare-exec", draft=[])["type"] == "InvalidArgument"
    wait_for_its_end(container)
    container.call("kill", signal=9)


def test_a_hint_has_no_reply(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    protocol.send(container.control, {"op": "prepare-exec", "seq": 0})
    protocol.send(container.control, {"op": "prepare-exec", "seq": 0, "nonsense": 1})
    assert container.call("status")["state"] == "running"
    assert children(container.awake()), "it was not heard"
    container.call("kill", signal=9)


def test_who_waits_in_vain_is_gone_and_the_next_exec_has_another(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    begun = time.monotonic()
    drafted(container, "true")
    wait_for_its_end(container)
    assert time.monotonic() - begun > execs.PATIENCE / 2
    assert go(container)[1]["error"]["type"] == "NotFound"
    stream, _ = container.exec("echo", "late")
    assert frames(read_all(stream))[1] == b"late\n"
    container.call("kill", signal=9)


def test_a_spare_that_was_killed_is_replaced(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    spare = prepared(container)
    os.kill(spare, signal.SIGKILL)
    wait_for_its_end(container)
    stream, reply = container.exec("echo", "all the same")
    assert reply.get("ok"), reply
    assert frames(read_all(stream))[1] == b"all the same\n"
    container.call("kill", signal=9)


def test_a_container_ends_beside_one_that_waits(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    spare = os.pidfd_open(prepared(container))
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137
    poll = select.poll()
    poll.register(spare, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "it outlives its monitor"
    os.close(spare)


def test_who_does_not_run_needs_none(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    container.call("pause")
    assert container.refuse("prepare-exec")["type"] == "Conflict"
    container.call("resume")
    container.call("kill", signal=9)
