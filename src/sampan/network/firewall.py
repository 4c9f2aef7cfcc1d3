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
from sampan.kernel import nft_rules as nft
from sampan.kernel import nftables
from sampan.kernel.nft_rules import Verdict
from sampan.kernel.nlmsg import NETLINK_NETFILTER, Socket
from sampan.network.addresses import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kernel.nlmsg import Message
    from sampan.network.types import Endpoint, Network

__all__ = ["Firewall", "table_name"]

_FAMILY = "inet"
_NO_TABLES = (EPERM, EOPNOTSUPP, EPROTONOSUPPORT)
_IPV4, _IPV6 = b"\x02", b"\x0a"
_LOOPBACK = b"\x7f"
_PROTOCOLS = {"tcp": b"\x06", "udp": b"\x11", "sctp": b"\x84"}
_ACCEPT = nft.decide("accept")
_DROP = nft.decide("drop")

# Name -> type, hook, priority: nft(8)'s raw, filter, dstnat and srcnat.
_BASE = {
    "raw": nftables.Hook("filter", "prerouting", -300),
    "forward": nftables.Hook("filter", "forward", 0),
    "prerouting": nftables.Hook("nat", "prerouting", -100),
    "output": nftables.Hook("nat", "output", -100),
    "postrouting": nftables.Hook("nat", "postrouting", 100),
}
# Name -> key, value, whether of spans.
_SETS: dict[str, tuple[list[str], list[str], bool]] = {
    "bridges": (["ifname"], [], False),
    "to": (["ifname"], ["verdict"], False),
    "from": (["ifname"], ["verdict"], False),
    "source4": (["ipv4_addr"], ["verdict"], True),
    "source6": (["ipv6_addr"], ["verdict"], True),
    "ports4": (["inet_proto", "inet_service"], ["ipv4_addr", "inet_service"], False),
    "ports6": (["inet_proto", "inet_service"], ["ipv6_addr", "inet_service"], False),
    "ports4at": (
        ["ipv4_addr", "inet_proto", "inet_service"], ["ipv4_addr", "inet_service"], False,
    ),
    "ports6at": (
        ["ipv6_addr", "inet_proto", "inet_service"], ["ipv6_addr", "inet_service"], False,
    ),
}  # fmt: skip


def table_name(identity: str) -> str:
    """Each engine's own: there may be several on a machine."""
    return f"sampan-{identity[:8]}"


def _interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _is_v4() -> tuple[bytes, ...]:
    return nft.load_meta("nfproto"), nft.compare(_IPV4)


def _is_v6() -> tuple[bytes, ...]:
    return nft.load_meta("nfproto"), nft.compare(_IPV6)


def _from_bridge() -> tuple[bytes, ...]:
    return nft.load_meta("iifname"), nft.lookup("bridges")


