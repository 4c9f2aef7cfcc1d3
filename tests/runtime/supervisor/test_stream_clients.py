"""How a client's connection is treated: its flags, its end, and one that is held back."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.runtime.supervisor import streams
from sampan.runtime.supervisor.clients import Client, DetachKeys, stream_socket
from sampan.runtime.supervisor.streams import CLIENT_LIMIT
from tests.runtime.supervisor.streaming import PATIENCE, Service, eventually, make, receive_all

__all__ = ["make"]


def test_only_stream_sockets_can_be_attached() -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(InvalidArgument, match="not a socket"):
        stream_socket(null)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(null)
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
