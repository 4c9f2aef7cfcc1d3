"""Published ports: who reaches which, what is said of one that is taken, and their end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.network.house import ASK, DEFAULT, ECHO, House, address
from tests.network.street import MACHINE, NEIGHBOUR, Street, street

__all__ = ["street"]

pytestmark = pytest.mark.root

Bindings = dict[str, list[dict[str, str]]]
SLEEP = ("sleep", "1000")


def bind(outside: str = "", host: str = "") -> list[dict[str, str]]:
    return [{"HostIp": host, "HostPort": outside}]


def published(bindings: Bindings, **more: Any) -> dict[str, Any]:
    return {"HostConfig": {**DEFAULT, "PortBindings": bindings, **more}}


def serve(house: House, bindings: Bindings, name: str = "") -> str:
    container = house.daemon.run(*ECHO, name=name, **published(bindings))
    house.daemon.wait_for(lambda: "listening" in house.daemon.logs(container))
    return container


def ports(house: House, container: str) -> Any:
    return house.daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]


def elements(house: House) -> str:
    return house.run("nft", "list", "ruleset").stdout


def ask(house: House, host: str, port: int) -> str:
    return house.run("python3", "-c", ASK, host, str(port), check=False).stdout


def test_who_reaches_which_port(street: Street) -> None:
    """docs/network.md, "What is reachable from where"; as whom the server sees who asks."""
    house = street.house
    server = serve(
        house,
        {"7/tcp": [*bind("8080"), *bind("8081", "127.0.0.1"), *bind("8082", MACHINE)]},
    )
    other = house.daemon.run(*SLEEP, HostConfig=DEFAULT)
    inside, gateway = address(house.daemon, server), "172.20.0.1"
    table = {
        # who: {(host, port): as whom}
        "machine": {
            ("127.0.0.1", 8080): gateway, (MACHINE, 8080): MACHINE, (gateway, 8080): gateway,
            ("127.0.0.1", 8081): gateway, (MACHINE, 8081): "",
            ("127.0.0.1", 8082): "", (MACHINE, 8082): MACHINE, (inside, 7): gateway,
        },
        "neighbour": {
            (MACHINE, 8080): NEIGHBOUR, (MACHINE, 8081): "", (MACHINE, 8082): NEIGHBOUR,
            (MACHINE, 7): "", (inside, 7): "", (inside, 8080): "",
        },
        other: {
            (gateway, 8080): gateway, (MACHINE, 8080): gateway, (MACHINE, 8082): gateway,
            (MACHINE, 8081): "", ("127.0.0.1", 8081): "",
            (inside, 7): address(house.daemon, other),
        },
        server: {(MACHINE, 8080): gateway, (gateway, 8080): gateway, (MACHINE, 8081): ""},
    }  # fmt: skip
    expected = {(who, *place): seen for who, row in table.items() for place, seen in row.items()}
    with ThreadPoolExecutor(32) as pool:  # what is not reached takes until its time is out
        found = pool.map(lambda row: street.reaches(*row), expected)
    assert dict(zip(expected, found, strict=True)) == expected
    # One who routes 127.0.0.0/8 to us gets no further.
    street.neighbour("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    street.neighbour("ip", "route", "add", "127.0.0.0/8", "via", MACHINE)
    assert street.reaches("neighbour", "127.0.0.1", 8081) == ""
    house.daemon.post(f"/containers/{server}/stop?t=0")
    assert street.reaches("neighbour", MACHINE, 8080) == ""
    house.daemon.wait_for(lambda: "8080" not in elements(house))


def test_datagrams_come_from_whom_they_come(street: Street) -> None:
    house = street.house
    script = (
        "import socket\n"
        "server = socket.socket(type=socket.SOCK_DGRAM)\n"
        "server.bind(('', 7))\n"
        "print('listening', flush=True)\n"
        "while True:\n"
        "    _, who = server.recvfrom(9)\n"
        "    server.sendto(who[0].encode(), who)\n"
    )
    container = house.daemon.run("python3", "-c", script, **published({"7/udp": bind("8080")}))
    house.daemon.wait_for(lambda: "listening" in house.daemon.logs(container))
    client = (
        "import socket\n"
        "peer = socket.socket(type=socket.SOCK_DGRAM)\n"
        "peer.settimeout(60)\n"
        "peer.connect(('%s', 8080))\n"
        "peer.send(b'x')\n"
        "print(peer.recv(99).decode(), end='')\n"
    )
    assert street.neighbour("python3", "-c", client % MACHINE).stdout == NEIGHBOUR
    assert house.run("python3", "-c", client % "127.0.0.1").stdout == "172.20.0.1"


def test_a_flow_of_datagrams_finds_who_has_the_port_now(street: Street) -> None:
    """The kernel keeps the way of a flow that goes on: here one socket's, that never waits long."""
    daemon = street.house.daemon
    daemon.run(*SLEEP, HostConfig=DEFAULT)  # from now on flows are tracked
    server = (
        "import socket, sys\n"
        "server = socket.socket(type=socket.SOCK_DGRAM)\n"
        "server.bind(('', 7))\n"
        "print('listening', flush=True)\n"
        "while True:\n"
        "    _, who = server.recvfrom(9)\n"
        "    server.sendto(sys.argv[1].encode(), who)\n"
    )
    client = (
        "import socket\n"
        "peer = socket.socket(type=socket.SOCK_DGRAM)\n"
        "peer.settimeout(1)\n"
        "peer.bind(('', 5555))\n"
        f"peer.sendto(b'x', ('{MACHINE}', 8080))\n"
        "try: print(peer.recvfrom(99)[0].decode(), end='')\n"
        "except TimeoutError: pass\n"
    )

    def answer() -> str:
        return street.neighbour("python3", "-c", client).stdout

    def tracked() -> bool:
        table = street.house.run("cat", "/proc/net/nf_conntrack").stdout
        return "sport=5555 dport=8080" in table

    assert answer() == ""
    assert tracked()
    for name in ("first", "second"):
        daemon.run("python3", "-c", server, name, name=name, **published({"7/udp": bind("8080")}))
        daemon.wait_for(lambda: answer() == name)  # noqa: B023
        assert tracked()
        daemon.post(f"/containers/{name}/stop?t=0")
        daemon.wait_for(lambda: not tracked())
        daemon.run(*SLEEP, name=f"behind-{name}", HostConfig=DEFAULT)  # who has its address now
        assert answer() == ""


