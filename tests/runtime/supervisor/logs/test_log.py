"""What becomes of lines that a log does not take: waiting, losing, buffering, and the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sampan.runtime.supervisor.logs import log as log_module
from sampan.runtime.supervisor.logs.drivers import open_logs, resume_logs
from sampan.runtime.supervisor.loop import Loop
from sampan.runtime.supervisor.messages import LogOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.runtime.supervisor.logs.drivers import Logs

LINE = b"y" * 999 + b"\n"


class Server:
    """A syslog server on a Unix stream socket that reads when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(60)
        self.connection: socket.socket | None = None
        self.received = b""
        self.listen()

    def listen(self) -> None:
        self.listener.bind(self.path)
        self.listener.listen()

    def accept(self) -> None:
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(60)

    def read(self, size: int) -> None:
        """Read until so much has come in all."""
        assert self.connection is not None
        while len(self.received) < size:
            data = self.connection.recv(65536)
            assert data, "the log was closed"
            self.received += data

    def read_all(self) -> None:
        assert self.connection is not None
        while data := self.connection.recv(65536):
            self.received += data

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    @property
    def lines(self) -> int:
        return self.received.count(b"\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "syslog")
    yield one
    one.close()


def opened(server: Server, **fields: Any) -> Logs:
    options = LogOptions(driver="syslog", address=f"unix://{server.path}", tag="t", **fields)
    log = resume_logs(options, open_logs(options), 1)
    server.accept()
    return log


def attend(log: Logs) -> tuple[Loop, list[str]]:
    loop = Loop()
    said: list[str] = []
    log.attend(loop, lambda: said.append("changed"), said.append)
    return loop, said


def fill(log: Logs) -> int:
    """Write until it is full; how many lines that were."""
    count = 0
    while not log.is_full:
        log.write("stdout", LINE)
        count += 1
        assert count < 10_000
    return count


def until_room(log: Logs, loop: Loop) -> None:
    while log.is_full:
        loop.turn()


def test_blocking_waits_until_the_log_takes_more_and_loses_nothing(server: Server) -> None:
    log = opened(server)
    loop, said = attend(log)
    count = fill(log)
    server.read(count * 900)
    until_room(log, loop)
    assert said == ["changed"]
    reader = threading.Thread(target=server.read_all)
    reader.start()
    log.close()
    reader.join()
    assert (server.lines, log.dropped) == (count, 0)
    loop.close()


def test_a_log_that_takes_nothing_for_too_long_does_not_hold_the_container(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "PATIENCE", 0.3)
    monkeypatch.setattr(log_module, "RETRY", 0.05)
    log = opened(server)
    loop, said = attend(log)
    count = fill(log)
    until_room(log, loop)
    assert log.dropped == 1
    assert len(said) == 2
    assert "takes no more" in said[0]
    assert said[1] == "changed"
    log.write("stdout", LINE * 3)
    assert (log.is_full, log.dropped) == (False, 4)
    assert server.connection is not None
    server.connection.setblocking(False)
    try:
        server.read(1 << 30)
    except BlockingIOError:
        server.connection.settimeout(60)
    log.write("stdout", b"it works again\n")
    assert not log.is_full
    log.close()
    server.read_all()
    assert server.received.endswith(b"it works again\n")
    assert server.lines == count - 1 + 1
    loop.close()


def test_a_server_that_comes_back_gets_every_line_that_waited(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "RETRY", 0.05)
    log = opened(server)
    loop, _ = attend(log)
    log.write("stdout", b"first\n")
    server.read(1)
    server.close()
    log.write("stdout", b"second\n")
    log.write("stdout", b"third\n")
    assert log.is_full
    again = Server(server.path)  # type: ignore[arg-type]
    until_room(log, loop)
    again.accept()
    log.close()
    again.read_all()
    texts = [line.rpartition(b": ")[2] for line in again.received.splitlines()]
    assert texts == [b"second", b"third"]
    assert log.dropped == 0
    again.close()
    loop.close()


def test_a_message_that_was_cut_by_the_end_of_a_connection_is_sent_again_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "RETRY", 0.05)
    log = opened(server)
    loop, _ = attend(log)
    count = 0
    while not log.is_full:
        log.write("stdout", b"%05d " % count + b"z" * 15_000 + b"\n")
        count += 1
    assert server.connection is not None
    server.connection.close()
    again_listener = server.listener
    until_room(log, loop)
    connection, _ = again_listener.accept()
    log.write("stdout", b"last\n")
    log.close()
    text = b""
    while data := connection.recv(65536):
        text += data
    connection.close()
    assert text.startswith(b"<30>")
    assert text.count(b"z" * 15_000 + b"\n") == text.count(b"z\n")
    assert text.endswith(b"last\n")
    loop.close()