class Firewall:
    """One engine's table. Blocks for a system call or two; not for two threads at once."""

    def __init__(self, identity: str) -> None:
        self.table = table_name(identity)
        # (map, key) -> (value, endpoint): what is published, and that each rule set has.
        self._published: dict[tuple[str, bytes], tuple[bytes, str]] = {}
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
        messages = [
            nftables.new_table(_FAMILY, self.table),
            nftables.delete_table(_FAMILY, self.table),
            nftables.new_table(_FAMILY, self.table),
        ]
        for number, (name, (key, value, spans)) in enumerate(_SETS.items(), 1):
            messages.append(
                nftables.new_set(
                    _FAMILY, self.table, name, key, value, interval=spans, number=number
                )
            )
        for name, hook in _BASE.items():
            messages.append(nftables.new_chain(_FAMILY, self.table, name, hook))
        messages += self._raw()
        messages += self._forward(guard)
        messages += self._ports()
        messages += self._postrouting()
        for network in networks:
            messages += self._network(network)
        for name in _SETS:
            pairs = [(key[1], one[0]) for key, one in self._published.items() if key[0] == name]
            messages += self._add(name, pairs)
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
                messages += self._add(key[0], [(key[1], value)])
        self.note(endpoints)
        return self._changed(messages)

    def withdraw(self, endpoints: Iterable[Endpoint]) -> bool:
        """The endpoints' ports are published no more, but for what is another's by now. False as
        above."""
        messages = []
        for endpoint in endpoints:
            for key, value in _elements(endpoint):
                if self._published.get(key) == (value, endpoint.id):
                    del self._published[key]
                    messages += self._take(key, value)
        return self._changed(messages)

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

    def _take(self, key: tuple[str, bytes], value: bytes) -> list[Message]:
        return nftables.delete_elements(_FAMILY, self.table, key[0], [(key[1], value)])

    def remove(self) -> None:
        """Remove the table, if it is there."""
        try:
            nftables.commit([nftables.delete_table(_FAMILY, self.table)], self._own())
        except KernelError as error:
            if error.errno not in (ENOENT, *_NO_TABLES):
                raise

    def present(self) -> bool:
        """Whether the table is there: somebody may have flushed everything."""
        try:
            return nftables.has_table(_FAMILY, self.table)
        except KernelError as error:
            if error.errno in _NO_TABLES:
                return False
            raise

    def _rule(self, chain: str, *parts: bytes) -> Message:
        return nftables.new_rule(_FAMILY, self.table, chain, *parts)

    def _add(
        self, name: str, pairs: Iterable[tuple[bytes, bytes | Verdict | None]]
    ) -> list[Message]:
        spans = _SETS[name][2]
        return nftables.add_elements(_FAMILY, self.table, name, pairs, interval=spans)

    def _raw(self) -> list[Message]:
        """route_localnet on a bridge is not to open 127.0.0.0/8 to who is on it (CVE-2020-8558).

        Every packet meets these rules. The address is compared before the bridge is looked up,
        which is 4 % of what a packet between two containers costs.
        """
        loopback = (nft.load_payload(nft.NETWORK, 16, 1), nft.compare(_LOOPBACK))
        source = (nft.load_payload(nft.NETWORK, 12, 1), nft.compare(_LOOPBACK))
        return [
            self._rule("raw", *_is_v4(), *loopback, *_from_bridge(), _DROP),
            self._rule("raw", *_is_v4(), *source, *_from_bridge(), _DROP),
        ]

    def _forward(self, guard: bool) -> list[Message]:
        """Dispatch by the bridge: the cost is that of two look-ups, however many there are."""
        rules = [
            self._rule("forward", *nft.ct_bits("state", nft.ESTABLISHED | nft.RELATED), _ACCEPT),
            self._rule("forward", nft.load_meta("oifname"), nft.lookup("to", into=0)),
            self._rule("forward", nft.load_meta("iifname"), nft.lookup("from", into=0)),
        ]
        if guard:
            rules.append(self._rule("forward", *_from_bridge(), _ACCEPT))
            rules.append(self._rule("forward", _DROP))
        return rules

    def _ports(self) -> list[Message]:
        """Published ports: by address first, then at any address of the machine's. 127.0.0.0/8 is
        the machine's own in the output hook only: from elsewhere it is not to be reached."""
        rules = [
            self._rule(
                "prerouting", *_is_v4(), nft.load_payload(nft.NETWORK, 16, 1),
                nft.compare(_LOOPBACK), nft.decide("return"),
            )
        ]  # fmt: skip
        protocol_and_port = (
            (nft.load_meta("l4proto", 9), nft.load_payload(nft.TRANSPORT, 2, 2, 10)),
            (nft.load_meta("l4proto", 12), nft.load_payload(nft.TRANSPORT, 2, 2, 13)),
        )
        for chain in ("prerouting", "output"):
            rules += [
                self._rule(
                    chain, *_is_v4(), nft.load_payload(nft.NETWORK, 16, 4, 8),
                    *protocol_and_port[0], nft.lookup("ports4at", register=8, into=8),
                    nft.nat(2, 8, 9),
                ),
                self._rule(
                    chain, *_is_v6(), nft.load_payload(nft.NETWORK, 24, 16, 8),
                    *protocol_and_port[1], nft.lookup("ports6at", register=8, into=8),
                    nft.nat(10, 8, 12),
                ),
                self._rule(
                    chain, *_is_v4(), nft.load_fib_type(), nft.compare(nft.local()),
                    *protocol_and_port[0], nft.lookup("ports4", register=9, into=8),
                    nft.nat(2, 8, 9),
                ),
                self._rule(
                    chain, *_is_v6(), nft.load_fib_type(), nft.compare(nft.local()),
                    *protocol_and_port[1], nft.lookup("ports6", register=12, into=8),
                    nft.nat(10, 8, 12),
                ),
            ]  # fmt: skip
        return rules

    def _postrouting(self) -> list[Message]:
        """The machine's own 127.0.0.1 means nothing to a container; and each network's way out."""
        return [
            self._rule(
                "postrouting", *_is_v4(), nft.load_payload(nft.NETWORK, 12, 1),
                nft.compare(_LOOPBACK), nft.load_meta("oifname"), nft.lookup("bridges"),
                nft.masquerade(),
            ),
            self._rule(
                "postrouting", *_is_v4(), nft.load_payload(nft.NETWORK, 12, 4),
                nft.lookup("source4", into=0),
            ),
            self._rule(
                "postrouting", *_is_v6(), nft.load_payload(nft.NETWORK, 8, 16),
                nft.lookup("source6", into=0),
            ),
        ]  # fmt: skip

    def _network(self, network: Network) -> list[Message]:
        link = _interface(network.link)
        inward, outward = f"to-{network.link}", f"out-{network.link}"
        messages = [
            nftables.new_chain(_FAMILY, self.table, inward),
            # Between its own ports, where br_netfilter has us asked.
            self._rule(inward, nft.load_meta("iifname"), nft.compare(link), _ACCEPT),
        ]
        if not network.internal:
            translated = nft.ct_bits("status", nft.DESTINATION_TRANSLATED)
            messages.append(self._rule(inward, *translated, _ACCEPT))
        messages.append(self._rule(inward, _DROP))
        messages += self._add("bridges", [(link, None)])
        messages += self._add("to", [(link, Verdict("jump", inward))])
        if network.internal:
            return [*messages, *self._add("from", [(link, Verdict("drop"))])]
        if not network.masquerade:
            return messages
        messages += [
            nftables.new_chain(_FAMILY, self.table, outward),
            self._rule(
                outward, nft.load_meta("oifname"), nft.compare(link, unequal=True), nft.masquerade()
            ),
            # Hairpin: an answer that did not come back through us would be nobody's.
            self._rule(
                outward, *nft.ct_bits("status", nft.DESTINATION_TRANSLATED), nft.masquerade()
            ),
        ]
        for subnet in network.subnets:
            net = parse(subnet.subnet)
            key = nftables.span(net.network_address.packed, net.prefixlen)
            messages += self._add(f"source{net.version}", [(key, Verdict("jump", outward))])
        return messages


def _elements(endpoint: Endpoint) -> list[tuple[tuple[str, bytes], bytes]]:
    """((map, key), value) of each of an endpoint's published ports."""
    found = []
    for port in endpoint.ports:
        address = endpoint.address6 if ":" in port.address else endpoint.address4
        host = "" if port.address in ("0.0.0.0", "::") else port.address
        name, (key, value) = port_element(port.protocol, host, port.port, address, port.inside)
        found.append(((name, key), value))
    return found


def port_element(
    protocol: str, host: str, port: int, address: str, inside: int
) -> tuple[str, tuple[bytes, bytes]]:
    """(map, element) of a published port; ``host`` is empty for any address of the machine's."""
    target = ipaddress.ip_address(address)
    key = [_PROTOCOLS[protocol], port.to_bytes(2, "big")]
    at = ""
    if host:
        key.insert(0, ipaddress.ip_address(host).packed)
        at = "at"
    value = nftables.pack_key(target.packed, inside.to_bytes(2, "big"))
    return f"ports{target.version}{at}", (nftables.pack_key(*key), value)
