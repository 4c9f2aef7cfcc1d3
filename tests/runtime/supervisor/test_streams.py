"""A process's standard I/O as its clients see it: real pipes, terminals and sockets."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import select
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.runtime.supervisor import streams
from sampan.runtime.supervisor.clients import Client, DetachKeys, stream_socket
from sampan.runtime.supervisor.logs.drivers import Logs, open_logs, resume_logs
from sampan.runtime.supervisor.loop import READ, Loop
from sampan.runtime.supervisor.messages import LogOptions
from sampan.runtime.supervisor.streams import CLIENT_LIMIT, Stdio, child_pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


Maker = "Callable[..., Service]"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Service] = []

    def service(*, stdin: bool = True, stdin_once: bool = False, terminal: bool = False) -> Service:
        made.append(Service(tmp_path, stdin=stdin, stdin_once=stdin_once, terminal=terminal))
        return made[-1]

    yield service
    for one in made:
        one.close()


def test_output_goes_to_every_client_in_frames_and_to_the_log(make: Any) -> None:
    service: Service = make()
    both = service.attach(multiplex=True)
    only_errors = service.attach(multiplex=True, streams=frozenset((2,)))
    bare = service.attach(multiplex=False, streams=frozenset((1,)))
    service.write(b"out\n")
    assert receive(both, 12) == b"\x01\0\0\0\0\0\0\x04out\n"
    service.write(b"err\n", fd=2)
    assert receive(both, 12) == b"\x02\0\0\0\0\0\0\x04err\n"
    assert receive(only_errors, 12) == b"\x02\0\0\0\0\0\0\x04err\n"
    assert receive(bare, 4) == b"out\n"
    service.finish()
    assert receive_all(both) == receive_all(only_errors) == receive_all(bare) == b""
    assert service.logged() == [("stdout", "out\n"), ("stderr", "err\n")]


def test_what_was_written_before_the_end_is_all_delivered(make: Any) -> None:
    service: Service = make()
    client = service.attach(multiplex=True)
    service.write(b"a" * 60000)
    service.write(b"b" * 60000, fd=2)
    service.finish()
    parts = frames(receive_all(client))
    assert b"".join(data for stream, data in parts if stream == 1) == b"a" * 60000
    assert b"".join(data for stream, data in parts if stream == 2) == b"b" * 60000
    assert "".join(text for stream, text in service.logged() if stream == "stderr") == "b" * 60000


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_slow_client_stops_the_process_and_loses_nothing(make: Any, family: int) -> None:
    service: Service = make()
    client = service.attach(family, multiplex=True)
    total = 4 << 20
    written = 0

    def process() -> None:
        nonlocal written
        while written < total:
            service.write(written.to_bytes(8, "big") * 4096)
            written += 8 * 4096

    thread = threading.Thread(target=process, daemon=True)
    thread.start()
    before = -1
    while before != written or written < CLIENT_LIMIT:  # until it stands still
        before = written
        time.sleep(0.3)
    # Our buffer, a pipe, and what the kernel's sockets take.
    assert CLIENT_LIMIT <= written < total
    rest = b""
    position = 0
    while position < total:
        rest += client.recv(65536)
        while len(rest) >= 8 and len(rest) >= 8 + (size := int.from_bytes(rest[4:8], "big")):
            for offset in range(8, 8 + size, 4096):
                start = position + offset - 8
                if start % 8 == 0 and offset + 8 <= 8 + size:
                    value = int.from_bytes(rest[offset : offset + 8], "big")
                    assert value == start - start % 32768
            position += size
            rest = rest[8 + size :]
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_dead_client_is_dropped_and_the_process_goes_on(make: Any) -> None:
    service: Service = make()
    dead = service.attach(multiplex=True)
    alive = service.attach(multiplex=True)
    stuck = service.attach(multiplex=True, stdin=False)
    dead.close()
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(receive_all(alive)), daemon=True)
    reader.start()
    writer = threading.Thread(target=lambda: service.write(b"z" * (4 << 20)), daemon=True)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive(), "the stuck client holds the process back"
    stuck.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    service.finish()
    reader.join(PATIENCE)
    assert sum(len(data) for _, data in frames(bytes(received))) == 4 << 20
    assert not service.stdio.has_clients


def test_without_clients_output_goes_to_the_log_alone(make: Any) -> None:
    service: Service = make()
    for number in range(2000):
        service.write(b"%d\n" % number)
    service.finish()
    assert [text for _, text in service.logged()] == [f"{number}\n" for number in range(2000)]


def test_input_reaches_the_process_and_stays_open_for_the_next_client(make: Any) -> None:
    service: Service = make()
    first = service.attach()
    first.sendall(b"one\n")
    assert service.read() == b"one\n"
    first.shutdown(socket.SHUT_WR)
    assert receive_all(first) == b"", "its attachment ends with its input"
    second = service.attach()
    second.sendall(b"two\n")
    assert service.read() == b"two\n"
    second.close()
    third = service.attach()
    third.sendall(b"three\n")
    assert service.read() == b"three\n"


def test_stdin_once_closes_the_input_with_the_client_and_output_still_comes(make: Any) -> None:
    service: Service = make(stdin_once=True)
    client = service.attach(multiplex=True)
    client.sendall(b"text")
    client.shutdown(socket.SHUT_WR)
    assert service.read() == b"text"
    assert service.read() == b""
    service.write(b"answer")
    assert frames(receive(client, 14)) == [(1, b"answer")]
    service.finish()
    assert receive_all(client) == b""


@pytest.mark.parametrize("close", ["half", "whole"])
def test_input_sent_before_a_close_arrives_whole_though_the_process_is_slow(
    make: Any, close: str
) -> None:
    service: Service = make(stdin_once=True)
    client = service.attach(multiplex=True)
    client.settimeout(None)
    sent = bytes(range(256)) * 4096 * 2  # 2 MiB, far over pipe and buffer

    def send() -> None:
        client.sendall(sent)
        if close == "half":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "a process that does not read stops its client"
    received = b""
    while data := service.read():
        received += data
    assert received == sent
    thread.join(PATIENCE)


def test_a_process_that_closed_its_input_does_not_disturb_its_output(make: Any) -> None:
    service: Service = make()
    client = service.attach()
    os.close(service.pipes[0])
    service.pipes[0] = -1
    client.sendall(b"nobody reads this")
    service.write(b"still here")
    assert receive(client, 10) == b"still here"


def test_a_client_without_input_is_not_read(make: Any) -> None:
    service: Service = make(stdin=False)
    client = service.attach(stdin=True)
    client.sendall(b"ignored")
    client.shutdown(socket.SHUT_WR)
    service.write(b"x")
    assert receive(client, 1) == b"x"
    service.finish()
    assert receive_all(client) == b""


def test_a_tcp_client_that_typed_unread_input_still_gets_the_last_output(make: Any) -> None:
    service: Service = make(stdin=False)
    client = service.attach(socket.AF_INET)
    client.sendall(b"nobody reads this")
    service.write(b"last words")
    service.finish()
    assert receive_all(client) == b"last words"


def test_a_terminal_takes_input_gives_output_and_knows_its_size(make: Any) -> None:
    service: Service = make(terminal=True)
    client = service.attach()
    client.sendall(b"ls\n")
    assert receive(client, 4) == b"ls\r\n", "the terminal's echo"
    assert service.read() == b"ls\n"
    service.write(b"file\n")
    assert receive(client, 6) == b"file\r\n"
    service.call(lambda: service.stdio.resize(33, 111))
    size = fcntl.ioctl(service.slave, termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("4H", size)[:2] == (33, 111)
    service.finish()
    assert receive_all(client) == b""
    assert service.logged() == [("stdout", "ls\r\n"), ("stdout", "file\r\n")]
    with pytest.raises(Conflict):
        service.call(lambda: service.stdio.resize(1, 1))


def test_a_terminal_that_nobody_holds_for_a_while_is_served_again(make: Any) -> None:
    service: Service = make(terminal=True)
    client = service.attach()
    name = os.ttyname(service.slave)
    os.close(service.slave)
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - used < 0.1, "a hung-up terminal is not asked again and again"
    service.slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
    service.write(b"back\n")
    assert receive(client, 6) == b"back\r\n"


def test_resize_is_refused_without_a_terminal_and_for_impossible_sizes(make: Any) -> None:
    pipes: Service = make()
    with pytest.raises(Conflict, match="no terminal"):
        pipes.call(lambda: pipes.stdio.resize(24, 80))
    terminal: Service = make(terminal=True)
    with pytest.raises(InvalidArgument, match="70000"):
        terminal.call(lambda: terminal.stdio.resize(24, 70000))


@pytest.mark.parametrize("pieces", [[b"\x10\x11"], [b"\x10", b"\x11"], [b"ab\x10", b"\x11cd"]])
def test_detach_keys_end_the_attachment_and_not_the_process(make: Any, pieces: list[bytes]) -> None:
    service: Service = make(terminal=True)
    attributes = termios.tcgetattr(service.slave)
    attributes[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(service.slave, termios.TCSANOW, attributes)
    client = service.attach()
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.02)
    assert receive_all(client) == b""
    if pieces[0].startswith(b"ab"):
        assert service.read() == b"ab"
    again = service.attach()
    service.write(b"alive\n")
    assert receive(again, 7) == b"alive\r\n"


def test_detach_keys_mean_nothing_without_a_terminal(make: Any) -> None:
    service: Service = make()
    client = service.attach()
    client.sendall(b"\x10\x11")
    assert service.read() == b"\x10\x11"


@pytest.mark.parametrize(
    ("keys", "pieces", "passed", "detached"),
    [
        (b"\x10\x11", [b"abc"], b"abc", False),
        (b"\x10\x11", [b"a\x10", b"b"], b"a\x10b", False),
        (b"\x10\x11", [b"\x10", b"\x10", b"\x11"], b"\x10", True),
        (b"aab", [b"aa", b"ab"], b"a", True),
        (b"abac", [b"ab", b"ab", b"ac"], b"ab", True),
        (b"", [b"\x10\x11"], b"\x10\x11", False),
        (b"x", [b"12x34"], b"12", True),
    ],
)
def test_detach_keys_are_found_across_reads(
    keys: bytes, pieces: list[bytes], passed: bytes, detached: bool
) -> None:
    detector = DetachKeys(tuple(keys))
    text, found = b"", False
    for piece in pieces:
        more, found = detector.feed(piece)
        text += more
        if found:
            break
    assert (text, found) == (passed, detached)


def test_only_stream_sockets_can_be_attached() -> None:
    with pytest.raises(InvalidArgument, match="not a socket"):
        stream_socket(os.open("/dev/null", os.O_RDONLY))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, pytest.raises(InvalidArgument, match="stream socket"):
        stream_socket(theirs.detach())
    with pytest.raises(InvalidArgument, match="byte"):
        DetachKeys((300,))


def test_the_flags_of_a_clients_socket_are_left_alone(make: Any) -> None:
    service: Service = make()
    ours, theirs = socket.socketpair()
    with ours, theirs.dup() as kept:
        flags = fcntl.fcntl(kept, fcntl.F_GETFL)
        service.call(
            lambda: service.stdio.attach(
                stream_socket(theirs.detach()),
                stdin=True,
                streams=frozenset((1,)),
                multiplex=False,
                detach_keys=(),
                is_patient=True,
            )
        )
        assert fcntl.fcntl(kept, fcntl.F_GETFL) == flags


def test_the_end_closes_a_client_also_for_who_else_holds_its_socket(make: Any) -> None:
    service: Service = make()
    ours, theirs = socket.socketpair()
    with ours, theirs.dup():
        ours.settimeout(PATIENCE)
        service.call(
            lambda: service.stdio.attach(
                stream_socket(theirs.detach()),
                stdin=True,
                streams=frozenset((1,)),
                multiplex=False,
                detach_keys=(),
                is_patient=True,
            )
        )
        service.write(b"bye")
        service.finish()
        assert receive_all(ours) == b"bye"


def test_after_the_end_nobody_can_attach(make: Any) -> None:
    service: Service = make()
    service.finish()
    with pytest.raises(Conflict, match="ended"):
        service.attach()


def test_children_left_by_an_ended_process_are_read_and_not_heard(make: Any) -> None:
    service: Service = make()
    client = service.attach()
    service.write(b"said")
    service.call(lambda: service.stdio.finish(all_dead=False))
    assert receive_all(client) == b"said"
    service.write(b"c" * (1 << 20))
    eventually(lambda: not service.stdio.has_clients)
    assert service.logged() == [("stdout", "said")]


def test_who_came_later_and_takes_nothing_is_dropped(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALL", 0.3)
    service: Service = make()
    stuck = service.attach(is_patient=False)
    slow = service.attach(is_patient=False)
    total = 4 << 20
    thread = threading.Thread(target=lambda: service.write(b"x" * total), daemon=True)
    thread.start()
    taken = 0
    # It takes a little in every moment, and so may take as long as it likes.
    while taken < total:
        taken += len(slow.recv(100_000))
        time.sleep(0.01)
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the process was stopped"
    assert len(receive_all(stuck)) < total
    service.finish()
    assert receive_all(slow) == b""


def test_what_is_held_goes_out_behind_what_others_sent(make: Any) -> None:
    service: Service = make()
    service.write(b"logged\nbegun")
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    kept = theirs.dup()

    def attach() -> Client:
        client = service.stdio.attach(
            stream_socket(theirs.detach()),
            stdin=False,
            streams=frozenset((1,)),
            multiplex=False,
            detach_keys=(),
            is_patient=False,
        )
        service.stdio.hold(client)
        return client

    service.call(lambda: None)
    while service.log.unfinished("stdout") != b"begun":
        time.sleep(0.01)
    client = service.call(attach)
    service.write(b" later\n")
    while service.log.unfinished("stdout"):
        time.sleep(0.01)
    kept.sendall(b"logged\n")
    assert ours.recv(100) == b"logged\n"
    service.call(lambda: service.stdio.release(client))
    text = b""
    while len(text) < len(b"begun later\n"):
        text += ours.recv(100)
    assert text == b"begun later\n"
    service.finish()
    kept.close()
    assert receive_all(ours) == b""


def test_a_held_connection_ends_with_its_input_but_not_before_it_is_released(make: Any) -> None:
    service: Service = make(stdin=True)
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    kept = theirs.dup()

    def attach() -> Client:
        client = service.stdio.attach(
            stream_socket(theirs.detach()),
            stdin=True,
            streams=frozenset((1,)),
            multiplex=False,
            detach_keys=(),
            is_patient=False,
        )
        service.stdio.hold(client)
        return client

    client = service.call(attach)
    ours.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + PATIENCE
    while service.call(lambda: client.wants_input):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kept.sendall(b"from the log\n")
    kept.close()
    assert ours.recv(100) == b"from the log\n"
    service.call(lambda: service.stdio.release(client))
    assert receive_all(ours) == b""
    service.finish()


def test_who_is_held_is_not_dropped_for_taking_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALL", 0.1)
    service: Service = make()
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)

    def attach() -> Client:
        client = service.stdio.attach(
            stream_socket(theirs.detach()),
            stdin=False,
            streams=frozenset((1,)),
            multiplex=False,
            detach_keys=(),
            is_patient=False,
        )
        service.stdio.hold(client)
        return client

    client = service.call(attach)
    size = CLIENT_LIMIT + 512 * 1024
    writer = threading.Thread(target=lambda: service.write(b"x" * size), daemon=True)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive(), "the process waits for whoever reads the log"
    service.call(lambda: service.stdio.release(client))
    received = 0
    while received < size:
        received += len(ours.recv(65536))
    writer.join(PATIENCE)
    service.finish()
    assert receive_all(ours) == b""


def test_a_process_that_ends_leaves_a_held_connection_to_its_other_holders(make: Any) -> None:
    service: Service = make()
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    kept = theirs.dup()

    def attach() -> None:
        client = service.stdio.attach(
            stream_socket(theirs.detach()),
            stdin=False,
            streams=frozenset((1,)),
            multiplex=False,
            detach_keys=(),
            is_patient=False,
        )
        service.stdio.hold(client)

    service.call(attach)
    service.write(b"last words\n")
    service.finish()
    assert not service.call(lambda: service.stdio.has_clients)
    kept.sendall(b"from the log\n")
    kept.close()
    assert receive_all(ours) == b"from the log\n"
    assert service.logged() == [("stdout", "last words\n")]
