"""``::1`` and published ports: what the kernel does not lead there is carried."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import ASK, DEFAULT, address
from tests.network.test_matrix import SERVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.network.house import House

pytestmark = pytest.mark.root

DIGEST = (
    "import hashlib, socket\n"
    "server = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)\n"
    "print('listening', flush=True)\n"
    "while True:\n"
    "    peer, who = server.accept()\n"
    "    data = b''.join(iter(lambda: peer.recv(65536), b''))\n"
    "    peer.sendall(hashlib.sha256(data).hexdigest().encode() + data)\n"
    "    peer.close()\n"
)
"""Says what it was sent, behind its digest, once the client has said all."""


@pytest.fixture
def six(own_house: House) -> Iterator[House]:
    own_house.daemon.options = ("--ipv6",)
    own_house.daemon.start()
    yield own_house


def publish(house: House, script: str, *bindings: tuple[str, str]) -> str:
    ports = [{"HostIp": host, "HostPort": port} for host, port in bindings]
    host = {**DEFAULT, "PortBindings": {"7/tcp": ports}}
    container = house.daemon.run("python3", "-c", script, "7", HostConfig=host)
    house.daemon.wait_for(lambda: "listening" in house.daemon.logs(container), 60)
    return container


def ask(house: House, host: str, port: int) -> str:
    done = house.run("python3", "-c", ASK, host, str(port), check=False)
    return done.stdout or done.stderr.strip().rpartition("\n")[2]


def connect(house: House, port: int) -> socket.socket:
    with house.inside():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect(("::1", port))
    return sock


def test_all_that_is_said_arrives_and_so_does_its_end(six: House) -> None:
    publish(six, DIGEST, ("", "8080"))
    data = bytes(range(256)) * 8192
    with connect(six, 8080) as sock, sock.makefile("rb") as file:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = file.read()
    assert answer == hashlib.sha256(data).hexdigest().encode() + data


def test_without_a_daemon_it_is_refused_at_once_and_with_the_next_one_carried(six: House) -> None:
    daemon = six.daemon
    container = publish(six, SERVE, ("", "8080"), ("::1", "8081"))
    gateways = [one["Gateway"] for one in daemon.get("/networks/bridge").json()["IPAM"]["Config"]]
    for _ in range(2):
        assert [ask(six, host, 8080) for host in ("127.0.0.1", "::1")] == gateways
        assert ask(six, "::1", 8081) == gateways[1]
        assert "refused" in ask(six, gateways[1], 8081)  # published for the machine itself only
        daemon.kill()
        assert ask(six, "127.0.0.1", 8080) == gateways[0]
        assert "refused" in ask(six, "::1", 8080)
        daemon.start()
    shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]
    assert {"HostIp": "::1", "HostPort": "8081"} in shown["7/tcp"]
    # Who is connected hears of the end, and the port is another's then.
    with connect(six, 8081) as sock:
        assert sock.recv(99).decode() == gateways[1]
    silent = "import time; " + SERVE.replace("peer.sendall", "time.sleep(1000); peer.sendall")
    daemon.delete(f"/containers/{container}", force=1)
    last = publish(six, silent, ("::1", "8081"))
    with connect(six, 8081) as sock:
        sock.sendall(b"x")
        daemon.post(f"/containers/{last}/kill")
        try:
            assert sock.recv(99) == b""
        except ConnectionResetError:
            pass
    assert address(daemon, last) == ""


def test_what_nobody_carries_is_refused_by_name(six: House) -> None:
    binding: Any = {"7/sctp": [{"HostIp": "::1", "HostPort": "8080"}]}
    container = six.daemon.create("true", HostConfig={**DEFAULT, "PortBindings": binding})
    answer = six.daemon.post(f"/containers/{container}/start")
    assert (answer.status, "only TCP and UDP are carried" in answer.message) == (500, True)
