"""Datagrams to ``::1`` and published ports, and ``localhost`` of who has no IPv6 address."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import own_root
from tests.network.house import House
from tests.network.test_loopback6 import ask
from tests.network.test_matrix import SERVE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

ECHO = (
    "import socket, sys\n"
    "sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
    "sock.bind(('::', int(sys.argv[1])))\n"
    "print('listening', flush=True)\n"
    "while True:\n"
    "    data, who = sock.recvfrom(65536)\n"
    "    seen = f'{who[0].removeprefix(\"::ffff:\")} {who[1]}'\n"
    "    if data == b'note':\n"
    "        print(seen, flush=True)\n"
    "    else:\n"
    "        sock.sendto(data if data != b'who' else seen.encode(), who)\n"
)
"""Says what it was told, or who told it; to ``note`` it says nothing, but that to the log."""
IDLE = "net.netfilter.nf_conntrack_udp_timeout"


def idle(house: House, seconds: int) -> None:
    """How long flows are kept: that of those that were answered is an hour."""
    house.run("sysctl", "-w", f"{IDLE}={seconds}", f"{IDLE}_stream=3600")


@pytest.fixture(scope="module")
def shared_six(quick: Path) -> Iterator[House]:
    """With IPv6 on the default network, and a network ``four`` without."""
    house = House(own_root(quick), "--ipv6")
    try:
        idle(house, 3600)
        house.daemon.start()
        assert house.daemon.post("/networks/create", {"Name": "four"}).status == 201
        yield house
    finally:
        house.close()


@pytest.fixture
def six(shared_six: House) -> Iterator[House]:
    yield shared_six
    shared_six.daemon.remove_all()
    shared_six.daemon.wait_for(lambda: not shared_six.leases())
    assert sockets(shared_six) == {}


def serve(
    house: House, script: str, inside: str, *bindings: tuple[str, str], mode: str = "default"
) -> str:
    ports = [{"HostIp": host, "HostPort": port} for host, port in bindings]
    host = {"NetworkMode": mode, "PortBindings": {inside: ports}}
    container = house.daemon.run("python3", "-c", script, "7", HostConfig=host)
    house.daemon.wait_for(lambda: "listening" in house.daemon.logs(container), 60)
    return container


def client(house: House, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with house.inside():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.connect((host, port))
    return sock


def say(sock: socket.socket, data: bytes = b"who") -> bytes:
    sock.send(data)
    return sock.recv(65536)


def sockets(house: House) -> dict[str, int]:
    """The daemon's UDP sockets, by what they are: that hold a port, or are a flow's."""
    found: dict[str, int] = {}
    for line in house.run("ss", "-Huanp").stdout.splitlines():
        if f"pid={house.daemon.pid}," in line:
            kind = line.split()[0]
            found[kind] = found.get(kind, 0) + 1
    return found


def gateways(house: House, network: str = "bridge") -> list[str]:
    config = house.daemon.get(f"/networks/{network}").json()["IPAM"]["Config"]
    return [one["Gateway"] for one in config]


def test_localhost_is_both_families(six: House) -> None:
    serve(six, ECHO, "7/udp", ("", "5353"), ("::1", "5354"))
    four, gate6 = gateways(six)
    with ExitStack() as stack:
        for host, source in (("127.0.0.1", four), ("::1", gate6)):
            sock = stack.enter_context(client(six, host, 5353))
            assert say(sock).decode().split()[0] == source
            for data in (b"", b"x", os.urandom(60000)):
                assert say(sock, data) == data
        # Everybody has what is their own, in turn.
        every = [stack.enter_context(client(six, "::1", port)) for port in (5353, 5354) * 10]
        assert len({say(sock) for sock in every}) == len(every)
        for number, sock in enumerate(every):
            sock.send(b"%d" % number)
        assert [sock.recv(99) for sock in every] == [b"%d" % number for number in range(20)]
        # Elsewhere 5354 is not published.
        with client(six, gate6, 5354) as sock, pytest.raises(ConnectionRefusedError):
            say(sock)


def test_an_answer_comes_from_where_the_question_went(six: House) -> None:
    serve(six, ECHO, "7/udp", ("", "5353"))
    six.run("ip", "address", "add", "2001:db8::1/128", "dev", "lo", "nodad")
    try:
        with six.inside():
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(60)
            sock.bind(("2001:db8::1", 0))
            sock.sendto(b"hello", ("::1", 5353))
            assert sock.recvfrom(99)[:2] == (b"hello", ("::1", 5353, 0, 0))
    finally:
        six.run("ip", "address", "del", "2001:db8::1/128", "dev", "lo")


def test_a_port_where_nobody_listens_is_refused_on_both(six: House) -> None:
    serve(six, SERVE, "9/udp", ("", "5353"))
    for host in ("127.0.0.1", "::1"):
        with client(six, host, 5353) as sock:
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    say(sock)


def test_a_flow_ends_when_it_is_idle_as_in_the_kernel(six: House) -> None:
    try:
        idle(six, 1)
        container = serve(six, ECHO, "7/udp", ("::1", "5353"))
        with client(six, "::1", 5353) as answered, client(six, "::1", 5353) as mute:
            first = say(answered)
            mute.send(b"note")
            six.daemon.wait_for(lambda: len(six.daemon.logs(container).split()) == 3)
            # The one that nobody answers goes, the one that was answered stays.
            six.daemon.wait_for(lambda: sockets(six).get("ESTAB") == 1)
            assert say(answered) == first
            assert say(mute).decode() not in six.daemon.logs(container)
    finally:
        idle(six, 3600)


def test_there_are_only_so_many_flows_and_who_comes_last_is_served(six: House) -> None:
    serve(six, ECHO, "7/udp", ("", "5353"))
    with ExitStack() as stack:
        for _ in range(600):
            assert say(stack.enter_context(client(six, "::1", 5353)), b"hello") == b"hello"
        assert sockets(six)["ESTAB"] == 512


def test_without_a_daemon_it_is_refused_and_with_the_next_one_carried(six: House) -> None:
    container = serve(six, ECHO, "7/udp", ("", "5353"))
    with client(six, "::1", 5353) as sock:
        assert say(sock, b"one") == b"one"
        six.daemon.kill()
        with pytest.raises(ConnectionRefusedError):
            say(sock)
        six.daemon.start()
        assert say(sock, b"two") == b"two"
        six.daemon.post(f"/containers/{container}/kill")
        six.daemon.wait_for(lambda: not sockets(six))
        with pytest.raises(ConnectionRefusedError):
            say(sock)


def test_who_has_no_address_of_ipv6_is_localhost_all_the_same(six: House) -> None:
    """As behind dockerd's proxy; a program that has that port of ``::1`` keeps it."""
    (gateway,) = gateways(six, "four")
    serve(six, SERVE, "7/tcp", ("", "8080"), ("127.0.0.1", "8081"), ("::1", "8082"), mode="four")
    serve(six, ECHO, "7/udp", ("", "8080"), ("::1", "8082"), mode="four")
    assert [ask(six, host, 8080) for host in ("127.0.0.1", "::1")] == [gateway] * 2
    assert "refused" in ask(six, "::1", 8081)
    assert (ask(six, "::1", 8082), "refused" in ask(six, "127.0.0.1", 8082)) == (gateway, True)
    for port in (8080, 8082):
        with client(six, "::1", port) as sock:
            assert say(sock).decode().split()[0] == gateway
    binding: Any = {"7/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}
    other = six.daemon.create(
        "true", HostConfig={"NetworkMode": "default", "PortBindings": binding}
    )
    answer = six.daemon.post(f"/containers/{other}/start")
    assert (answer.status, "it is container " in answer.message) == (500, True), answer.body
    six.daemon.remove_all()
    with six.inside():
        theirs = socket.create_server(("::1", 8080), family=socket.AF_INET6)
    with theirs:
        serve(six, SERVE, "7/tcp", ("", "8080"), mode="four")
        assert ask(six, "127.0.0.1", 8080) == gateway
