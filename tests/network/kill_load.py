"""Containers that come onto networks, leave them, start and are killed: ``daemon.kill_load`` for
networks.

What was acknowledged is true of every later daemon: which networks a container is on, that it
reaches and finds who is there, that its port leads to it. ``settle`` says what is not, once all
have had their last life but ``anchor``, which runs on every network from the beginning to the end.

Used by ``test_kills`` (a score of acts) and ``bench.kills --networks`` (three hundred).
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, Any

from sampan.kernel.netns import Inside
from tests.daemon.kill_client import PATIENCE, AwayError
from tests.daemon.kill_load import Load, Slot
from tests.network.house import ECHO

if TYPE_CHECKING:
    from tests.network.house import House

__all__ = ["NetworkLoad"]

NETWORKS = ("one", "two", "three")
Places = dict[str, set[str]]
"""Addresses of the anchor, by network."""


class NetworkSlot(Slot):
    """A container after the other, on networks."""

    KINDS = ("wanders", "wanders", "finds", "publishes", "starts again")
    house: House
    places: Places

    def _begin(self, container: str) -> bool:
        begun = self._start(container)
        self._ledger.acted("start")
        return begun

    def _kill(self, container: str) -> None:
        self._client.insist("POST", f"/containers/{container}/kill")
        self._ended(container, 137)
        self._ledger.acted("kill")

    def _networks(self, container: str) -> set[str]:
        """Those that a running container is on, each of which it must have an address of."""
        shown = self._await(container, "running")
        if shown is None:
            return set()
        found: dict[str, Any] = shown["NetworkSettings"]["Networks"]
        if not all(one["EndpointID"] and one["IPAddress"] for one in found.values()):
            self._wrong("no address", found)
        for network in found:
            self._reach(shown["State"]["Pid"], network)
        return set(found)

    def _reach(self, pid: int, network: str) -> None:
        """From a container, the anchor."""
        host = next(one for one in self.places[network] if "." in one)
        try:
            with open(f"/proc/{pid}/ns/net", encoding="ascii") as file, Inside(file.fileno()):
                peer = socket.create_connection((host, 7), PATIENCE)
            peer.close()
        except OSError as error:
            self._wrong(f"{host} of {network} is not reached", error)

    def live_wanders(self) -> None:
        container = self._create("exec sleep 600", NetworkMode="one")
        if self._begin(container):
            on = {"one"}
            for _ in range(self._chance.randrange(3, 8)):
                on = self._move(container, on, self._chance.choice(NETWORKS))
            self._kill(container)
            self._ledger.lived("wanders", container, [137])
        self._remove(container)

    def _move(self, container: str, on: set[str], network: str) -> set[str]:
        """Connect, or disconnect where it is connected; the networks it is on then."""
        act = "disconnect" if network in on else "connect"
        path, body = f"/networks/{network}/{act}", {"Container": container}
        try:
            status, answer = self._client.ask("POST", path, body)
        except AwayError:
            # It was done or it was not.
            found = self._networks(container)
            if found not in (on, on ^ {network}):
                self._wrong(f"{act} {network} from {on}", found)
            return found
        if status != 200:
            self._wrong(act, answer)
            return on
        self._ledger.acted(act)
        found = self._networks(container)
        if found != on ^ {network}:
            self._wrong(f"{act} {network} from {on}", found)
        return found

    def live_finds(self) -> None:
        """The anchor, by its name, as the first thing it does."""
        network = self._chance.choice(NETWORKS)
        container = self._create("getent ahosts anchor", NetworkMode=network)
        if self._begin(container):
            self._ended(container, 0)
            said = self._client.log(container)
            if not self.places[network] <= set(said.split()):
                self._wrong(f"{self.places[network]} of the anchor", repr(said))
            self._ledger.lived("finds", container, [0])
        self._remove(container)

    def live_publishes(self) -> None:
        ports = {"7/tcp": [{"HostPort": ""}]}
        command = f"exec busybox nc -ll -p 7 -e echo {self._label}"
        container = self._create(command, NetworkMode="one", PortBindings=ports)
        if self._begin(container):
            self._answers(container)
            status, answer = self._client.insist("POST", f"/containers/{container}/restart", t=0)
            if status != 204:
                self._wrong("restart", answer)
            self._answers(container)
            self._kill(container)
            self._ledger.lived("publishes", container, None)
        self._remove(container)

    def _answers(self, container: str) -> None:
        """Its port of the machine's is the container's, as soon as it listens."""
        deadline = time.monotonic() + PATIENCE
        found: Any = None
        while time.monotonic() < deadline:
            shown = self._await(container, "running")
            if shown is None:
                return
            found = shown["NetworkSettings"]["Ports"]
            try:
                number = int(found["7/tcp"][0]["HostPort"])
                with self.house.inside():
                    peer = socket.create_connection(("127.0.0.1", number), 5)
                with peer:
                    found = peer.recv(99).decode()
            except (OSError, KeyError, TypeError) as error:
                found = error, found
            if found == f"{self._label}\n":
                return
            time.sleep(0.03)
        self._wrong("its port", found)

    def live_starts_again(self) -> None:
        container = self._create("exec sleep 600", NetworkMode="two")
        for number in range(1, 4):
            # Its command does not end, so it may be asked for twice.
            status, answer = self._client.insist("POST", f"/containers/{container}/start")
            if status not in (204, 304):
                self._wrong("start", answer)
            self._ledger.acted("start")
            if self._networks(container) != {"two"}:
                self._wrong("networks of a start", number)
            self._kill(container)
        self._ledger.lived("starts again", container, None)
        self._remove(container)


class NetworkLoad(Load):
    """The networks, the anchor, and ``containers`` beside it."""

    SLOT = NetworkSlot

    @staticmethod
    def prepare(house: House) -> Places:
        """Make the networks and the anchor: what is there before the load, and after it."""
        daemon = house.daemon
        for name in NETWORKS:
            body = {"Name": name, "EnableIPv6": name == "three"}
            assert daemon.post("/networks/create", body).status == 201
        anchor = daemon.run(*ECHO, name="anchor", HostConfig={"NetworkMode": "one"})
        for name in NETWORKS[1:]:
            assert daemon.post(f"/networks/{name}/connect", {"Container": anchor}).status == 200
        daemon.wait_for(lambda: "listening" in daemon.logs(anchor), PATIENCE)
        shown = daemon.get(f"/containers/{anchor}/json").json()["NetworkSettings"]["Networks"]
        return {
            name: {one["IPAddress"], one["GlobalIPv6Address"]} - {""} for name, one in shown.items()
        }

    def __init__(self, house: House, places: Places, containers: int, seed: int) -> None:
        self._house, self._places = house, places
        super().__init__(house.daemon, containers, 0, seed)
        for slot in self.slots:
            assert isinstance(slot, NetworkSlot)
            slot.house, slot.places = house, places

    def settle(self) -> list[str]:
        """What is there beside the anchor, once all others have gone; then nothing is, or that."""
        house, daemon = self._house, self._house.daemon
        own = set().union(*self._places.values())
        wrong: list[str] = []

        def agree() -> bool:
            wrong[:] = [f"address {one}" for one in house.leases() ^ own]
            if len(plugs := house.plugs()) != len(NETWORKS):
                wrong.append(f"links {plugs}")
            ruleset = house.run("nft", "list", "ruleset").stdout
            wrong.extend(f"rule {one}" for one in re.findall(r"tcp \. \d+ : .*", ruleset))
            return not wrong

        _poll(agree)
        if wrong:
            return wrong
        daemon.remove_all()
        assert daemon.post("/networks/prune").status == 200
        assert daemon.stop() == 0
        wrong = [f"link {one}" for one in house.links()]
        return wrong + [f"table {one}" for one in house.tables()]


def _poll(test: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not test() and time.monotonic() < deadline:
        time.sleep(0.05)