def test_non_blocking_keeps_a_buffer_full_and_drops_the_newest(server: Server) -> None:
    log = opened(server, blocking=False, buffer_size=100_000)
    loop, said = attend(log)
    written = 2000
    for _ in range(written):
        log.write("stdout", LINE)
        assert not log.is_full
    dropped = log.dropped
    assert 0 < dropped < written - 100_000 // 1100
    assert len(said) == 1
    assert "buffer of 100000 bytes is full" in said[0]
    reader = threading.Thread(target=server.read_all)
    reader.start()
    log.close()
    reader.join()
    assert log.dropped == dropped
    assert server.lines == written - dropped
    loop.close()


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_file_whose_end_was_told_is_not_rotated_until_that_was_read(
    tmp_path: Path, driver: str
) -> None:
    path = tmp_path / "dir" / "log"
    path.parent.mkdir()
    options = LogOptions(driver=driver, path=str(path), max_size=10_000, max_file=3)
    log = resume_logs(options, open_logs(options), 1)
    log.write("stdout", LINE * 2)
    status = path.stat()
    assert log.pin() == (status.st_dev, status.st_ino, status.st_size)
    assert log.pin() is not None
    log.unpin()
    for _ in range(20):
        log.write("stdout", LINE)
    assert path.stat().st_ino == status.st_ino
    assert fill(log) > 900
    assert 1 << 20 < path.stat().st_size < (1 << 20) + 40_000
    log.unpin()
    log.write("stdout", LINE)
    assert not log.is_full
    assert path.stat().st_ino != status.st_ino
    assert log.dropped == 0
    log.close()


def test_the_end_waits_a_while_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LAST_PATIENCE", 0.2)
    log = opened(server)
    fill(log)
    log.close()
    assert log.dropped == 1


@pytest.mark.root
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_full_disk_is_waited_for_and_then_loses_whole_entries(
    tmp_path: Path, driver: str
) -> None:
    script = """
import os, sys
from sampan.engine.log_formats import format_of
from sampan.kernel.mounts import mount
from sampan.kernel.namespaces import CLONE_NEWNS, unshare
from sampan.runtime.supervisor.logs import log as log_module
from sampan.runtime.supervisor.logs.drivers import open_logs, resume_logs
from sampan.runtime.supervisor.loop import Loop
from sampan.runtime.supervisor.messages import LogOptions
where, driver = sys.argv[1:]
unshare(CLONE_NEWNS)
mount("none", "/", "", 1 << 18 | 1 << 14)
mount("tmpfs", where, "tmpfs", 0, "size=256k")
path = where + "/logs/log"
os.mkdir(where + "/logs")
def ballast(size):
    with open(where + "/ballast", "wb") as file:
        file.write(bytes(size))
def written():
    with open(path, "rb") as file:
        entries, rest = format_of(driver).decode(file.read())
    assert not rest, "torn"
    return [int(entry.log) for entry in entries]
ballast(192 * 1024)
options = LogOptions(driver=driver, path=path)
log = resume_logs(options, open_logs(options), 1)
loop, said = Loop(), []
log.attend(loop, lambda: said.append("changed"), said.append)
log_module.RETRY = 0.05
count = 0
while not log.is_full:
    log.write("stdout", b"".join(b"%09d\\n" % n for n in range(count, count + 100)))
    count += 100
assert log.dropped == 0 and len(written()) < count
os.unlink(where + "/ballast")
while log.is_full:
    loop.turn()
assert written() == list(range(count)), "a line was lost or is out of order"
assert said == ["changed"]
ballast(64 * 1024)
try:
    ballast(1 << 20)
except OSError:
    pass
log_module.PATIENCE = 0.2
while not log.dropped:
    log.write("stdout", b"".join(b"%09d\\n" % n for n in range(count, count + 100)))
    count += 100
    while log.is_full:
        loop.turn()
assert "no space left" in said[-2], said
kept = written()
assert kept == list(range(count - log.dropped)), (len(kept), count, log.dropped)
os.unlink(where + "/ballast")
log.write("stdout", b"7\\n")
log.close()
assert written()[-1] == 7
print("ok")
"""
    source = os.path.abspath(log_module.__file__).split("/sampan/runtime/")[0]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), driver],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr
