"""Containers under a monitor, from spawn request to exit event, through a real zygote."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.kernel.mounts import MNT_DETACH, MS_REMOUNT, mount, umount
from sampan.runtime.supervisor import protocol
from tests.runtime.supervisor.spawning import (
    NAMESPACES_BUT_PID,
    PATIENCE,
    Factory,
    children_of,
    frames,
    gone,
    read_all,
    read_until,
    spawn,
    unread,
)

__all__ = ["spawn"]

pytestmark = pytest.mark.root


@pytest.mark.v2
def test_an_end_is_told_when_its_cgroup_has_gone_before_it(spawn: Factory) -> None:
    """Whoever removes it: what cannot be counted any more does not cost the exit status."""
    container = spawn("sh", "-c", "read x; exit 7", stdin=True)
    stream = container.attach(stdin=True)
    pid, monitor = container.call("status")["pid"], container.monitor()
    os.kill(monitor, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    spawn.hierarchy.group(spawn.group(container.name)).destroy()
    os.kill(monitor, signal.SIGCONT)
    exit = container.event("exit")
    assert (exit["code"], exit["signal"], exit["oom_kills"]) == (137, 9, 0)
    assert json.loads((container.run_dir / "exit.json").read_text())["code"] == 137
    assert read_all(stream) == b""


def test_a_group_above_that_is_frozen_does_not_cost_the_exit_status(spawn: Factory) -> None:
    """On v1 that is an error of the group's end, which takes its thaw for granted."""
    freezer = spawn.hierarchy.mounts.get("freezer")
    if freezer is None:
        pytest.skip("no freezer of v1 here")
    above = spawn.group("above")
    container = spawn("sleep", "1000", cgroup=f"{above}/c0")
    pid, monitor = container.call("status")["pid"], container.monitor()
    state = Path(f"{freezer}{above}/freezer.state")
    try:
        os.kill(monitor, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        state.write_text("FROZEN")
        os.kill(monitor, signal.SIGCONT)
        exit = container.event("exit")
        assert (exit["code"], exit["signal"]) == (137, 9)
        assert any("stays frozen" in warning for warning in exit["warnings"]), exit
    finally:
        state.write_text("THAWED")
        spawn.hierarchy.group(above).kill()
        spawn.hierarchy.group(above).destroy()


def test_a_log_that_waits_has_an_end_when_it_flows_again(spawn: Factory, tmp_path: Path) -> None:
    """What waits in the monitor is in no file yet, and was said before whoever attaches now."""
    small = tmp_path / "small"
    small.mkdir()
    mount("tmpfs", str(small), "tmpfs", 0, "size=64k")
    try:
        (small / "ballast").write_bytes(bytes(48 * 1024))
        log = small / "log"
        container = spawn(
            "sh", "-c", "seq 0 599; read x; echo after",
            stdin=True, log={"driver": "json-file", "path": str(log)},
        )  # fmt: skip
        pid = container.call("status")["pid"]
        deadline = time.monotonic() + PATIENCE
        # All is one write(2), and so one read: nothing stays in the pipe when the log is full.
        while log.stat().st_size < 12 * 1024 or children_of(pid) or unread(pid, 1):
            assert time.monotonic() < deadline, (log.stat(), children_of(pid), unread(pid, 1))
            time.sleep(0.01)
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with theirs:
            seq = container.ask(
                "attach", (theirs.fileno(),), stdin=True, stdout=True, hold=True
            )  # fmt: skip
        container.call("status")
        assert seq not in container.replies
        mount("tmpfs", str(small), "tmpfs", MS_REMOUNT, "size=1m")
        reply = container.answer(seq)
        status = log.stat()
        assert reply["log"] == [status.st_dev, status.st_ino, status.st_size]
        container.log = log
        assert container.logged() == "".join(f"{number}\n" for number in range(600))
        assert container.call("release", attachment=reply["attachment"])["released"]
        ours.sendall(b"go\n")
        assert read_all(ours) == b"after\n"
        assert container.event("exit")["log_dropped"] == 0
    finally:
        spawn.clean()
        umount(str(small), MNT_DETACH)


@pytest.mark.v2
def test_the_exit_is_on_record_before_the_socket_is_gone(spawn: Factory) -> None:
    """A daemon that is started just then finds the one or the other."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.5"]}
    container = spawn("true", spec={"hooks": {"poststop": [hook]}})
    seen = []
    while not (container.run_dir / "exit.json").exists():
        seen.append((container.run_dir / "monitor.sock").exists())
        time.sleep(0.005)
    assert any(seen)
    # The last look may have been before the record and after.
    assert all(seen[:-1])
    container.event("exit")
    assert not (container.run_dir / "monitor.sock").exists()


@pytest.mark.v2
def test_a_container_runs_is_logged_and_its_exit_is_told_when_all_is_done(spawn: Factory) -> None:
    container = spawn("sh", "-c", "echo out; echo err >&2; exit 3")
    exit = container.event("exit")
    assert (exit["code"], exit["signal"], exit["oom"], exit["warnings"]) == (3, None, False, [])
    assert time.time() - 60 < exit["at"] <= time.time()
    assert exit["usage"]["cpu"]["total"] > 0
    assert json.loads((container.run_dir / "exit.json").read_text())["code"] == 3
    assert os.listdir(container.run_dir) == ["exit.json"]
    assert not spawn.hierarchy.group(spawn.group(container.name)).exists()
    assert container.logged() == "out\n"
    assert container.logged("stderr") == "err\n"
    assert not container.receive(), "and then the connection ends"


def overlay(spawn: Factory, place: Path) -> list[dict[str, Any]]:
    """A recipe: the bundle's root as the lower layer, a new one above it."""
    for name in ("upper", "work"):
        (place / name).mkdir()
    layers = (f"lowerdir={spawn.bundle}/rootfs", f"upperdir={place}/upper", f"workdir={place}/work")
    return [{"destination": "/", "type": "overlay", "source": "overlay", "options": [*layers]}]


def test_a_monitor_holds_what_its_containers_root_was_mounted_from(
    spawn: Factory, tmp_path: Path
) -> None:
    # The container's own end does not wait for the file system's, which syncs the disk.
    recipe = overlay(spawn, tmp_path)
    container = spawn("sleep", "1000", rootfs=recipe)
    fds = Path(f"/proc/{container.monitor()}/fdinfo")
    init = int(container.call("status")["pid"])
    mounted = {line.split()[0] for line in Path(f"/proc/{init}/mountinfo").read_text().splitlines()}
    held = [text.split("mnt_id:")[1].split()[0] for text in (f.read_text() for f in fds.iterdir())]
    assert mounted & set(held)
    container.call("kill", signal=9)
    container.event("exit")


def test_a_start_waits_until_an_earlier_monitor_lets_go_of_the_upper_directory(
    spawn: Factory, tmp_path: Path
) -> None:
    recipe = overlay(spawn, tmp_path)
    work = os.open(tmp_path / "work", os.O_RDONLY)
    fcntl.flock(work, fcntl.LOCK_EX)
    container = spawn("true", rootfs=recipe, wait=False)
    assert not select.select([container.control], [], [], 0.3)[0], "it is not made yet"
    os.close(work)
    container.event("created")
    container.event("exit")


def test_a_signalled_init_counts_128_and_the_signal(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    container.call("kill", signal=9)
    exit = container.event("exit")
    assert (exit["code"], exit["signal"], exit["oom"]) == (137, 9, False)


def test_the_start_is_told_before_the_end_however_short_the_program(spawn: Factory) -> None:
    # A hook that comes between: the monitor is woken by the output before its maker's word.
    spec = {"hooks": {"poststart": [{"path": "/bin/true"}]}}
    for container in [spawn("echo", "x", wait=False, spec=spec) for _ in range(24)]:
        while container.receive():
            pass
        assert [event["event"] for event in container.events] == ["created", "started", "exit"]


def test_every_byte_of_a_program_that_ends_at_once_is_logged(spawn: Factory) -> None:
    container = spawn("sh", "-c", "seq 1 20000; printf end")
    container.event("exit")
    expected = "".join(f"{number}\n" for number in range(1, 20001)) + "end"
    assert container.logged() == expected


def test_a_created_container_waits_and_attach_catches_its_first_byte(spawn: Factory) -> None:
    container = spawn("sh", "-c", "echo first; read line; echo got $line", start=False, stdin=True)
    assert container.call("status")["state"] == "created"
    stream = container.attach(stdin=True)
    container.call("start")
    container.event("started")
    stream.sendall(b"input\n")
    assert frames(read_all(stream))[1] == b"first\ngot input\n"
    assert container.event("exit")["code"] == 0
    assert container.logged() == "first\ngot input\n"


def test_a_second_start_is_refused(spawn: Factory) -> None:
    container = spawn("sleep", "1000", start=False)
    container.call("start")
    assert container.refuse("start")["type"] == "Conflict"
    container.call("kill", signal=9)


def test_requests_sent_before_the_container_is_made_are_answered_in_order(spawn: Factory) -> None:
    container = spawn("echo", "first", wait=False, start=False)
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    attach = container.ask("attach", (theirs.fileno(),), stdout=True, stderr=True)
    theirs.close()
    start = container.ask("start")
    assert container.answer(attach)["ok"]
    assert container.answer(start)["ok"]
    assert read_all(ours) == b"first\n"


def test_stdin_once_ends_the_programs_input_with_the_clients(spawn: Factory) -> None:
    container = spawn("cat", start=False, stdin=True, stdin_once=True)
    stream = container.attach(stdin=True)
    container.call("start")
    text = bytes(range(256)) * 8192  # 2 MiB
    pid = os.fork()
    if pid == 0:
        stream.sendall(text)
        stream.shutdown(socket.SHUT_WR)
        os._exit(0)
    assert frames(read_all(stream))[1] == text
    os.waitpid(pid, 0)
    assert container.event("exit")["code"] == 0


def test_a_terminal_has_its_size_echoes_and_detaches(spawn: Factory) -> None:
    container = spawn(
        "sh",
        spec={"process": {"terminal": True}},
        terminal=True,
        stdin=True,
        console_size=[33, 111],
    )
    stream = container.attach(stdin=True, multiplex=False, detach_keys=[16, 17])
    stream.sendall(b"stty size\n")
    assert b"33 111" in read_until(stream, b"33 111")
    container.call("resize", rows=40, cols=120)
    stream.sendall(b"stty size\n")
    read_until(stream, b"40 120")
    stream.sendall(b"\x10\x11")
    read_all(stream)
    assert container.call("status")["state"] == "running"
    again = container.attach(stdin=True, multiplex=False)
    again.sendall(b"exit 7\n")
    read_all(again)
    assert container.event("exit")["code"] == 7
    assert "40 120" in container.logged()


@pytest.mark.parametrize(
    ("args", "kind", "code"), [(("/missing",), "CommandNotFound", 127), (("/etc",), None, 126)]
)
def test_a_container_that_cannot_start_leaves_nothing_but_the_error(
    spawn: Factory, args: tuple[str, ...], kind: str | None, code: int
) -> None:
    container = spawn(*args, wait=False)
    error = container.event("failed")["error"]
    assert error["exit_code"] == code
    assert kind is None or error["type"] == kind
    assert not container.receive()
    assert not container.run_dir.exists()
    assert not spawn.hierarchy.group(spawn.group(container.name)).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"root": {"path": "missing"}}},
        {"log": {"driver": "syslog"}},
        {"log": {"driver": "json-file", "path": "/missing/log"}},
        {"terminal": True},
        {"colour": "red"},
        {"run_dir": "/proc/none"},
    ],
)
def test_a_request_that_cannot_be_met_fails_with_its_reason(
    spawn: Factory, change: dict[str, Any]
) -> None:
    container = spawn("true", wait=False, **change)
    assert container.event("failed")["error"]["message"]
    assert not container.receive()
    assert not container.run_dir.exists()


