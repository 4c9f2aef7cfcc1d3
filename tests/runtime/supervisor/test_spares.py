"""A maker that is ready before an exec is asked for: it is used, given up, and lost with grace."""

from __future__ import annotations

import os
import select
import signal
import time

import pytest

from sampan.runtime.supervisor import execs
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


def test_who_waits_in_vain_is_gone_and_the_next_exec_has_another(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    begun = time.monotonic()
    prepared(container)
    wait_for_its_end(container)
    assert time.monotonic() - begun > execs.PATIENCE / 2
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
