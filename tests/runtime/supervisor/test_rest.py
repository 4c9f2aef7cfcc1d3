"""A monitor that was awake rests, and whoever wakes after it knows what it knew."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.kernel.syscalls import NUMBERS
from sampan.runtime.supervisor import client
from tests.runtime.supervisor.spawning import (
    PATIENCE,
    Container,
    Factory,
    children,
    frames,
    read_all,
    read_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.root, pytest.mark.v2]

SOON = 0.3


SLOW = """
import time
leave = rest.Keeper.leave
rest.Keeper.leave = lambda *given: time.sleep(0.5) or leave(*given)
"""


@pytest.fixture
def more() -> str:
    """What else the zygote's program does."""
    return ""


@pytest.fixture
def spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> Iterator[Factory]:
    """Of a zygote whose monitors have little patience."""
    program = (
        f"{client._PROGRAM.removesuffix('main()')}\n"
        f"from sampan.runtime.supervisor import rest\nrest.PATIENCE = {SOON}\n{more}\nmain()"
    )
    monkeypatch.setattr(client, "_PROGRAM", program)
    factory = Factory(tmp_path, client.start_zygote())
    try:
        yield factory
    finally:
        factory.clean()
        factory.zygote.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def init_of(container: Container) -> int:
    return int(container.call("status")["pid"])


def rests(container: Container, init: int) -> None:
    """Wait until the monitor that sleeps has no child but init, and has cleaned up after others."""
    place = Path(f"/proc/{container.monitor()}/syscall")
    until(lambda: children(container.monitor()) == {init})
    until(lambda: place.read_text().startswith(f"{NUMBERS['ppoll']} "))


def descriptors(container: Container) -> dict[str, str]:
    place = f"/proc/{container.monitor()}/fd"
    return {fd: os.readlink(f"{place}/{fd}") for fd in os.listdir(place)}


