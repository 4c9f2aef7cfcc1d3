"""What happens between an exec's making and its start counts, though most of it is done before."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def made(daemon: Daemon, container: str, *words: str, **more: Any) -> str:
    """The name of an exec, when its container is ready for it."""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": words, **more}
    name = daemon.post(f"/containers/{container}/exec", body).json()["Id"]
    monitor = _parent(daemon.state(container)["Pid"])
    # Its init, who is awake for it, and the process that waits there.
    daemon.wait_for(lambda: sum(len(_children(pid)) for pid in (monitor, *_children(monitor))) > 2)
    return str(name)


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return []


def started(daemon: Daemon, name: str, **fields: Any) -> bytes:
    """What it says: two streams in frames, or a terminal."""
    answer = daemon.post(f"/exec/{name}/start", {"Detach": False, "Tty": False, **fields})
    assert answer.status in (101, 200), answer.body
    return answer.body


def test_the_user_is_who_it_is_at_the_start(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    name = made(daemon, container, "id", "-u", User="sailor")
    root = f"/proc/{daemon.state(container)['Pid']}/root"
    os.makedirs(f"{root}/etc", exist_ok=True)
    with open(f"{root}/etc/passwd", "a", encoding="ascii") as file:
        file.write("sailor:x:1234:1234::/:/bin/sh\n")
    assert b"1234\n" in started(daemon, name)
    daemon.delete(f"/containers/{container}", force=1)


def test_the_last_made_is_the_first_started(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    names = [made(daemon, container, "echo", f"word {n}") for n in range(4)]
    for n in (2, 3, 0, 1):
        assert f"word {n}\n".encode() in started(daemon, names[n])
    daemon.delete(f"/containers/{container}", force=1)


def test_a_start_that_asks_for_something_else(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    name = made(daemon, container, "sh", "-c", "exit 4")
    assert daemon.post(f"/exec/{name}/start", {"Detach": True}).status == 200
    daemon.wait_for(lambda: daemon.get(f"/exec/{name}/json").json()["ExitCode"] == 4)
    name = made(daemon, container, "stty", "size", Tty=True, ConsoleSize=[10, 20])
    assert started(daemon, name, Tty=True, ConsoleSize=[30, 40]) == b"30 40\r\n"
    name = made(daemon, container, "echo", "plain")
    assert started(daemon, name, Tty=True) == b"plain\n", "read as a terminal's"
    daemon.delete(f"/containers/{container}", force=1)


def test_a_container_that_changes_meanwhile(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    name = made(daemon, container, "echo", "renamed")
    daemon.post(f"/containers/{container}/rename", name="another-name")
    assert b"renamed\n" in started(daemon, name)
    name = made(daemon, container, "echo", "updated")
    daemon.post(f"/containers/{container}/update", {"CpuShares": 100})
    assert b"updated\n" in started(daemon, name)
    name = made(daemon, container, "true")
    daemon.post(f"/containers/{container}/pause")
    answer = daemon.post(f"/exec/{name}/start", {"Detach": False})
    assert answer.status == 409 and "paused" in answer.message
    daemon.post(f"/containers/{container}/unpause")
    assert started(daemon, name) == b""
    name = made(daemon, container, "echo", "again")
    daemon.post(f"/containers/{container}/restart", t=0)
    assert b"again\n" in started(daemon, name)
    daemon.delete(f"/containers/{container}", force=1)


def test_one_that_is_never_started_leaves_nothing(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    inside = daemon.get(f"/containers/{container}/top").json()["Processes"]
    made(daemon, container, "sleep", "1")
    assert daemon.get(f"/containers/{container}/top").json()["Processes"] == inside
    monitor = _parent(daemon.state(container)["Pid"])
    begun = time.monotonic()
    daemon.delete(f"/containers/{container}", force=1)
    daemon.wait_for(lambda: not os.path.exists(f"/proc/{monitor}"))
    assert time.monotonic() - begun < 30
    assert subprocess.run(["pgrep", "-P", str(monitor)], check=False).returncode == 1
