"""Containers on their asker's own pipes, and those that end with their asker."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Any

import pytest

from sampan.runtime.supervisor import client
from tests.runtime.supervisor.spawning import PATIENCE, Container, Factory, spawn

__all__ = ["spawn"]

pytestmark = pytest.mark.root


class Pipes:
    """A process's standard I/O in this test's own hands."""

    def __init__(self) -> None:
        self.stdin, self.to_stdin = os.pipe2(os.O_CLOEXEC)
        self.from_stdout, self.stdout = os.pipe2(os.O_CLOEXEC)
        self.from_stderr, self.stderr = os.pipe2(os.O_CLOEXEC)

    @property
    def theirs(self) -> tuple[int, int, int]:
        return self.stdin, self.stdout, self.stderr

    def close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)

    def close_ours(self) -> None:
        for fd in (self.to_stdin, self.from_stdout, self.from_stderr):
            os.close(fd)


def read_pipe(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 65536):
        data += piece
    return data


def spawn_with(spawn: Factory, pipes: Pipes, *args: str, **fields: Any) -> Container:
    settings = {"stdio": True, "log": None, **fields}
    return spawn(*args, stdio_fds=pipes.theirs, **settings)


def test_a_processes_streams_may_be_its_askers_own(spawn: Factory) -> None:
    pipes = Pipes()
    container = spawn_with(spawn, pipes, "sh", "-c", "cat; echo done >&2; ls /proc/self/fd")
    pipes.close_theirs()
    os.write(pipes.to_stdin, b"x" * 3000)
    os.close(pipes.to_stdin)
    assert read_pipe(pipes.from_stdout) == b"x" * 3000 + b"0\n1\n2\n3\n"
    assert read_pipe(pipes.from_stderr) == b"done\n"
    assert container.event("exit")["code"] == 0
    os.close(pipes.from_stdout)
    os.close(pipes.from_stderr)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"terminal": True, "spec": {"process": {"terminal": True}}}, "terminal"),
        ({"stdin": True}, "input"),
        ({"log": {"driver": "json-file", "path": "/dev/null"}}, "log"),
    ],
)
def test_given_streams_do_not_go_with_ours(
    spawn: Factory, fields: dict[str, Any], word: str
) -> None:
    pipes = Pipes()
    container = spawn_with(spawn, pipes, "true", wait=False, **fields)
    assert word in container.event("failed")["error"]["message"]
    pipes.close_theirs()
    pipes.close_ours()


def test_streams_that_were_announced_must_come(spawn: Factory) -> None:
    container = spawn("true", wait=False, stdio=True, log=None)
    assert "three descriptors, not 0" in container.event("failed")["error"]["message"]


@pytest.mark.parametrize("paused", [False, True])
def test_a_bound_container_ends_with_its_asker(spawn: Factory, paused: bool) -> None:
    container = spawn("sh", "-c", "sleep 600 & sleep 600", bound=True)
    if paused:
        container.call("pause")
    monitor = container.monitor()
    pidfd = os.pidfd_open(monitor)
    container.control.close()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    os.close(pidfd)
    assert json.loads((container.run_dir / "exit.json").read_text())["code"] == 137
    assert not spawn.hierarchy.group(spawn.group(container.name)).exists()


def test_a_bound_container_lives_as_long_as_anybody_is_connected(spawn: Factory) -> None:
    container = spawn("sleep", "600", bound=True)
    second = client.connect(str(container.run_dir))
    container.call("status")  # It is awake, and has accepted the other one.
    container.control.close()
    container.use(second)
    assert container.call("status")["state"] == "running"
    container.call("kill", signal=signal.SIGKILL)
    assert container.event("exit")["code"] == 137


def test_a_bound_container_whose_asker_left_at_once_is_not_left(spawn: Factory) -> None:
    container = spawn("sleep", "600", bound=True, wait=False)
    container.control.close()
    spawn("true").event("exit")  # whose request was the next: it was taken, and begun if it is
    deadline = time.monotonic() + PATIENCE

    def is_over() -> bool:
        # With an exit if it was started, without a trace if not.
        return (container.run_dir / "exit.json").exists() or not container.run_dir.exists()

    while not is_over():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not spawn.hierarchy.group(spawn.group(container.name)).exists()