SCTP_SERVER = (
    "python3", "-u", "-c",
    "import socket, struct\n"
    "wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)\n"
    "print('listening')\n"
    "while True:\n"
    "    packet, who = wire.recvfrom(999)\n"
    "    print(who[0], *struct.unpack('>HH', packet[20:24]))\n",
)  # fmt: skip
# RFC 9260: an INIT chunk behind the common header, whose checksum is CRC32c.
SCTP_CLIENT = (
    "import socket, struct, sys\n"
    "def crc(data):\n"
    "    value = 0xFFFFFFFF\n"
    "    for byte in data:\n"
    "        value ^= byte\n"
    "        for _ in range(8):\n"
    "            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)\n"
    "    return value ^ 0xFFFFFFFF\n"
    "init = struct.pack('>BBHIIHHI', 1, 0, 20, 7, 65536, 1, 1, 1)\n"
    "head = struct.pack('>HHI', 5000, 99, 0)\n"
    "sum = struct.pack('<I', crc(head + bytes(4) + init))\n"
    "wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)\n"
    "wire.sendto(head + sum + init, (sys.argv[1], 0))\n"
)


def test_sctp_is_led_to_the_container(street: Street) -> None:
    """In the kernel that need not have SCTP itself: the packets are made by hand."""
    daemon = street.house.daemon
    container = daemon.run(*SCTP_SERVER, **published({"9/sctp": bind("99")}))
    daemon.wait_for(lambda: "listening" in daemon.logs(container))

    def arrived() -> bool:
        street.neighbour("python3", "-c", SCTP_CLIENT, MACHINE)
        return f"{NEIGHBOUR} 5000 9\n" in daemon.logs(container)

    daemon.wait_for(arrived)


def test_it_is_shown_where_it_is_published(house: House) -> None:
    bindings = {"80/tcp": bind("8080"), "53/udp": bind("5353", "127.0.0.1"), "9/sctp": bind("99")}
    container = house.daemon.run(
        *SLEEP, name="shown", **published(bindings), ExposedPorts={"443/tcp": {}}
    )
    assert ports(house, container) == {
        "80/tcp": bind("8080", "0.0.0.0"),
        "53/udp": bind("5353", "127.0.0.1"),
        "9/sctp": bind("99", "0.0.0.0"),
        "443/tcp": None,
    }
    assert house.daemon.docker("port", "shown", "80").stdout == "0.0.0.0:8080\n"
    shown = house.daemon.docker("ps", "--format", "{{.Ports}}").stdout.strip()
    assert set(shown.split(", ")) == {
        "443/tcp", "127.0.0.1:5353->53/udp", "0.0.0.0:8080->80/tcp", "0.0.0.0:99->9/sctp",
    }  # fmt: skip
    found = house.daemon.get("/containers/json", filters='{"publish":["8080"]}').json()
    assert [one["Id"] for one in found] == [container]
    house.daemon.post(f"/containers/{container}/stop?t=0")
    assert ports(house, container) == {}