def private(pid: int) -> int:
    """Kilobytes that are this process's alone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"Private_Dirty: +(\d+)", text)
    assert found
    return int(found[1])


def test_nothing_of_it_stays(spawn: Factory) -> None:
    container = spawn("sh", "-c", "echo woken; sleep 1000")
    init = init_of(container)
    awake = container.awake()
    assert os.readlink(f"/proc/{awake}/ns/pid") == os.readlink("/proc/self/ns/pid")
    rests(container, init)
    assert container.logged() == "woken\n"
    assert private(container.monitor()) < 500
    before = descriptors(container)
    for _ in range(2):
        stream, reply = container.exec("echo", "again", exec_id=os.urandom(4).hex())
        assert reply.get("ok"), reply
        assert frames(read_all(stream))[1] == b"again\n"
        rests(container, init)
        assert descriptors(container) == before
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137


def test_who_wakes_knows_what_was_known(spawn: Factory) -> None:
    """Of a container with a log of its own, half a line said, a process that ended, and paused."""
    script = "printf half; while read line; do echo got $line; done; printf end; exit 4"
    container = spawn("sh", "-c", script, stdin=True)
    init = init_of(container)
    stream, reply = container.exec("sh", "-c", "exit 7", exec_id="before")
    read_all(stream)
    assert container.event("exec-exit")["code"] == 7
    container.call("pause")
    rests(container, init)
    status = container.call("status")
    assert status["state"] == "paused"
    ended = {"pid": reply["pid"], "running": False, "code": 7}
    assert status["execs"] == {"before": ended}
    assert "is paused" in container.refuse("exec", exec_id="x", process={})["message"]
    container.call("resume")
    rests(container, init)
    client = container.attach(stdin=True, multiplex=False)
    client.sendall(b"a line\n")
    assert read_until(client, b"\n") == b"got a line\n"
    client.close()
    rests(container, init)
    client = container.attach(stdin=True, multiplex=False)
    client.sendall(b"another\n")
    assert read_until(client, b"\n") == b"got another\n"
    assert container.logged() == "halfgot a line\ngot another\n", "one line, said in two parts"
    assert container.call("status")["execs"] == {"before": ended}
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137


def test_a_terminal_that_nobody_holds_does_not_wake_it(spawn: Factory) -> None:
    """A program may close its terminal and open it again."""
    script = "exec </dev/null >/dev/null 2>&1; sleep 1000"
    container = spawn("sh", "-c", script, terminal=True, spec={"process": {"terminal": True}})
    init = init_of(container)
    rests(container, init)
    used = Path(f"/proc/{container.monitor()}/stat").read_text().rpartition(")")[2].split()[13:15]
    time.sleep(1)
    assert children(container.monitor()) == {init}
    again = Path(f"/proc/{container.monitor()}/stat").read_text().rpartition(")")[2].split()[13:15]
    assert again == used
    container.call("resize", rows=10, cols=20)
    container.call("kill", signal=9)


def test_a_log_that_was_rotated_is_gone_on_with(spawn: Factory, tmp_path: Path) -> None:
    log = tmp_path / "rotated"
    options = {"driver": "json-file", "path": str(log), "max_size": 150, "max_file": 9}
    container = spawn(
        "sh", "-c", "for i in 1 2 3 4 5 6; do seq 3; read x; done", stdin=True, log=options
    )
    init = init_of(container)
    for rounds in range(1, 4):
        rests(container, init)
        files = sorted(tmp_path.glob("rotated*"), key=lambda path: path.stat().st_mtime_ns)
        assert sum(path.read_text().count("\n") for path in files) == 3 * rounds
        stream = container.attach(stdin=True, stdout=False, stderr=False, multiplex=False)
        stream.sendall(b"\n")
        stream.close()
    assert len(list(tmp_path.glob("rotated*"))) > 2
    container.call("kill", signal=9)


def test_daemons_come_and_go_while_it_sleeps(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    init = init_of(container)
    rests(container, init)
    second = Container(container.name, container.run_dir, container.log, _connect(container))
    assert second.call("status")["pid"] == init
    rests(second, init)
    container.control.close()
    assert second.call("status")["pid"] == init
    rests(second, init)
    third = Container(container.name, container.run_dir, container.log, _connect(container))
    third.call("kill", signal=9)
    assert second.event("exit")["code"] == third.event("exit")["code"] == 137


def _connect(container: Container) -> socket.socket:
    return client.connect(str(container.run_dir))


@pytest.mark.parametrize("victim", ["who is awake", "who sleeps"])
def test_if_one_of_them_is_killed_all_end(spawn: Factory, victim: str) -> None:
    container = spawn("sleep", "1000")
    init = init_of(container)
    awake, asleep = container.awake(), container.monitor()
    os.kill(awake if victim == "who is awake" else asleep, signal.SIGKILL)
    until(lambda: not any(_runs(pid) for pid in (init, awake, asleep)))
    while container.receive():
        pass
    assert [event["event"] for event in container.events if event["event"] == "exit"] == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_end_is_told_whenever_it_comes(spawn: Factory) -> None:
    """While one is awake, while none is, and in the very moment it goes to rest."""
    containers = []
    for index in range(24):
        container = spawn("sh", "-c", f"sleep {SOON - 0.1 + index / 100:.3f}; exit {index}")
        container.call("status")  # which wakes it
        containers.append(container)
    for index, container in enumerate(containers):
        assert container.event("exit")["code"] == index
        assert not spawn.hierarchy.group(spawn.group(container.name)).exists()


@pytest.mark.parametrize("more", [SLOW], ids=["slow to lie down"])
def test_an_end_that_came_too_late_for_one_who_rests_is_told(spawn: Factory) -> None:
    """Its status is with the one that sleeps, which has reaped it."""
    container = spawn("sh", "-c", f"sleep {SOON + 0.4}; exit 5")
    container.call("status")
    assert container.event("exit")["code"] == 5
    assert not spawn.hierarchy.group(spawn.group(container.name)).exists()
