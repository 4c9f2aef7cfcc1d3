"""The house on a street: another host on its wire, for tests of what leaves the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.network.house import ASK, ECHO, House

__all__ = ["MACHINE", "NEIGHBOUR", "SERVER", "Street", "shared_street", "street"]

MACHINE, NEIGHBOUR = "192.0.2.2", "192.0.2.1"
SERVER = ECHO[-1].replace("7", "int(__import__('sys').argv[1])")


class Street:
    """The house, and another host on its wire."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.host = f"{house.name}-n"
        subprocess.run(["ip", "netns", "add", self.host], check=True)
        house.run("ip", "link", "add", "wire", "type", "veth", "peer", "eth0", "netns", self.host)
        house.run("ip", "address", "add", f"{MACHINE}/24", "dev", "wire")
        house.run("ip", "link", "set", "wire", "up")
        self.neighbour("ip", "address", "add", f"{NEIGHBOUR}/24", "dev", "eth0")
        self.neighbour("ip", "link", "set", "eth0", "up")
        # A neighbour who knows where our containers are, and has a route of its own to them.
        self.neighbour("ip", "route", "add", "default", "via", MACHINE)

    def neighbour(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.host, *words],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip

    def place(self, who: str) -> list[str]:
        """How to be in somebody's network: ``machine``, ``neighbour``, or a container's ID."""
        if who == "machine":
            return list(self.house.enter)
        if who == "neighbour":
            return ["nsenter", f"--net=/run/netns/{self.host}"]
        return ["nsenter", "-t", str(self.house.daemon.state(who)["Pid"]), "-n"]

    def reaches(self, who: str, host: str, port: int = 7) -> str:
        """As whom the server at ``host`` sees ``who``; "" when it does not answer."""
        return self.asks(self.place(who), host, port)

    def asks(self, place: list[str], host: str, port: int) -> str:
        """The same for who is in the network that ``place`` leads to."""
        done = subprocess.run(
            [*place, "python3", "-c", ASK, host, str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout

    def serve(self, who: str, port: int) -> subprocess.Popen[str]:
        server = subprocess.Popen(
            [*self.place(who), "python3", "-u", "-c", SERVER, str(port)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        return server


@pytest.fixture
def street(own_house: House) -> Iterator[Street]:
    one = Street(own_house)
    try:
        own_house.daemon.start()
        yield one
    finally:
        subprocess.run(["ip", "netns", "delete", one.host], check=True)


@pytest.fixture(scope="module")
def shared_street(shared_house: House) -> Iterator[Street]:
    """One for a module's tests, which leave it as it was."""
    one = Street(shared_house)
    try:
        yield one
    finally:
        subprocess.run(["ip", "netns", "delete", one.host], check=True)
