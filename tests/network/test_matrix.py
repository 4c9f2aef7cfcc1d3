"""Who reaches what: hosts on one switch, two of them with engines, and containers.

The table is the test: a column is who asks, a row what is asked for, and a cell as whom the server
sees who asks, "-" where it is not reached. docs/network.md says why, "What is reachable from
where". Every cell is looked at once, all at the same time, before the first is judged.

``neighbour`` has a route of its own to each container, through us; so has ``far``, which has an
engine too, and ``guest`` is a container there. Of the machine's, ``web`` and ``peer`` are on one
network, ``other`` on another, ``inner`` and ``inmate`` on an internal one, ``alone`` and ``single``
on one with ICC off.
"""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import own_root
from tests.network.house import House
from tests.network.test_user_networks import make, on, subnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

# On the switch, and on our networks.
PLACES = {
    "neighbour": "192.0.2.1", "machine": "192.0.2.2", "far": "192.0.2.3",
    "neighbour6": "2001:db8::1", "machine6": "2001:db8::2", "far6": "2001:db8::3",
    "localhost": "127.0.0.1", "localhost6": "::1",
    "gate": "10.71.0.1", "web": "10.71.0.10", "peer": "10.71.0.11",
    "gate6": "fd71::1", "web6": "fd71::10", "peer6": "fd71::11",
    "gate2": "10.72.0.1", "other": "10.72.0.10",
    "gate26": "fd72::1", "other6": "fd72::10",
    "gate3": "10.73.0.1", "inner": "10.73.0.10", "inmate": "10.73.0.11",
    "gate4": "10.74.0.1", "alone": "10.74.0.10", "single": "10.74.0.11",
}  # fmt: skip
NAMES = {address: name for name, address in PLACES.items()}
NETWORKS = {
    "open": ("web", "peer"), "other": ("other",), "inner": ("inner", "inmate"),
    "apart": ("alone", "single"),
}  # fmt: skip
# Port 9 is published by nobody; the machine's own servers listen there too.
PUBLISHED = {
    "web": [("", 8080), ("127.0.0.1", 8081), (PLACES["machine"], 8082), (PLACES["machine6"], 8083)],
    "alone": [("", 8084)],
}
TABLE = """
                machine   neighbour   far   guest web      peer     other    inner  alone
web 7           gate      -           -     -     web      peer     -        -      -
web 9           gate      -           -     -     web      peer     -        -      -
web6 7          gate6     -           -     -     web6     peer6    -        -      -
web6 9          gate6     -           -     -     web6     peer6    -        -      -
other 9         gate2     -           -     -     -        -        other    -      -
other6 9        gate26    -           -     -     -        -        other6   -      -
inner 9         gate3     -           -     -     -        -        -        inner  -
inmate 9        gate3     -           -     -     -        -        -        inner  -
alone 7         gate4     -           -     -     -        -        -        -      alone
single 9        gate4     -           -     -     -        -        -        -      -
machine 8080    machine   neighbour   far   far   gate     gate     gate     -      gate
machine6 8080   machine6  neighbour6  far6  far6  gate6    gate6    gate6    -      -
localhost 8080  gate      -           -     -     -        -        -        -      -
gate 8080       gate      neighbour   far   far   gate     gate     gate     -      gate
machine 8081    -         -           -     -     -        -        -        -      -
localhost 8081  gate      -           -     -     -        -        -        -      -
machine 8082    machine   neighbour   far   far   gate     gate     gate     -      gate
localhost 8082  -         -           -     -     -        -        -        -      -
machine6 8083   machine6  neighbour6  far6  far6  gate6    gate6    gate6    -      -
machine 8083    -         -           -     -     -        -        -        -      -
machine 8084    machine   neighbour   far   far   gate4    gate4    gate4    -      -
machine 7       -         -           -     -     -        -        -        -      -
web 8080        -         -           -     -     -        -        -        -      -
machine 9       machine   neighbour   far   far   web      peer     other    -      alone
gate3 9         gate3     neighbour   far   far   web      peer     other    inner  alone
gate3 8080      gate3     neighbour   far   far   gate     gate     gate     -      gate
neighbour 9     machine   neighbour   far   far   machine  machine  machine  -      machine
neighbour6 9    machine6  neighbour6  far6  far6  machine6 machine6 machine6 -      -
"""
WHO, *_LINES = (line.split() for line in TABLE.strip().splitlines())
ROWS = {(line[0], int(line[1])): dict(zip(WHO, line[2:], strict=True)) for line in _LINES}

SERVE = """
import socket, sys, threading
def serve(server):
    while True:
        peer, who = server.accept()
        peer.sendall(who[0].removeprefix('::ffff:').encode())
        peer.close()
for port in sys.argv[1:]:
    server = socket.create_server(
        ('::', int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    threading.Thread(target=serve, args=(server,)).start()
print('listening', flush=True)
"""
PROBE = """
import json, socket, sys, threading
def probe(host, port, seconds):
    try:
        with socket.create_connection((host, port), seconds) as peer:
            found[f'{host} {port}'] = peer.recv(99).decode()
    except OSError:
        found[f'{host} {port}'] = ''
found = {}
threads = [threading.Thread(target=probe, args=one) for one in json.loads(sys.argv[1])]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(found))
"""


