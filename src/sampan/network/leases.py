"""Who has which address: endpoints, from the row that begins them to the row's end.

What is in memory is what the rows say; a row is committed before anybody is told of it. An
endpoint that ended keeps its addresses until its link is gone (``leave``, then ``free``); the next
run of the same container takes them over without waiting for that.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, InvalidArgument, Unavailable
from sampan.network.addresses import Block, mac_of
from sampan.network.bridge import host_name
from sampan.network.options import INTERFACE
from sampan.network.types import Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.network.store import NetworkStore
    from sampan.network.types import Network, Port, Wish

__all__ = ["Leases"]


class Leases:
    """The endpoints of one engine. Not for two threads at once."""

    def __init__(self, store: NetworkStore) -> None:
        self._store = store
        self._blocks: dict[str, list[Block]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._by_container: dict[str, list[Endpoint]] = {}
        self._leaving: dict[str, Endpoint] = {}

    def load(self) -> None:
        """Take up what the rows say; the networks are known by then."""
        holders = self._store.holders()
        for endpoint in self._store.endpoints():
            if endpoint.id in holders:
                self._remember(endpoint)
            else:
                # The next run of its container took its addresses over; its link may live on.
                bare = msgspec.structs.replace(endpoint, ipv4="", ipv6="", ports=())
                self._leaving[endpoint.id] = bare

    def open(self, network: Network) -> None:
        """A network's subnets, or its new ones."""
        self._blocks[network.id] = [Block(subnet) for subnet in network.subnets]

    def close(self, network_id: str) -> None:
        """A network is gone."""
        self._blocks.pop(network_id, None)

    def used(self) -> set[str]:
        """The networks that have endpoints."""
        return {endpoint.network for endpoint in list(self._endpoints.values())}

    def on(self, network_id: str) -> list[Endpoint]:
        """Who is on a network now."""
        return [one for one in list(self._endpoints.values()) if one.network == network_id]

    def of(self, container_id: str) -> list[Endpoint]:
        """A container's endpoints in this run."""
        return self._by_container.get(container_id, [])

    def leaving(self) -> list[Endpoint]:
        """Those whose run is over and whose links may live on."""
        return list(self._leaving.values())

    def containers(self) -> list[str]:
        return list(self._by_container)

    # -- giving --------------------------------------------------------------------------------

    def take(self, container: str, network: Network, wish: Wish) -> Endpoint:
        """``add``, with the next name for its link inside that is free. Raises Conflict,
        InvalidArgument too where what is asked for cannot be."""
        there = self.on(network.id) if network.mode == "passthru" else []
        if there:
            raise Conflict(
                f"network {network.name}: in mode passthru one container has the parent: "
                f"{there[0].container[:12]}"
            )
        names = {endpoint.inside for endpoint in self.of(container)}
        asked = wish.options.get(INTERFACE, "")
        if asked in names:
            raise InvalidArgument(
                f"network {network.name}: the container has an interface {asked} already"
            )
        number = 0
        while f"{network.prefix}{number}" in names:
            number += 1
        return self.add(container, network, wish, number)

    def add(self, container: str, network: Network, wish: Wish, position: int) -> Endpoint:
        """An endpoint: its row and its addresses. ``position`` numbers its link inside.

        Raises Conflict (the address is another's), Unavailable (none is left), InvalidArgument.
        """
        before = self._predecessor(container, network.id)
        kept = {before.address4, before.address6} if before is not None else set()
        taken: list[tuple[Block, int]] = []
        found = {4: "", 6: ""}
        try:
            blocks = self._blocks[network.id]
            for number, block in enumerate(blocks, 1):
                version = block.net.version
                asked = wish.ipv4 if version == 4 else wish.ipv6
                if found[version] or (asked and not block.holds(asked)):
                    continue
                try:
                    offset = self._choose(block, asked, before)
                except Unavailable:
                    if any(later.net.version == version for later in blocks[number:]):
                        continue
                    raise
                block.taken.add(offset)
                taken.append((block, offset))
                found[version] = f"{block.text(offset)}/{block.net.prefixlen}"
            for version, asked in ((4, wish.ipv4), (6, wish.ipv6)):
                if asked and not found[version]:
                    raise InvalidArgument(
                        f"no configured subnet or ip-range contain the IP address {asked}"
                    )
            endpoint = self._endpoint(container, network, wish, position, found)
            self._store.add_endpoint(endpoint, before.id if before is not None else "")
        except BaseException:
            for block, offset in taken:
                if block.text(offset) not in kept:
                    block.give_back(offset)
            raise
        if before is not None:
            self._inherit(before, endpoint)
        self._remember(endpoint)
        return endpoint

    def publish(self, endpoint: Endpoint, ports: tuple[Port, ...]) -> Endpoint:
        """The endpoint with its published ports, in its row and here."""
        fresh = msgspec.structs.replace(endpoint, ports=ports)
        self._store.put_endpoint(fresh)
        own = self._by_container[endpoint.container]
        own[own.index(endpoint)] = self._endpoints[endpoint.id] = fresh
        return fresh

    def _endpoint(
        self, container: str, network: Network, wish: Wish, position: int, found: dict[int, str]
    ) -> Endpoint:
        key = os.urandom(32).hex()
        first = (found[4] or found[6]).partition("/")[0]
        if wish.mac and not network.gives_macs:
            raise InvalidArgument(
                f"network {network.name}: {network.driver} interfaces do not support custom mac "
                f"address assignment in mode {network.mode}: they have their parent's"
            )
        own = mac_of(first) if first and network.gives_macs else ""
        return Endpoint(
            id=key,
            network=network.id,
            container=container,
            mac=wish.mac or own,
            ipv4=found[4],
            ipv6=found[6],
            host=host_name(key),
            inside=wish.options.get(INTERFACE) or f"{network.prefix}{position}",
            wish=wish,
        )

    def _predecessor(self, container: str, network: str) -> Endpoint | None:
        for endpoint in self._leaving.values():
            if endpoint.container == container and endpoint.network == network:
                return endpoint
        return None

    def _choose(self, block: Block, asked: str, before: Endpoint | None) -> int:
        own = _address(before, block) if before is not None else ""
        if own and asked in ("", own):
            return block.offset(own)
        return block.asked(asked) if asked else block.first_free()

    def _inherit(self, before: Endpoint, endpoint: Endpoint) -> None:
        """Of what the one before had, what this one has not is free."""
        for block in self._blocks[endpoint.network]:
            old = _address(before, block)
            if old and old != _address(endpoint, block):
                block.give_back(block.offset(old))
        self._leaving[before.id] = msgspec.structs.replace(before, ipv4="", ipv6="")

    def _remember(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.id] = endpoint
        self._by_container.setdefault(endpoint.container, []).append(endpoint)
        for block in self._blocks.get(endpoint.network, ()):
            address = _address(endpoint, block)
            if address:
                block.taken.add(block.offset(address))

    # -- taking back ---------------------------------------------------------------------------

    def leave(self, container: str, network: str = "") -> list[Endpoint]:
        """The run is over, or it is only to be off one network. The addresses stay taken until
        ``free``, for the links may live on."""
        every = self._by_container.pop(container, [])
        gone = [one for one in every if network in ("", one.network)]
        if len(gone) < len(every):
            self._by_container[container] = [one for one in every if one not in gone]
        for endpoint in gone:
            self._endpoints.pop(endpoint.id, None)
            self._leaving[endpoint.id] = endpoint
        return gone

    def free(self, endpoints: Sequence[Endpoint]) -> None:
        """Their links are gone: their rows go, and their addresses are free."""
        self._store.remove_endpoints([endpoint.id for endpoint in endpoints])
        for endpoint in endpoints:
            last = self._leaving.pop(endpoint.id, None)
            if last is None:
                continue
            for block in self._blocks.get(last.network, ()):
                address = _address(last, block)
                if address:
                    block.give_back(block.offset(address))


def _address(endpoint: Endpoint, block: Block) -> str:
    """The endpoint's address that is the block's, or ""."""
    address = endpoint.address4 if block.net.version == 4 else endpoint.address6
    if address and ipaddress.ip_address(address) in block.net:
        return address
    return ""
