"""A daemon in a network namespace of its own: whatever a test makes, this machine's is untouched.

Inside, ``lo`` is up and nothing else; a test adds what it needs with ``ip``. The namespace has a
name (ip-netns(8)), so that a daemon that was killed is started again in the same one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sampan.kernel.netns import Inside
from tests.daemon_fixture import Daemon, own_root

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = iter(range(1, 1_000_000))


class House:
    """A namespace, by its name, and a daemon in it."""

    def __init__(self, root: Path, *options: str) -> None:
        self.name = f"sampan-test-{os.getpid()}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        # Not ip-netns-exec(8), which hides the control groups behind a new /sys.
        self.enter = ("nsenter", f"--net=/run/netns/{self.name}")
        self.run("ip", "link", "set", "lo", "up")
        self.daemon = self.another(root, *options)

    def another(self, root: Path, *options: str) -> Daemon:
        """A further daemon in the same namespace; the caller closes it."""
        daemon = Daemon(root, *options)
        daemon.wrapper = self.enter
        return daemon

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the namespace."""
        return subprocess.run(
            [*self.enter, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile."""
        with open(f"/run/netns/{self.name}", "rb") as file, Inside(file.fileno()):
            yield

    def ip(self, *words: str) -> Any:
        return json.loads(self.run("ip", "-j", "-d", *words).stdout or "[]")

    def links(self) -> dict[str, dict[str, Any]]:
        """The links but ``lo``, by name."""
        return {one["ifname"]: one for one in self.ip("link") if one["ifname"] != "lo"}

    def plugs(self) -> set[str]:
        return {name for name in self.links() if name.startswith("vsp")}

    def leases(self) -> set[str]:
        """The addresses that the database says are somebody's."""
        with sqlite3.connect(f"file:{self.daemon.data_root}/sampan.db?mode=ro", uri=True) as rows:
            found = {row[0] for row in rows.execute("SELECT address FROM leases")}
        rows.close()
        return found

    def tables(self) -> list[str]:
        return self.run("nft", "list", "tables").stdout.split()

    def close(self) -> None:
        try:
            self.daemon.close()
        finally:
            subprocess.run(["ip", "netns", "delete", self.name], check=True)


@pytest.fixture(scope="module")
def shared_house(quick: Path) -> Iterator[House]:
    """One for a module, with its daemon started."""
    one = House(own_root(quick))
    try:
        one.daemon.start()
        yield one
    finally:
        one.close()


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """The module's, as it was at first when the test began; a test that ends the daemon starts
    it again."""
    yield shared_house
    shared_house.daemon.remove_all()
    shared_house.daemon.wait_for(lambda: not shared_house.plugs() and not shared_house.leases())


@pytest.fixture
def own_house(quick: Path) -> Iterator[House]:
    """A test's own, whose daemon is not started yet."""
    one = House(own_root(quick))
    try:
        yield one
    finally:
        one.close()


def address(daemon: Daemon, container: str) -> str:
    """A running container's address on the default network."""
    settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    return str(settings["IPAddress"])


DEFAULT = {"NetworkMode": "default"}
ECHO = (
    "python3", "-u", "-c",
    "import socket\n"
    "server = socket.create_server(('', 7))\n"
    "print('listening')\n"
    "while True:\n"
    "    peer, who = server.accept()\n"
    "    peer.sendall(who[0].encode())\n"
    "    peer.close()\n",
)  # fmt: skip
"""A server at port 7 that says who connected to it."""
ASK = (
    "import socket, sys\n"
    "peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)\n"
    "peer.settimeout(60)\n"
    "print(peer.recv(99).decode(), end='')\n"
)