class Town:
    """The switch, the hosts, the containers; ``seen`` is the table as it is."""

    def __init__(self, quick: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.house = self._house(quick)
        self._enter = {"machine": [*self.house.enter]}
        self._switch = self._host("switch")
        self._on("switch", "ip link add br0 type bridge")
        self._on("switch", "ip link set br0 up")
        self._host("neighbour")
        far = self._house(quick)
        self._enter["far"] = [*far.enter]
        for number, who in enumerate(("neighbour", "machine", "far"), 1):
            self._wire(who, number)
        for who in ("neighbour", "far"):
            for route in ("10.71.0.0/16", "10.72.0.0/16", "10.73.0.0/16", "10.74.0.0/16"):
                self._on(who, f"ip route add {route} via {PLACES['machine']}")
            for route in ("fd71::/64", "fd72::/64"):
                self._on(who, f"ip route add {route} via {PLACES['machine6']}")
        self._settle(self.house.daemon.start())
        self._visit(far.daemon.start())
        for who in ("machine", "neighbour"):
            self._serve(who)
        with ThreadPoolExecutor(len(WHO)) as pool:
            rows = pool.map(self._probe, WHO)
        self.seen = {key: name for row in rows for key, name in row.items()}

    def _house(self, quick: Path) -> House:
        house = House(own_root(quick))
        self._stack.callback(house.close)
        return house

    def _host(self, who: str) -> str:
        name = f"{self.house.name}-{who}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        self._enter[who] = ["nsenter", f"--net=/run/netns/{name}"]
        self._on(who, "ip link set lo up")
        return name

    def _on(self, who: str, words: str) -> None:
        subprocess.run([*self._enter[who], *words.split()], check=True, timeout=60)

    def _wire(self, who: str, number: int) -> None:
        self._on(who, f"ip link add wire type veth peer port{number} netns {self._switch}")
        self._on("switch", f"ip link set port{number} master br0 up")
        self._on(who, f"ip address add {PLACES[who]}/24 dev wire")
        self._on(who, f"ip address add {PLACES[who + '6']}/64 dev wire nodad")
        self._on(who, "ip link set wire up")

    def _settle(self, daemon: Daemon) -> None:
        """The machine's networks and containers."""
        make(daemon, "open", EnableIPv6=True, IPAM=_subnets("10.71.0.0/24", "fd71::/64"))
        make(daemon, "other", EnableIPv6=True, IPAM=_subnets("10.72.0.0/24", "fd72::/64"))
        make(daemon, "inner", Internal=True, IPAM=subnet("10.73.0.0/24"))
        icc = {"com.docker.network.bridge.enable_icc": "false"}
        make(daemon, "apart", Options=icc, IPAM=subnet("10.74.0.0/24"))
        for network, names in NETWORKS.items():
            for name in names:
                fixed = {"IPv4Address": PLACES[name]}
                if f"{name}6" in PLACES:
                    fixed["IPv6Address"] = PLACES[f"{name}6"]
                self._run(daemon, name, on(network, IPAMConfig=fixed))

    def _visit(self, daemon: Daemon) -> None:
        make(daemon, "away", EnableIPv6=True)
        self._run(daemon, "guest", on("away"))

    def _run(self, daemon: Daemon, name: str, settings: dict[str, Any]) -> None:
        bindings = [
            {"HostIp": host, "HostPort": str(port)} for host, port in PUBLISHED.get(name, ())
        ]
        settings["HostConfig"]["PortBindings"] = {"7/tcp": bindings} if bindings else {}
        container = daemon.run("python3", "-c", SERVE, "7", "9", name=name, **settings)
        daemon.wait_for(lambda: "listening" in daemon.logs(container), 60)
        self._enter[name] = ["nsenter", "-t", str(daemon.state(container)["Pid"]), "-n"]

    def _serve(self, who: str) -> None:
        server = subprocess.Popen(
            [*self._enter[who], "python3", "-c", SERVE, "9"], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(server.wait)
        self._stack.callback(server.kill)
        assert server.stdout is not None
        self._stack.callback(server.stdout.close)
        assert server.stdout.readline() == "listening\n"

    def _probe(self, who: str) -> dict[tuple[str, str, int], str]:
        """Its column. What is to answer may take its time; what is not to is given two seconds."""
        asked = [
            (PLACES[host], port, 2 if row[who] == "-" else 60) for (host, port), row in ROWS.items()
        ]
        done = subprocess.run(
            [*self._enter[who], "python3", "-c", PROBE, json.dumps(asked)],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        return {
            (who, NAMES[place.split()[0]], int(place.split()[1])): NAMES.get(seen, seen) or "-"
            for place, seen in found.items()
        }


def _subnets(*texts: str) -> dict[str, Any]:
    return {"Config": [{"Subnet": text} for text in texts]}


@pytest.fixture(scope="module")
def town(quick: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(quick, stack)


@pytest.mark.parametrize(("host", "port"), list(ROWS), ids=[f"{a}:{b}" for a, b in ROWS])
def test_who_reaches(town: Town, host: str, port: int) -> None:
    assert {who: town.seen[who, host, port] for who in WHO} == ROWS[host, port]
