"""Gateway modes of bridges: who reaches which port of whom, and as whom, IPv4 and IPv6.

A column of ``TABLE`` is who asks, as in ``test_matrix``: the machine, another host with routes of
its own to each container, ``other`` on a network of the usual mode, and ``inner`` on an internal
one. Ports 7 are published, ports 9 are not.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sampan.kernel.netns import Inside
from tests.network.street import MACHINE, NEIGHBOUR
from tests.network.test_matrix import PROBE, SERVE
from tests.network.test_user_networks import inside, make, on, subnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.network.street import Street

pytestmark = pytest.mark.root

MODE = "com.docker.network.bridge.gateway_mode_ipv"
NETWORKS = {
    # name: (number, modes of IPv4 and IPv6, internal)
    "plain": (80, "nat", "nat", False),
    "direct": (81, "routed", "routed", False),
    "mixed": (82, "nat-unprotected", "routed", False),
    "inward": (83, "nat", "routed", True),
}
CONTAINERS = {"other": "plain", "r": "direct", "m": "mixed", "inner": "inward"}
PLACES = {"neighbour": NEIGHBOUR, "machine": MACHINE, "neighbour6": "2001:db8::1",
          "machine6": "2001:db8::2"}  # fmt: skip
for _name, _network in CONTAINERS.items():
    _number = NETWORKS[_network][0]
    PLACES |= {_name: f"10.{_number}.0.10", f"{_name}6": f"fd{_number}::10"}
    PLACES |= {f"{_name}'s": f"10.{_number}.0.1", f"{_name}'s6": f"fd{_number}::1"}
NAMES = {address: name for name, address in PLACES.items()}
# r's are 8081, m's 8082; the machine's own servers listen at 9.
TABLE = """
                machine   neighbour   other     inner  r         m