def test_a_port_that_is_taken_is_told_with_who_has_it(house: House) -> None:
    daemon = house.daemon
    daemon.run(*SLEEP, name="first", **published({"7/tcp": bind("8080")}))
    for host in ("", "127.0.0.1"):
        second = daemon.create(*SLEEP, **published({"7/tcp": bind("8080", host)}))
        refused = daemon.request("POST", f"/containers/{second}/start", judge=False)
        assert refused.status == 500
        assert "driver failed programming external connectivity on endpoint" in refused.message
        place = f"{host or '0.0.0.0'}:8080"
        assert f"Bind for {place} failed: port is already allocated" in refused.message
        assert "container first" in refused.message
        assert daemon.state(second)["Status"] == "created"
    daemon.post("/containers/first/stop?t=0")
    daemon.post(f"/containers/{second}/start")


def test_a_port_that_a_process_has_is_told_and_ours_is_not_to_be_had(street: Street) -> None:
    daemon = street.house.daemon
    server = street.serve("machine", 8080)
    try:
        container = daemon.create(*SLEEP, **published({"7/tcp": bind("8080")}))
        refused = daemon.request("POST", f"/containers/{container}/start", judge=False)
        assert refused.status == 500
        assert "address already in use" in refused.message
        assert f"python3 (PID {server.pid}) listens there" in refused.message
    finally:
        server.kill()
        server.wait()
    daemon.wait_for(lambda: street.reaches("machine", "127.0.0.1", 8080) == "")
    daemon.post(f"/containers/{container}/start")
    script = (
        "import socket\n"
        "one = socket.socket()\n"
        "one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "one.bind(('', 8080))\n"
        "one.listen()\n"
    )
    assert "already in use" in street.house.run("python3", "-c", script, check=False).stderr


def test_any_port_and_a_range_are_chosen_of_what_is_free(house: House) -> None:
    daemon = house.daemon
    first, last = 61000, 61002
    found = set()
    for _ in range(3):
        container = daemon.run(*SLEEP, **published({"7/tcp": bind(f"{first}-{last}")}))
        found.add(int(ports(house, container)["7/tcp"][0]["HostPort"]))
    assert found == {61000, 61001, 61002}
    fourth = daemon.create(*SLEEP, **published({"7/tcp": bind(f"{first}-{last}")}))
    refused = daemon.request("POST", f"/containers/{fourth}/start", judge=False)
    assert (refused.status, "all ports are allocated" in refused.message) == (500, True)
    low, high = map(int, house.run("sysctl", "-n", "net.ipv4.ip_local_port_range").stdout.split())
    every = daemon.run(
        *SLEEP, **published({}, PublishAllPorts=True), ExposedPorts={"80-81/tcp": {}, "5/udp": {}}
    )
    shown = ports(house, every)
    assert set(shown) == {"80/tcp", "81/tcp", "5/udp"}
    assert all(low <= int(one[0]["HostPort"]) <= high for one in shown.values())


def test_a_port_outlives_restarts_and_daemons(street: Street) -> None:
    house, daemon = street.house, street.house.daemon
    container = serve(house, {"7/tcp": bind("8080")})
    daemon.post(f"/containers/{container}/restart?t=0")
    daemon.wait_for(lambda: street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR)
    daemon.kill()
    assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR  # without a daemon
    house.run("nft", "flush", "ruleset")
    daemon.start()
    assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR
    assert ports(house, container) == {"7/tcp": bind("8080", "0.0.0.0")}
    second = daemon.create(*SLEEP, **published({"7/tcp": bind("8080")}))
    assert daemon.request("POST", f"/containers/{second}/start", judge=False).status == 500
    house.run("nft", "flush", "ruleset")  # and a start mends it
    daemon.run(*SLEEP, **published({"7/tcp": bind("8081")}))
    assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR


@pytest.fixture
def ruleless(own_house: House) -> Iterator[House]:
    own_house.daemon.options = ("--firewall", "none")
    own_house.daemon.start()
    yield own_house


def test_without_rules_of_ours_nothing_is_published(ruleless: House) -> None:
    daemon = ruleless.daemon
    container = daemon.create(*SLEEP, **published({"7/tcp": bind("8080")}))
    refused = daemon.request("POST", f"/containers/{container}/start", judge=False)
    assert refused.status == 503
    assert "--firewall none" in refused.message
    assert not ruleless.leases()
    localnet = ruleless.run("sysctl", "-n", "net.ipv4.conf.sampan0.route_localnet").stdout
    assert localnet == "0\n"


def test_ports_of_the_machines_own_network_are_discarded_with_a_warning(house: House) -> None:
    host = {"NetworkMode": "host", "PortBindings": {"7/tcp": bind("8080")}}
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": host}
    made = house.daemon.post("/containers/create", body).json()
    assert made["Warnings"] == ["Published ports are discarded when using host network mode"]
