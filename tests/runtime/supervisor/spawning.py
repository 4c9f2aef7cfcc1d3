"""The daemon's side of a monitor, for tests: containers of a real zygote, asked and listened to."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.kernel import cgroups
from sampan.runtime.supervisor import client, protocol
from tests.runtime.containers import configuration, make_bundle, process_of

__all__ = [
    "Container",
    "Factory",
    "NAMESPACES_BUT_PID",
    "PATIENCE",
    "children",
    "children_of",
    "frames",
    "gone",
    "read_all",
    "read_until",
    "spawn",
    "unread",
]

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


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
