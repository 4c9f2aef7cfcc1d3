"""A container's own name servers are asked from its network; its own server has port 53."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading

import pytest

from sampan.errors import KernelError
from sampan.kernel.netns import Inside
from sampan.network.resolver import client
from tests.network.resolver.place import (
    SECOND,
    UPSTREAM,
    Place,
    addresses,
    code,
    endpoint,
    question,
    told,
)

pytestmark = pytest.mark.root

WEB = endpoint("web", "10.0.0.2")


def test_they_are_asked_from_the_container_s_network_and_no_other(place: Place) -> None:
    machine = place.upstream(UPSTREAM, told("192.0.2.66"))
    place.upstream(UPSTREAM, told("192.0.2.7"), place.container)
    place.serve(WEB, servers=[UPSTREAM])
    assert addresses(place.ask("other.example")) == ["192.0.2.7"]
    assert addresses(place.ask_tcp(question("other.example"))) == ["192.0.2.7"]
    assert addresses(place.ask("web")) == ["10.0.0.2"]
    assert machine.seen == []


def test_two_containers_servers_of_one_address_are_two(place: Place) -> None:
    """What one server says to one container is nothing to the other."""
    namespace, pidfd = place.another()
    second = {"id": "c2", "networks": ["n1"], "servers": [UPSTREAM]}
    place.upstream(UPSTREAM, told("192.0.2.1"), place.container)
    place.upstream(UPSTREAM, told("192.0.2.2"), namespace)
    place.serve(WEB, servers=[UPSTREAM])
    place.resolver.serve(second, namespace, pidfd)
    with place.socket() as one, place.socket(namespace=namespace) as two:
        for _ in range(20):
            for sock in (one, two):
                sock.send(question("same.example"))
            assert addresses(one.recv(512)) == ["192.0.2.1"]
            assert addresses(two.recv(512)) == ["192.0.2.2"]
    os.close(namespace)
    os.close(pidfd)


def test_more_questions_than_sockets_are_asked_in_turn(place: Place) -> None:
    place.upstream(SECOND, told("192.0.2.9"), place.container)
    # Nobody listens at the first: its sockets come back from an error each time.
    place.serve(WEB, servers=[UPSTREAM, SECOND])
    with place.socket() as sock:
        for burst in range(3):
            for number in range(40):
                sock.send(question(f"{number}.example", ident=burst * 40 + number))
            answers = [sock.recv(512) for _ in range(40)]
            assert {one[:2] for one in answers} == {
                struct.pack(">H", burst * 40 + number) for number in range(40)
            }
            assert all(addresses(one) == ["192.0.2.9"] for one in answers)
    for number in range(10):
        assert addresses(place.ask_tcp(question(f"{number}.example"))) == ["192.0.2.9"]


def test_every_question_comes_from_another_port(place: Place) -> None:
    with Inside(place.container):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((UPSTREAM, 53))
    server.settimeout(20)
    place.serve(WEB, servers=[UPSTREAM])
    ports = set()
    with server, place.socket() as sock:
        for number in range(30):
            sock.send(question(f"{number}.example"))
            packet, peer = server.recvfrom(512)
            ports.add(peer[1])
            server.sendto(told("192.0.2.1")(packet), peer)
            assert addresses(sock.recv(512)) == ["192.0.2.1"]
    assert len(ports) > 20


def test_a_container_that_ends_amid_its_questions_takes_nobody_along(place: Place) -> None:
    place.serve(WEB, servers=[])
    namespace, pidfd = place.another()
    place.upstream(UPSTREAM, lambda _: None, namespace)
    gone = {"id": "c2", "networks": ["n1"], "servers": [UPSTREAM]}
    place.resolver.serve(gone, namespace, pidfd)
    with place.socket(namespace=namespace) as sock:
        for number in range(60):
            sock.send(question(f"{number}.example", ident=number))
        place.kill_container()
        assert addresses(place.ask("web")) == ["10.0.0.2"]
    place.resolver.tell({"op": "forget", "clients": ["c2"]})
    assert addresses(place.ask("web")) == ["10.0.0.2"]
    os.close(namespace)
    os.close(pidfd)


def test_servers_that_ask_each_other_through_us_come_to_an_end(place: Place) -> None:
    """127.0.0.11 itself as a server."""
    place.serve(WEB, servers=["127.0.0.11"])
    assert code(place.ask("loop.example")) == 2
    assert addresses(place.ask("web")) == ["10.0.0.2"]


def test_a_container_s_own_server_has_port_53_of_every_address(place: Place) -> None:
    place.serve(WEB, servers=[])
    with Inside(place.container):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp, tcp, asking:
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        tcp.listen()
        udp.settimeout(20)
        asking.settimeout(20)
        answered = threading.Thread(
            target=lambda: udp.sendto(b"mine", udp.recvfrom(512)[1]), daemon=True
        )
        answered.start()
        asking.sendto(question("web"), ("127.0.0.1", 53))
        assert asking.recv(512) == b"mine"
        assert addresses(place.ask("web")) == ["10.0.0.2"]
        assert addresses(place.ask_tcp(question("web"))) == ["10.0.0.2"]


def test_sockets_that_are_made_again_are_led_to(place: Place) -> None:
    for _ in range(3):
        place.serve(WEB, servers=[])
        assert addresses(place.ask("web")) == ["10.0.0.2"]
        assert addresses(place.ask_tcp(question("web"))) == ["10.0.0.2"]


def test_a_kernel_without_nftables_has_it_at_port_53(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KernelError("nftables BATCH", errno.EOPNOTSUPP)

    monkeypatch.setattr(client, "redirect", refuse)
    place.serve(WEB, servers=[])
    assert addresses(place.ask("web")) == ["10.0.0.2"]
    assert addresses(place.ask_tcp(question("web"))) == ["10.0.0.2"]