r 7             r's       neighbour   r's       -      r         r's
r 9             r's       -           -         -      r         -
r6 7            r's6      neighbour6  r's6      -      r6        m6
r6 9            r's6      -           -         -      r6        -
machine 8081    -         -           -         -      -         -
machine6 8081   -         -           -         -      -         -
m 7             m's       neighbour   -         -      -         m
m 9             m's       neighbour   -         -      -         m
m6 7            m's6      neighbour6  m's6      -      r6        m6
m6 9            m's6      -           -         -      -         m6
machine 8082    machine   neighbour   m's       -      r         m's
machine6 8082   -         -           -         -      -         -
inner 9         inner's   -           -         inner  -         -
neighbour 9     machine   neighbour   machine   -      r         machine
neighbour6 9    machine6  neighbour6  machine6  -      r6        m6
"""
WHO, *_LINES = (line.split() for line in TABLE.strip().splitlines())
ROWS = {(line[0], int(line[1])): dict(zip(WHO, line[2:], strict=True)) for line in _LINES}


@pytest.fixture(scope="module")
def avenue(shared_street: Street) -> Iterator[Street]:
    """The street with IPv6."""
    house = shared_street.house
    house.run("ip", "address", "add", "2001:db8::2/64", "dev", "wire", "nodad")
    for words in ("address add 2001:db8::1/64 dev eth0 nodad", "link set lo up",
                  "route add default via 2001:db8::2"):  # fmt: skip
        shared_street.neighbour("ip", *words.split())
    yield shared_street
    house.daemon.remove_all()
    assert house.daemon.post("/networks/prune").status == 200


def modes(four: str = "", six: str = "") -> dict[str, str]:
    return {f"{MODE}4": four, f"{MODE}6": six}


def serve(street: Street, who: str, *ports: int) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [*street.place(who), "python3", "-c", SERVE, *map(str, ports)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    return server


def end(*servers: subprocess.Popen[str]) -> None:
    for server in servers:
        server.kill()
        server.communicate()


def column(street: Street, who: str, place: str) -> dict[tuple[str, int], str]:
    """What is to answer may take its time; what is not to is given two seconds."""
    asked = [
        (PLACES[host], port, 2 if row[who] == "-" else 60) for (host, port), row in ROWS.items()
    ]
    done = subprocess.run(
        [*street.place(place), "python3", "-c", PROBE, json.dumps(asked)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = {tuple(place.split()): seen for place, seen in json.loads(done.stdout).items()}
    return {
        (NAMES[host], int(port)): NAMES.get(seen, seen) or "-"
        for (host, port), seen in found.items()
    }


def test_who_reaches_whom(avenue: Street) -> None:
    daemon = avenue.house.daemon
    for name, (number, four, six, internal) in NETWORKS.items():
        make(
            daemon, name, EnableIPv6=True, Internal=internal, Options=modes(four, six),
            IPAM={"Config": [{"Subnet": f"10.{number}.0.0/24"}, {"Subnet": f"fd{number}::/64"}]},
        )  # fmt: skip
    ids = {"machine": "machine", "neighbour": "neighbour"}
    for name, network in CONTAINERS.items():
        ipam = {"IPv4Address": PLACES[name], "IPv6Address": PLACES[f"{name}6"]}
        settings = on(network, IPAMConfig=ipam)
        if name in ("r", "m"):
            port = {"r": "8081", "m": "8082"}[name]
            settings["HostConfig"]["PortBindings"] = {"7/tcp": [{"HostPort": port}]}
        ids[name] = daemon.run("python3", "-c", SERVE, "7", "9", **settings)
        daemon.wait_for(lambda name=name: "listening" in daemon.logs(ids[name]), 60)
    servers = [serve(avenue, who, 9) for who in ("machine", "neighbour")]
    try:
        with ThreadPoolExecutor(len(WHO)) as pool:
            columns = list(pool.map(lambda who: column(avenue, who, ids[who]), WHO))
        seen = {place: {who: columns[n][place] for n, who in enumerate(WHO)} for place in ROWS}
        assert seen == ROWS
        for who, answers in (("r", True), ("m6", True), ("other", False)):
            assert echoes(avenue, PLACES[who]) == answers
        # A port of the machine's is shown where there is one only, as Docker does.
        shown = daemon.get(f"/containers/{ids['m']}/json").json()["NetworkSettings"]["Ports"]
        assert shown == {
            "7/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8082"}, {"HostIp": "::", "HostPort": ""}]
        }
        listed = {one["Id"]: one["Ports"] for one in daemon.get("/containers/json").json()}
        assert listed[ids["r"]] == [
            {"IP": "0.0.0.0", "PrivatePort": 7, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 7, "Type": "tcp"},
        ]
        # What was open is so with the next daemon too, and not for who has the address later.
        daemon.kill()
        daemon.start()
        assert avenue.reaches("neighbour", PLACES["r"], 7) == NEIGHBOUR
        daemon.delete(f"/containers/{ids['r']}", force=1)
        daemon.wait_for(lambda: PLACES["r"] not in avenue.house.leases())
        ipam = {"IPv4Address": PLACES["r"]}
        late = daemon.run("python3", "-c", SERVE, "7", **on("direct", IPAMConfig=ipam))
        daemon.wait_for(lambda: "listening" in daemon.logs(late), 60)
        assert avenue.reaches("machine", PLACES["r"], 7) == PLACES["r's"]
        assert avenue.reaches("neighbour", PLACES["r"], 7) == ""
    finally:
        end(*servers)
        daemon.remove_all()


def echoes(street: Street, host: str) -> bool:
    """Whether ``host`` answers the neighbour's ICMP echo request (RFC 792, RFC 4443)."""
    six = ":" in host
    with open(f"/run/netns/{street.host}", "rb") as file, Inside(file.fileno()):
        family = socket.AF_INET6 if six else socket.AF_INET
        protocol = socket.getprotobyname("ipv6-icmp" if six else "icmp")
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    with sock:
        kind = 128 if six else 8
        body = struct.pack(">BBHHH", kind, 0, 0, 7, 1)
        total = sum(struct.unpack(">4H", body))
        sock.sendto(struct.pack(">BBHHH", kind, 0, ~total & 0xFFFF, 7, 1), (host, 0))
        sock.settimeout(2)
        try:
            while True:
                data, who = sock.recvfrom(999)
                if who[0] == host and (data if six else data[20:])[0] == (129 if six else 0):
                    return True
        except TimeoutError:
            return False


