"""What dies around a monitor, what it holds, and who finds it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sampan.errors import NotFound
from sampan.runtime.supervisor import client
from tests.runtime.supervisor.spawning import (
    PATIENCE,
    Factory,
    children_of,
    gone,
    read_all,
    read_until,
    spawn,
)

__all__ = ["spawn"]

pytestmark = pytest.mark.root


@pytest.mark.v2
def test_a_monitor_that_is_killed_takes_the_container_with_it(spawn: Factory) -> None:
    container = spawn("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    group = spawn.hierarchy.group(spawn.group(container.name))
    deadline = time.monotonic() + PATIENCE
    while len(pids := group.processes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(pids) == 3
    os.kill(container.monitor(), signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    assert not container.receive(), "the daemon sees the connection end"
    with pytest.raises(NotFound):
        client.connect(str(container.run_dir))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE", "SIGUSR1"])
def test_a_stray_signal_does_not_end_a_monitor(spawn: Factory, name: str) -> None:
    container = spawn("sleep", "1000")
    os.kill(container.monitor(), getattr(signal, name))
    assert container.call("status")["state"] == "running"
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137


def test_the_zygote_may_die_and_its_containers_live_on(tmp_path: Path, spawn: Factory) -> None:
    container = spawn("sh", "-c", "echo before; read x; echo after", stdin=True)
    other = client.start_zygote()
    os.kill(spawn.zygote.pid, signal.SIGKILL)
    stream = container.attach(stdin=True)
    stream.sendall(b"\n")
    assert b"after" in read_until(stream, b"after")
    assert container.event("exit")["code"] == 0
    other.close()


def test_without_a_daemon_it_logs_on_and_the_exit_is_on_record(spawn: Factory) -> None:
    container = spawn("sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; exit 9")
    container.control.close()
    deadline = time.monotonic() + PATIENCE
    record = container.run_dir / "exit.json"
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(record.read_text())["code"] == 9
    assert container.logged() == "1\n2\n3\n4\n5\n"


def test_another_daemon_finds_the_monitor_and_both_are_told(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    first = container.control
    container.use(client.connect(str(container.run_dir)))
    status = container.call("status")
    assert status["state"] == "running"
    assert (container.run_dir / "monitor.sock").stat().st_mode & 0o777 == 0o600
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137
    container.control.close()
    container.use(first)
    assert container.event("exit")["code"] == 137


def test_a_client_that_is_slow_gets_the_last_word_after_the_end(spawn: Factory) -> None:
    container = spawn("sh", "-c", "read x; seq 1 100000", start=False, stdin=True)
    stream = container.attach(stdin=True, multiplex=False)
    container.call("start")
    stream.sendall(b"\n")
    container.event("exit")
    assert container.control.recv(1) == b""
    data = read_all(stream)
    assert data == "".join(f"{number}\n" for number in range(1, 100001)).encode()


def test_nothing_of_ours_is_open_in_a_container(spawn: Factory) -> None:
    container = spawn("ls", "-l", "/proc/self/fd")
    container.event("exit")
    text = container.logged()
    descriptors = [line.split()[-3:] for line in text.splitlines() if "->" in line]
    assert [parts[0] for parts in descriptors] == ["0", "1", "2"]


def test_no_signal_is_blocked_or_ignored_in_a_container(spawn: Factory) -> None:
    container = spawn("grep", "Sig", "/proc/self/status")
    container.event("exit")
    masks = dict(line.split(":\t") for line in container.logged().splitlines())
    assert int(masks["SigBlk"], 16) == 0
    # 32 and 33 are the C library's own, and stay as they were for the whole machine.
    assert int(masks["SigIgn"], 16) & ~(3 << 31) == 0


def test_a_monitor_holds_only_what_is_its_own(spawn: Factory) -> None:
    with open("/etc/hostname", "rb") as secret:
        os.set_inheritable(secret.fileno(), True)
        zygote = client.start_zygote()
        zygote.spawn({}).recv(1)
        links = {os.readlink(f"/proc/{zygote.pid}/fd/{fd}") for fd in _fds(zygote.pid)}
        zygote.close()
    assert not any("hostname" in link for link in links)
    container = spawn("sleep", "1000")
    assert container.call("status")["state"] == "running"
    monitor = container.monitor()
    kinds = sorted(
        os.readlink(f"/proc/{monitor}/fd/{fd}").partition(":")[0] for fd in _fds(monitor)
    )
    assert Path(f"/proc/{monitor}/comm").read_text() == "sampan-monitor\n"
    assert len(kinds) <= 17, kinds
    assert os.readlink(f"/proc/{monitor}/cwd") == "/"
    assert "memfd:sampan" in os.readlink(f"/proc/{monitor}/exe")
    container.call("kill", signal=9)
    container.event("exit")


def _fds(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")


def test_the_zygote_ends_with_the_daemon(tmp_path: Path) -> None:
    zygote = client.start_zygote()
    environment = Path(f"/proc/{zygote.pid}/environ").read_bytes()
    assert {item.split(b"=")[0] for item in environment.split(b"\0") if item} <= {
        b"PATH",
        b"LD_LIBRARY_PATH",
    }
    zygote.socket.close()
    assert gone(zygote.pid)
    os.waitid(os.P_PIDFD, zygote.pidfd, os.WEXITED)
    os.close(zygote.pidfd)


def test_a_zygote_whose_waiting_pair_was_killed_ends_with_the_daemon_too() -> None:
    zygote = client.start_zygote()
    children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children")
    deadline = time.monotonic() + PATIENCE
    while not (waiting := children.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int(waiting[0]), signal.SIGKILL)
    zygote.socket.close()
    assert gone(zygote.pid)
    os.waitid(os.P_PIDFD, zygote.pidfd, os.WEXITED)
    os.close(zygote.pidfd)


def test_an_interpreter_in_memory_cannot_be_written(spawn: Factory) -> None:
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
        os.open(f"/proc/{spawn.zygote.pid}/exe", os.O_WRONLY)


def test_what_nobody_waits_for_is_not_begun(spawn: Factory) -> None:
    """The daemon that comes next has looked already for what its predecessor had begun."""
    deadline = time.monotonic() + PATIENCE
    while not (makers := [it for one in children_of(spawn.zygote.pid) for it in children_of(one)]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(makers[0], signal.SIGSTOP)
    container = spawn("sh", "-c", "echo it runs", wait=False)
    container.control.close()
    os.kill(makers[0], signal.SIGCONT)
    assert gone(makers[0])
    assert not container.run_dir.exists()
    assert not container.log.exists()


def test_the_daemons_program_may_start_from_a_virtual_environment() -> None:
    script = (
        "from sampan.runtime.supervisor import client; z = client.start_zygote(); "
        "z.spawn({}).recv(1); "
        "print(open(f'/proc/{z.pid}/cmdline').read().split(chr(0))[0]); z.close()"
    )
    source = str(Path(client.__file__).parents[3])
    done = subprocess.run(
        [os.sys.executable, "-c", script],  # type: ignore[attr-defined]
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == os.path.realpath(os.sys.executable)  # type: ignore[attr-defined]
    assert done.stderr == ""
