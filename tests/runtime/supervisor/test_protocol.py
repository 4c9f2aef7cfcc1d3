"""Messages between daemon and monitors: framing, descriptors, and everything malformed."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument
from sampan.oci.runtime import Mount
from sampan.runtime.supervisor import messages, protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def raw(sock: socket.socket, packet: bytes, *fds: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([packet], rights)


def test_a_message_and_its_descriptors_arrive(pair: Pair) -> None:
    reader, writer = os.pipe()
    protocol.send(pair[0], {"op": "x", "text": "\udcff é 舢"}, (writer,))
    os.close(writer)
    received = protocol.receive(pair[1])
    assert received is not None
    message, (fd,) = received
    assert message == {"op": "x", "text": "\udcff é 舢"}
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(fd)
    os.close(reader)


@pytest.mark.parametrize("size", [protocol.INLINE_LIMIT - 20, protocol.INLINE_LIMIT, 5_000_000])
def test_bodies_of_any_size_arrive_whole_with_their_descriptors(pair: Pair, size: int) -> None:
    before = open_fds()
    with open("/dev/null", "rb") as null:
        protocol.send(pair[0], {"text": "x" * size}, (null.fileno(),))
    received = protocol.receive(pair[1])
    assert received is not None
    message, fds = received
    assert message == {"text": "x" * size}
    assert len(fds) == 1
    os.close(fds[0])
    assert open_fds() == before


def test_a_body_over_the_limit_is_not_sent(pair: Pair) -> None:
    with pytest.raises(InvalidArgument, match="limit of 16777216"):
        protocol.send(pair[0], {"text": "x" * protocol.BODY_LIMIT})


def test_a_closed_peer_is_the_end(pair: Pair) -> None:
    protocol.send(pair[0], {"last": 1})
    pair[0].close()
    assert protocol.receive(pair[1]) == ({"last": 1}, [])
    assert protocol.receive(pair[1]) is None


def test_what_was_sent_before_a_close_arrives_though_the_peer_left_messages_unread(
    pair: Pair,
) -> None:
    protocol.send(pair[1], {"unread": 1})
    protocol.send(pair[0], {"last": 1})
    pair[0].close()
    assert protocol.receive(pair[1]) == ({"last": 1}, [])
    assert protocol.receive(pair[1]) is None


def test_nothing_to_receive_is_said_as_the_socket_says_it(pair: Pair) -> None:
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        protocol.receive(pair[1])


@pytest.mark.parametrize(
    "packet", [b"[1]", b"{", b"\xff\xfe", b'{"a":' * 9000, b"x", b"{'a':1}", b"3"]
)
def test_what_is_not_a_json_object_is_refused_and_leaks_nothing(pair: Pair, packet: bytes) -> None:
    before = open_fds()
    with open("/dev/null", "rb") as null:
        raw(pair[0], packet, null.fileno())
    with pytest.raises(InvalidArgument):
        protocol.receive(pair[1])
    assert open_fds() == before
    protocol.send(pair[0], {"still": "usable"})
    assert protocol.receive(pair[1]) == ({"still": "usable"}, [])


def test_a_packet_over_the_limit_is_refused(pair: Pair) -> None:
    raw(pair[0], json.dumps({"a": "x" * protocol.INLINE_LIMIT}).encode())
    with pytest.raises(InvalidArgument, match="larger than"):
        protocol.receive(pair[1])


def test_too_many_descriptors_are_refused_and_closed(pair: Pair) -> None:
    before = open_fds()
    with open("/dev/null", "rb") as null:
        raw(pair[0], b"{}", *[null.fileno()] * (protocol.MAX_FDS + 4))
    with pytest.raises(InvalidArgument, match="more than 16 descriptors"):
        protocol.receive(pair[1])
    assert open_fds() == before


def test_a_body_in_memory_must_be_sealed_and_there(pair: Pair) -> None:
    memory = os.memfd_create("body", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(memory, b"{}")
    raw(pair[0], b"M", memory)
    with pytest.raises(InvalidArgument, match="not sealed"):
        protocol.receive(pair[1])
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    raw(pair[0], b"M", memory)
    with pytest.raises(InvalidArgument, match="not sealed"):
        protocol.receive(pair[1])
    os.close(memory)
    with open("/etc/hostname", "rb") as file:
        raw(pair[0], b"M", file.fileno())
    with pytest.raises(InvalidArgument, match="not in a memfd"):
        protocol.receive(pair[1])
    raw(pair[0], b"M")
    with pytest.raises(InvalidArgument, match="none came"):
        protocol.receive(pair[1])


def test_a_huge_memory_file_is_refused_before_it_is_read(pair: Pair) -> None:
    memory = os.memfd_create("body", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(memory, protocol.BODY_LIMIT + 1)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    raw(pair[0], b"M", memory)
    os.close(memory)
    with pytest.raises(InvalidArgument, match="the limit is"):
        protocol.receive(pair[1])


def test_a_spawn_request_is_decoded_strictly() -> None:
    request = {
        "op": "spawn",
        "id": "a",
        "run_dir": "/run/a",
        "spec": {"ociVersion": "1.3.0"},
        "bundle": "/b",
        "rootfs": [{"destination": "/", "type": "overlay", "source": "overlay", "options": ["ro"]}],
        "log": {"driver": "json-file", "path": "/l", "max_size": None, "max_file": 3},
        "console_size": [24, 80],
        "stdin_once": True,
    }
    spawn = messages.Spawn.from_json(request)
    assert spawn.rootfs == (
        Mount(destination="/", type="overlay", source="overlay", options=("ro",)),
    )
    assert spawn.log is not None
    assert (spawn.log.max_file, spawn.log.tag_attrs) == (3, {})
    assert spawn.console_size == (24, 80)
    assert spawn.stdin_once
    assert spawn.spec == {"ociVersion": "1.3.0"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"colour": 1}, "no field 'colour'"),
        ({"terminal": "yes"}, "terminal: expected true or false"),
        ({"id": None}, "id: required"),
        ({"log": {"driver": "json-file", "colour": True}}, "log: no field 'colour'"),
        ({"log": {"driver": 3}}, "log.driver: expected a string"),
        ({"rootfs": [{"type": "x"}]}, r"rootfs\[0\].destination: required"),
    ],
)
def test_a_wrong_spawn_request_is_refused_by_the_fields_name(
    change: dict[str, object], text: str
) -> None:
    request = {"op": "spawn", "id": "a", "run_dir": "/r", "spec": {}, "bundle": "/b"}
    with pytest.raises(InvalidArgument, match=text):
        messages.Spawn.from_json({**request, **change})
