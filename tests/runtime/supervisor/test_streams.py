"""What a process writes goes to its clients and its log, and what they write to it."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import pytest

from sampan.runtime.supervisor.streams import CLIENT_LIMIT
from tests.runtime.supervisor.streaming import PATIENCE, Service, frames, make, receive, receive_all

__all__ = ["make"]


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