def test_what_the_zygote_cannot_read_ends_that_connection_and_nothing_else(spawn: Factory) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(PATIENCE)
        socket.send_fds(spawn.zygote.socket, [b"{not json"], [theirs.fileno()])
        theirs.close()
        received = protocol.receive(ours)
        assert received is not None
        assert received[0]["event"] == "failed"
        assert protocol.receive(ours) is None
    spawn.zygote.socket.send(b"nothing with it")
    assert spawn("true").event("exit")["code"] == 0


def test_bad_requests_are_answered_and_harm_nothing(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    assert "no operation 'dance'" in container.refuse("dance")["message"]
    assert "no field 'loud'" in container.refuse("kill", signal=1, loud=True)["message"]
    assert "signal: expected an integer" in container.refuse("kill", signal="TERM")["message"]
    assert "no signal 99" in container.refuse("kill", signal=99)["message"]
    assert container.refuse("attach")["type"] == "InvalidArgument"
    with open("/dev/null", "rb") as null:
        error = container.refuse("attach", (null.fileno(),), stdout=True)
    assert "not a socket" in error["message"]
    assert container.refuse("resize", rows=1, cols=1)["type"] == "Conflict"
    assert container.refuse("resize", rows=1, cols=1, exec_id="no")["type"] == "NotFound"
    assert container.refuse("resume")["type"] == "Conflict"
    container.control.send(b"\xff")
    protocol.send(container.control, {"op": "status"})
    assert container.call("status")["state"] == "running"
    assert {"seq" in str(reply) for reply in container.replies.values()} <= {True, False}
    container.call("kill", signal=9)


@pytest.mark.v2
def test_pause_stops_it_and_resume_lets_it_go_on(spawn: Factory) -> None:
    container = spawn("sh", "-c", "while :; do echo tick; sleep 0.02; done")
    container.call("pause")
    assert container.call("status")["state"] == "paused"
    time.sleep(0.1)
    size = container.log.stat().st_size
    time.sleep(0.2)
    assert container.log.stat().st_size == size
    assert "resume it first" in container.exec("true")[1]["error"]["message"]
    assert container.refuse("pause")["type"] == "Conflict"
    container.call("resume")
    deadline = time.monotonic() + PATIENCE
    while container.log.stat().st_size == size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    container.call("kill", signal=9)
    container.event("exit")


@pytest.mark.v2
def test_a_paused_container_can_be_killed(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    container.call("pause")
    container.call("kill", signal=9)
    assert container.event("exit")["code"] == 137


@pytest.mark.v2
def test_usage_is_told_and_limits_are_changed_while_it_runs(spawn: Factory) -> None:
    container = spawn("sleep", "1000")
    assert container.call("usage")["usage"]["pids"]["current"] == 1
    container.call("update", resources={"pids": {"limit": 17}})
    assert container.call("usage")["usage"]["pids"]["limit"] == 17
    assert container.refuse("update", resources={"pids": {"limit": "x"}})["type"] == (
        "InvalidArgument"
    )
    container.call("kill", signal=9)


@pytest.mark.v2
def test_a_container_killed_for_memory_says_so(spawn: Factory) -> None:
    linux = {"resources": {"memory": {"limit": 24 << 20, "swap": 24 << 20}}}
    container = spawn(
        "sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", spec={"linux": linux}
    )
    exit = container.event("exit")
    assert (exit["code"], exit["oom"]) == (137, True)


@pytest.mark.v2
def test_what_shares_the_hosts_pids_is_killed_with_init(spawn: Factory) -> None:
    linux = {"namespaces": [{"type": name} for name in NAMESPACES_BUT_PID]}
    container = spawn("sh", "-c", "sleep 1000 & echo $!; exit 0", spec={"linux": linux})
    assert container.event("exit")["code"] == 0
    assert gone(int(container.logged()))


def test_a_run_of_poststop_hooks_follows_the_end(spawn: Factory, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {marker}"]}
    container = spawn("true", spec={"hooks": {"poststop": [hook]}})
    container.event("exit")
    assert json.loads(marker.read_text())["status"] == "stopped"


def test_processes_killed_for_want_of_memory_are_counted(spawn: Factory) -> None:
    container = spawn(
        "sh",
        "-c",
        "tail /dev/zero; true",
        spec={"linux": {"resources": {"memory": {"limit": 16 << 20}}}},
    )
    event = container.event("exit")
    assert (event["code"], event["oom"]) == (0, False)
    assert event["oom_kills"] == 1