def test_an_isolated_bridge_has_no_address_and_takes_nothing(avenue: Street) -> None:
    house, daemon = avenue.house, avenue.house.daemon
    name = {"com.docker.network.bridge.name": "sealed0"}
    make(daemon, "sealed", Internal=True, EnableIPv6=True,
         Options={**modes("isolated", "isolated"), **name},
         IPAM={"Config": [{"Subnet": "10.84.0.0/24"}, {"Subnet": "fd84::/64"}]})  # fmt: skip
    first = daemon.run("python3", "-c", SERVE, "9", **on("sealed"))
    second = daemon.run("sleep", "1000", **on("sealed"))
    daemon.wait_for(lambda: "listening" in daemon.logs(first), 60)
    assert house.ip("address", "show", "dev", "sealed0")[0]["addr_info"] == []
    assert all(
        "Gateway" not in one for one in daemon.get("/networks/sealed").json()["IPAM"]["Config"]
    )
    # So the first address is free.
    assert avenue.reaches(second, "10.84.0.1", 9) == "10.84.0.2"
    assert avenue.reaches(second, "fd84::1", 9) == "fd84::2"
    house.run("ip", "route", "add", "10.84.0.0/24", "dev", "sealed0")
    assert avenue.reaches("machine", "10.84.0.1", 9) == ""
    # Who sends to the bridge's MAC address is not heard.
    mac = house.links()["sealed0"]["address"]
    for words in (
        f"neigh add 10.84.0.99 lladdr {mac} dev eth0",
        "route add default via 10.84.0.99",
    ):
        assert inside(daemon, second, "ip", *words.split()) == ""
    with house.inside():
        server = socket.socket(type=socket.SOCK_DGRAM)
    with server:
        server.bind((MACHINE, 0))
        server.settimeout(60)
        place = (MACHINE, server.getsockname()[1])
        send = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {place})"
        assert inside(daemon, second, "python3", "-c", send) == ""
        avenue.neighbour("python3", "-c", send)
        assert server.recvfrom(9)[1][0] == NEIGHBOUR
    daemon.remove_all()


def test_a_gateway_that_is_somebody_elses_is_not_the_bridges(avenue: Street) -> None:
    """``inhibit_ipv4``: routes lead there, and the bridge has no IPv4 address."""
    house, daemon = avenue.house, avenue.house.daemon
    options = {
        "com.docker.network.bridge.inhibit_ipv4": "true",
        "com.docker.network.bridge.name": "given0",
    }
    make(daemon, "given", Options=options, IPAM=subnet("10.85.0.0/24", Gateway="10.85.0.9"))
    container = daemon.run("sleep", "1000", **on("given"))
    assert house.ip("address", "show", "dev", "given0")[0]["addr_info"] == []
    assert "default via 10.85.0.9" in inside(daemon, container, "ip", "route")
    daemon.remove_all()


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"Options": modes("isolated")}, 400, "'isolated' can only be used for an internal"),
        ({"Options": modes(six="isolated")}, 400, "'isolated' can only be used for an internal"),
        ({"Options": modes("router")}, 400, "'router' is not a gateway mode: nat, "),
        ({"Driver": "macvlan", "Options": modes("routed")}, 501, "not supported by the driver"),
    ],
)  # fmt: skip
def test_what_is_no_mode_is_refused(
    avenue: Street, more: dict[str, Any], status: int, words: str
) -> None:
    answer = avenue.house.daemon.post("/networks/create", {"Name": "bad", **more})
    assert (answer.status, words in answer.message) == (status, True), answer.body
