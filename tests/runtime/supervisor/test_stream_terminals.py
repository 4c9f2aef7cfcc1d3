"""Terminals of attached clients: their size, and the keys that detach."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.runtime.supervisor.clients import DetachKeys
from tests.runtime.supervisor.streaming import Service, make, receive, receive_all

__all__ = ["make"]


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
