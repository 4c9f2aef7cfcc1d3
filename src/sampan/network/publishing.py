"""Published ports of endpoints: chosen, held and in their rows; the kernel's part is ``networks``'.

One endpoint of a container has its ports: its way out. docs/network.md, "Published ports".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sampan.errors import Unavailable
from sampan.network.ports import ANY, CARRIED, Ports

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from sampan.network.leases import Leases
    from sampan.network.types import Endpoint, Network, Port, PortWish
    from sampan.network.ways import Ways
    from sampan.storage.database import Database

__all__ = ["Local", "Publishing"]

_RULELESS = (
    "ports are published by this engine's rules, and --firewall none leaves those to you: publish "
    "nothing, and translate to the container's address yourself"
)


class Local(NamedTuple):
    """A port that is had at ``::1``, and where what is sent there is to go. ``held``: the socket
    it comes to; None where nobody holds it yet, for the container has no IPv6 address."""

    port: Port
    held: socket.socket | None
    target: tuple[str, int]


class Publishing:
    """One engine's. ``ruled``: whether there are rules of ours, without which there are no ports.
    Not for two threads at once."""

    def __init__(
        self,
        database: Database,
        networks: Mapping[str, Network],
        leases: Leases,
        ways: Ways,
        *,
        ruled: bool,
    ) -> None:
        self._database = database
        self._networks = networks
        self._leases = leases
        self._ways = ways
        self._ruled = ruled
        self._ports = Ports()

    def publisher(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """The ports are the endpoint's whose bridge leads outside, by priority. A network that is
        internal publishes nothing, nor do macvlan and ipvlan, as in Docker."""
        return self._ways.first([one for one in endpoints if not self._ways.on_parent(one)])

    def reserve(self, endpoints: list[Endpoint], wanted: Sequence[PortWish]) -> None:
        """For a start, in the caller's transaction. Raises PortError, Unavailable."""
        best = self.publisher(endpoints)
        if best is None:
            return
        if not self._ruled:
            raise Unavailable(_RULELESS)
        found = self._ports.reserve(self._bound(wanted, best), best, self._direct(best))
        endpoints[endpoints.index(best)] = self._leases.publish(best, found)

    def move(
        self, container_id: str, wanted: Sequence[PortWish], leaving: str
    ) -> tuple[Endpoint, Endpoint | None] | None:
        """Whose they are now and whose they were; None where nothing changes. Raises PortError,
        Unavailable: then all is as before."""
        every = self._leases.of(container_id)
        best = self.publisher([one for one in every if one.network != leaving])
        old = next((one for one in every if one.ports), None)
        if not wanted or best is None or best is old:
            return None
        if not self._ruled:
            raise Unavailable(_RULELESS)
        found = self._ports.move(self._bound(wanted, best), best, self._direct(best))
        with self._database.transaction():
            if old is not None:
                self._leases.publish(old, ())
            best = self._leases.publish(best, found)
        return best, old

    def adopt(self, endpoint: Endpoint) -> list[Port]:
        """See ``Ports.adopt``."""
        return self._ports.adopt(endpoint)

    def release(self, container_id: str) -> None:
        self._ports.release(container_id)

    def local(self, container_id: str) -> list[Local]:
        """What of a container's is had at ``::1``."""
        found = []
        for own in self._leases.of(container_id):
            if not own.ports:
                continue
            for port, held in self._ports.carried(container_id):
                found.append(Local(port, held, (own.address6 or own.address4, port.inside)))
            for port in own.ports:
                if own.ipv6 or not port.port or port.address != ANY[4]:
                    continue
                if port.protocol in CARRIED:
                    found.append(Local(port, None, (own.address4, port.inside)))
        return found

    def _bound(self, wanted: Sequence[PortWish], endpoint: Endpoint) -> list[PortWish]:
        """With the network's own address for those that say none."""
        own = self._networks[endpoint.network].bind
        return [one if one.address else msgspec.structs.replace(one, address=own) for one in wanted]

    def _direct(self, endpoint: Endpoint) -> list[int]:
        """The IP versions of which its own address is published."""
        network = self._networks[endpoint.network]
        has = {4: endpoint.ipv4, 6: endpoint.ipv6}
        return [one for one in has if has[one] and network.gateway_mode(one) == "routed"]
