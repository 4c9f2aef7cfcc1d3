"""Containers under a monitor, from spawn request to exit event, through a real zygote."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import NotFound
from sampan.kernel import cgroups
from sampan.kernel.mounts import MNT_DETACH, MS_REMOUNT, mount, umount
from sampan.runtime.supervisor import client, protocol
from tests.runtime.containers import configuration, make_bundle, process_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PATIENCE = 60.0
NAMESPACES_BUT_PID = ("mount", "network", "uts", "ipc", "cgroup")


class Container:
    """The daemon's view of one container: its requests, replies and events."""

    def __init__(self, name: str, run_dir: Path, log: Path, control: socket.socket) -> None:
        self.name = name
        self.run_dir = run_dir
        self.log = log
        self.events: list[dict[str, Any]] = []
        self.replies: dict[int, dict[str, Any]] = {}
        self._next = 0
        self.use(control)

    def use(self, control: socket.socket) -> None:
        self.control = control
        control.settimeout(PATIENCE)

    def receive(self) -> bool:
        received = protocol.receive(self.control)
        if received is None:
            return False
        message, fds = received
        assert fds == []
        if "reply" in message:
            self.replies[message["reply"]] = message
        else:
            self.events.append(message)
        return True

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; those before it are dropped."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["event"] == name:
                    return event
                assert event["event"] != "failed" or name == "failed", event
            assert self.receive(), f"the monitor ended before {name!r}"

    def ask(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> int:
        self._next += 1
        protocol.send(self.control, {"op": op, "seq": self._next, **fields}, fds)
        return self._next

    def answer(self, seq: int) -> dict[str, Any]:
        while seq not in self.replies:
            assert self.receive(), "the monitor ended before it replied"
        return self.replies.pop(seq)

    def call(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        reply = self.answer(self.ask(op, fds, **fields))
        assert reply.get("ok"), reply
        return reply

    def refuse(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        reply = self.answer(self.ask(op, fds, **fields))
        assert "ok" not in reply, reply
        error: dict[str, Any] = reply["error"]
        return error

    def attach(self, **fields: Any) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with theirs:
            settings = {"stdin": False, "stdout": True, "stderr": True, "multiplex": True, **fields}
            self.call("attach", (theirs.fileno(),), **settings)
        return ours

    def exec(
        self, *args: str, process: dict[str, Any] | None = None, **fields: Any
    ) -> tuple[socket.socket, dict[str, Any]]:
        """(the stream, the reply) of a process executed in the container."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with theirs:
            settings = {"exec_id": "x", "multiplex": True, **fields}
            settings["process"] = process_of(*args, **(process or {})).to_json()
            return ours, self.answer(self.ask("exec", (theirs.fileno(),), **settings))

    def logged(self, stream: str = "stdout") -> str:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return "".join(line["log"] for line in lines if line["stream"] == stream)

    def monitor(self) -> int:
        return int(json.loads((self.run_dir / "monitor.json").read_text())["pid"])

    def awake(self) -> int:
        """Who is awake for the monitor, which sleeps (``rest``)."""
        init = self.call("status")["pid"]
        (awake,) = children(self.monitor()) - {init}
        return awake


class Factory:
    """Makes containers of one zygote in one bundle."""

    def __init__(self, directory: Path, zygote: client.Zygote) -> None:
        self.directory = directory
        self.zygote = zygote
        self.bundle = make_bundle(directory)
        self.made: list[Container] = []
        self.hierarchy = cgroups.detect()

    def group(self, name: str) -> str:
        return f"/sampan-test-{os.getpid()}-{name}"

    def __call__(self, *args: str, wait: bool = True, **fields: Any) -> Container:
        name = f"c{len(self.made)}"
        changes = fields.pop("spec", {})
        run_dir = self.directory / "run" / name
        run_dir.parent.mkdir(exist_ok=True)
        log = self.directory / f"{name}.log"
        request: dict[str, Any] = {
            "id": name,
            "run_dir": str(run_dir),
            "spec": configuration(*args, **changes),
            "bundle": str(self.bundle),
            "cgroup": self.group(name),
            "log": {"driver": "json-file", "path": str(log)},
            "start": True,
            **fields,
        }
        stdio = request.pop("stdio_fds", ())
        container = Container(name, run_dir, log, self.zygote.spawn(request, stdio))
        self.made.append(container)
        if wait:
            container.event("created")
            if request["start"]:
                container.event("started")
        return container

    def clean(self) -> None:
        for container in self.made:
            container.control.close()
            group = self.hierarchy.group(self.group(container.name))
            group.kill()
            deadline = time.monotonic() + PATIENCE
            while (container.run_dir / "monitor.json").exists() and time.monotonic() < deadline:
                try:
                    pid = container.monitor()
                except FileNotFoundError:
                    break
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.01)
            group.destroy()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Factory]:
    zygote = client.start_zygote()
    factory = Factory(tmp_path, zygote)
    try:
        yield factory
    finally:
        factory.clean()
        zygote.close()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    sock.close()
    return data


def frames(data: bytes) -> dict[int, bytes]:
    result = {1: b"", 2: b""}
    while data:
        stream, size = struct.unpack(">BxxxI", data[:8])
        result[stream] += data[8 : 8 + size]
        data = data[8 + size :]
    return result


def read_until(sock: socket.socket, text: bytes) -> bytes:
    data = b""
    while text not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def unread(pid: int, fd: int) -> int:
    """Bytes in the pipe that a process has there, which nobody has read yet."""
    pipe = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(pipe)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


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


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


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


def test_a_run_of_poststop_hooks_follows_the_end(spawn: Factory, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {marker}"]}
    container = spawn("true", spec={"hooks": {"poststop": [hook]}})
    container.event("exit")
    assert json.loads(marker.read_text())["status"] == "stopped"


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
