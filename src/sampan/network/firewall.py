"""The rule set: one table of our own, a function of the networks and their published ports.

Rules are per network; ports are elements of maps; containers without published ports are not in it
at all. It is built as a whole, in one transaction (``sampan.kernel.nftables``), whenever a network
comes or goes; a port is one element. What each chain is for stands in docs/network.md, "What is
reachable from where".
"""

from __future__ import annotations

import ipaddress
from errno import EEXIST, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT
from typing import TYPE_CHECKING

from sampan.errors import KernelError, Unavailable
from sampan.kernel import nftables
from sampan.kernel.nlmsg import NETLINK_NETFILTER, Socket
from sampan.network.chains import FAMILY, PROTOCOLS, SETS, Chains
from sampan.network.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kernel.nlmsg import Message
    from sampan.network.types import Endpoint, Network, Opening

__all__ = ["TABLES", "Firewall", "table_name"]

TABLES = "sampan-"
"""Every engine's table begins so."""

_LINKED = "linked4"
_NO_TABLES = (EPERM, EOPNOTSUPP, EPROTONOSUPPORT)


def table_name(identity: str) -> str:
    """Each engine's own: there may be several on a machine."""
    return f"{TABLES}{identity[:8]}"


class Firewall:
    """One engine's table. Blocks for a system call or two; not for two threads at once."""

    def __init__(self, identity: str) -> None:
        self.table = table_name(identity)
        self._chains = Chains(self.table)
        # (map, key) -> (value, endpoint): what is published, and that each rule set has.
        self._published: dict[tuple[str, bytes], tuple[bytes | None, str]] = {}
        self._linked: dict[bytes, frozenset[str]] = {}  # key -> its endpoints
        self._socket: Socket | None = None

    @property
    def port(self) -> int:
        """By which changes of ours are known (``nftables.Watch``)."""
        return self._own().port

    def _own(self) -> Socket:
        if self._socket is None:
            self._socket = Socket(NETLINK_NETFILTER)
        return self._socket

    def apply(self, networks: Sequence[Network], *, guard: bool) -> None:
        """Replace the whole table. ``guard``: drop what is forwarded and nobody's of ours.

        Raises Unavailable where the kernel or our rights do not suffice.
        """
        messages = self._chains.all(networks, guard=guard)
        for name in SETS:
            pairs = [(key[1], one[0]) for key, one in self._published.items() if key[0] == name]
            messages += self._chains.add(name, pairs)
        messages += self._chains.add(_LINKED, [(key, None) for key in self._linked])
        try:
            nftables.commit(messages, self._own())
        except KernelError as error:
            if error.errno in _NO_TABLES:
                raise Unavailable(
                    f"the firewall's rules cannot be set: {error.message}; this needs nf_tables "
                    "with NAT in the kernel and CAP_NET_ADMIN; --firewall none does without, and "
                    "then forwarding and masquerading are yours to set up"
                ) from error
            raise

    def note(self, endpoints: Iterable[Endpoint]) -> None:
        """Have the next ``apply`` publish the endpoints' ports."""
        for endpoint in endpoints:
            for key, value in _elements(endpoint):
                self._published[key] = (value, endpoint.id)

    def publish(self, endpoints: Sequence[Endpoint]) -> bool:
        """Publish the endpoints' ports, in one transaction; an element of a run that ended and is
        not taken away yet is replaced. False where the table is not what we know it to be: it is
        to be built anew."""
        messages = []
        for endpoint in endpoints:
            for key, value in _elements(endpoint):
                old = self._published.get(key)
                if old is not None:
                    messages += self._take(key, old[0])
                messages += self._chains.add(key[0], [(key[1], value)])
        self.note(endpoints)
        return self._changed(messages)

    def withdraw(self, endpoints: Sequence[Endpoint], *, ended: bool = False) -> bool:
        """The endpoints' ports are published no more, but for what is another's by now; and with
        those that have ended nothing is linked. False as above."""
        messages = []
        for endpoint in endpoints:
            for key, value in _elements(endpoint):
                if self._published.get(key) == (value, endpoint.id):
                    del self._published[key]
                    messages += self._take(key, value)
        gone = {endpoint.id for endpoint in endpoints} if ended else set()
        left = {key: own for key, own in self._linked.items() if not own & gone}
        messages += self._relinked(left)
        return self._changed(messages)

    @property
    def has_links(self) -> bool:
        return bool(self._linked)

    def note_links(self, wanted: Iterable[Opening]) -> None:
        """Have the next ``apply`` open what is linked."""
        self._linked = _openings(wanted)

    def link(self, wanted: Iterable[Opening]) -> bool:
        """Open what is linked, and nothing else. False as above."""
        return self._changed(self._relinked(_openings(wanted)))

    def _relinked(self, wanted: dict[bytes, frozenset[str]]) -> list[Message]:
        gone, new = self._linked.keys() - wanted.keys(), wanted.keys() - self._linked.keys()
        self._linked = wanted
        messages = [one for key in gone for one in self._take((_LINKED, key), None)]
        return [*messages, *self._chains.add(_LINKED, [(key, None) for key in new])]

    def _changed(self, messages: list[Message]) -> bool:
        if not messages:
            return True
        try:
            nftables.commit(messages, self._own())
        except KernelError as error:
            if error.errno in (ENOENT, EEXIST):
                return False
            raise
        return True

    def _take(self, key: tuple[str, bytes], value: bytes | None) -> list[Message]:
        return nftables.delete_elements(FAMILY, self.table, key[0], [(key[1], value)])

    def remove(self) -> None:
        """Remove the table, if it is there."""
        try:
            nftables.commit([nftables.delete_table(FAMILY, self.table)], self._own())
        except KernelError as error:
            if error.errno not in (ENOENT, *_NO_TABLES):
                raise

    def present(self) -> bool:
        """Whether the table is there: somebody may have flushed everything."""
        try:
            return nftables.has_table(FAMILY, self.table)
        except KernelError as error:
            if error.errno in _NO_TABLES:
                return False
            raise

    def guarded_by_another(self) -> bool:
        """Whether another engine's table drops what is forwarded and nobody's of ours."""
        from sampan.kernel import nft_reading

        try:
            for name in nftables.tables(FAMILY):
                if not name.startswith(TABLES) or name == self.table:
                    continue
                rules = nft_reading.rules(FAMILY, name)
                own = [one for one in rules if one.chain == "forward"]
                if own and own[-1].always_drops:
                    return True
        except KernelError as error:
            if error.errno not in (ENOENT, *_NO_TABLES):  # it ended as we looked
                raise
        return False


