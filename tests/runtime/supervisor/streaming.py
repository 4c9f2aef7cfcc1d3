"""A process behind the monitor's streams, for tests: attached to, written to and read from."""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.logs.drivers import Logs, open_logs, resume_logs
from sampan.runtime.supervisor.loop import READ, Loop
from sampan.runtime.supervisor.messages import LogOptions
from sampan.runtime.supervisor.streams import Stdio, child_pipes

__all__ = [
    "PATIENCE",
    "Service",
    "eventually",
    "frames",
    "make",
    "receive",
    "receive_all",
    "tcp_pair",
]

PATIENCE = 60.0


class Service:
    """A ``Stdio`` served by its loop on a thread; the test is the process and the clients."""

    def __init__(self, directory: Path, *, stdin: bool, stdin_once: bool, terminal: bool) -> None:
        self.loop = Loop()
        self.log_path = directory / "log"
        options = LogOptions(driver="json-file", path=str(self.log_path))
        self.log: Logs = resume_logs(options, open_logs(options), 1)
        self.detached = 0
        self.stdio = Stdio(self.loop, self.log, stdin_once=stdin_once, on_detach=self._on_detach)
        self.slave = -1
        self.pipes = [-1, -1, -1]
        if terminal:
            master, self.slave = os.openpty()
            self.stdio.use_terminal(master, stdin)
        else:
            theirs, ours = child_pipes(stdin)
            self.pipes = list(theirs)
            self.stdio.use_pipes(ours)
        self._calls: queue.Queue[tuple[Callable[[], Any], queue.Queue[Any]] | None] = queue.Queue()
        self._reader, self._writer = os.pipe()
        self.loop.watch(self._reader, READ, self._called)
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _on_detach(self) -> None:
        self.detached += 1

    def _serve(self) -> None:
        while not self._stopped:
            self.loop.turn()

    def _called(self, events: int) -> None:
        os.read(self._reader, 1)
        item = self._calls.get()
        if item is None:
            self._stopped = True
            return
        function, answer = item
        try:
            answer.put((function(), None))
        except (Conflict, InvalidArgument) as error:
            answer.put((None, error))

    def call(self, function: Callable[[], Any]) -> Any:
        """Run something on the loop's thread."""
        answer: queue.Queue[Any] = queue.Queue()
        self._calls.put((function, answer))
        os.write(self._writer, b"x")
        value, error = answer.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return value

    def attach(self, family: int = socket.AF_UNIX, **options: Any) -> socket.socket:
        ours, theirs = tcp_pair() if family == socket.AF_INET else socket.socketpair()
        ours.settimeout(PATIENCE)
        settings: dict[str, Any] = {
            "stdin": True,
            "streams": frozenset((1, 2)),
            "multiplex": False,
            "detach_keys": (16, 17),
            "is_patient": True,
            **options,
        }
        self.call(lambda: self.stdio.attach(stream_socket(theirs.detach()), **settings))
        return ours

    def write(self, data: bytes, fd: int = 1) -> None:
        """As the process."""
        target = self.slave if self.slave >= 0 else self.pipes[fd]
        while data:
            data = data[os.write(target, data) :]

    def read(self, size: int = 65536) -> bytes:
        """As the process, from its standard input."""
        source = self.slave if self.slave >= 0 else self.pipes[0]
        ready, _, _ = select.select([source], [], [], PATIENCE)
        assert ready, "the process has nothing to read"
        return os.read(source, size)

    def end_process(self) -> None:
        for fd in {*self.pipes, self.slave} - {-1}:
            os.close(fd)
        self.pipes = [-1, -1, -1]
        self.slave = -1

    def finish(self) -> None:
        self.end_process()
        self.call(lambda: self.stdio.finish(all_dead=True))

    def logged(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [(line["stream"], line["log"]) for line in lines]

    def close(self) -> None:
        self.end_process()
        self._calls.put(None)
        os.write(self._writer, b"x")
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.stdio.finish(all_dead=True)
        self.log.close()
        self.loop.close()
        os.close(self._reader)
        os.close(self._writer)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    # What the kernel keeps by itself may grow to several MiB.
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    return ours, theirs


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(min(65536, size - len(data)))
        if not piece:
            break
        data += piece
    return data


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def frames(data: bytes) -> list[tuple[int, bytes]]:
    result = []
    while data:
        stream, size = struct.unpack(">BxxxI", data[:8])
        assert len(data) >= 8 + size
        result.append((stream, data[8 : 8 + size]))
        data = data[8 + size :]
    return result


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Service] = []

    def service(*, stdin: bool = True, stdin_once: bool = False, terminal: bool = False) -> Service:
        made.append(Service(tmp_path, stdin=stdin, stdin_once=stdin_once, terminal=terminal))
        return made[-1]

    yield service
    for one in made:
        one.close()