def _openings(wanted: Iterable[Opening]) -> dict[bytes, frozenset[str]]:
    """Key -> the endpoints it is there for. Two containers with several links are linked once."""
    return {
        nftables.pack_key(
            ipaddress.IPv4Address(one.source.address4).packed,
            ipaddress.IPv4Address(one.target.address4).packed,
            PROTOCOLS[one.protocol],
            one.port.to_bytes(2, "big"),
        ): frozenset((one.source.id, one.target.id))
        for one in wanted
    }


def _elements(endpoint: Endpoint) -> list[tuple[tuple[str, bytes], bytes | None]]:
    """((map, key), value) of each of an endpoint's published ports; a set's have no value."""
    found: list[tuple[tuple[str, bytes], bytes | None]] = []
    for port in endpoint.ports:
        address = endpoint.address6 if ":" in port.address else endpoint.address4
        if not port.port:
            target = ipaddress.ip_address(address)
            number = port.inside.to_bytes(2, "big")
            key = nftables.pack_key(target.packed, PROTOCOLS[port.protocol], number)
            found.append(((f"open{target.version}", key), None))
            continue
        if port.address == LOOPBACK:
            continue  # which is not translated
        host = "" if port.address in ("0.0.0.0", "::") else port.address
        name, (place, value) = port_element(port.protocol, host, port.port, address, port.inside)
        found.append(((name, place), value))
    return found


def port_element(
    protocol: str, host: str, port: int, address: str, inside: int
) -> tuple[str, tuple[bytes, bytes]]:
    """(map, element) of a published port; ``host`` is empty for any address of the machine's."""
    target = ipaddress.ip_address(address)
    key = [PROTOCOLS[protocol], port.to_bytes(2, "big")]
    at = ""
    if host:
        key.insert(0, ipaddress.ip_address(host).packed)
        at = "at"
    value = nftables.pack_key(target.packed, inside.to_bytes(2, "big"))
    return f"ports{target.version}{at}", (nftables.pack_key(*key), value)
