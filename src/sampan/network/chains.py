"""What stands in an engine's table: chains, sets and rules, made of its networks.

Every function gives messages for one transaction. What each chain is for stands in
docs/network.md, "What is reachable from where".
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from sampan.kernel import nft_rules as nft
from sampan.kernel import nftables
from sampan.kernel.nft_rules import Verdict
from sampan.network.addresses import parse
from sampan.network.bridge import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kernel.nlmsg import Message
    from sampan.network.types import Network

__all__ = ["FAMILY", "PROTOCOLS", "SETS", "Chains"]

FAMILY = "inet"
PROTOCOLS = {"tcp": b"\x06", "udp": b"\x11", "sctp": b"\x84"}
_IPV4, _IPV6 = b"\x02", b"\x0a"
_LOOPBACK = b"\x7f"
_ICMP = {4: b"\x01", 6: b"\x3a"}
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
_INPUT = nftables.Hook("filter", "input", 0)
# Name -> key, value, whether of spans.
SETS: dict[str, tuple[list[str], list[str], bool]] = {
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
    "linked4": (["ipv4_addr", "ipv4_addr", "inet_proto", "inet_service"], [], False),
    "open4": (["ipv4_addr", "inet_proto", "inet_service"], [], False),
    "open6": (["ipv6_addr", "inet_proto", "inet_service"], [], False),
}  # fmt: skip


def _interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _is_v4() -> tuple[bytes, ...]:
    return nft.load_meta("nfproto"), nft.compare(_IPV4)


def _is_v6() -> tuple[bytes, ...]:
    return nft.load_meta("nfproto"), nft.compare(_IPV6)


def _is(version: int) -> tuple[bytes, ...]:
    return _is_v4() if version == 4 else _is_v6()


def _from_bridge() -> tuple[bytes, ...]:
    return nft.load_meta("iifname"), nft.lookup("bridges")


class Chains:
    """Of the table of this name."""

    def __init__(self, table: str) -> None:
        self.table = table

    def all(self, networks: Sequence[Network], *, guard: bool) -> list[Message]:
        """The table without what is published: built anew, whatever was there."""
        messages = [
            nftables.new_table(FAMILY, self.table),
            nftables.delete_table(FAMILY, self.table),
            nftables.new_table(FAMILY, self.table),
        ]
        for number, (name, (key, value, spans)) in enumerate(SETS.items(), 1):
            messages.append(
                nftables.new_set(
                    FAMILY, self.table, name, key, value, interval=spans, number=number
                )
            )
        for name, hook in _BASE.items():
            messages.append(nftables.new_chain(FAMILY, self.table, name, hook))
        messages += self._raw()
        messages += self._forward(guard)
        messages += self._ports()
        messages += self._postrouting()
        for network in networks:
            messages += self._network(network)
        return [*messages, *self._input(networks)]

    def _rule(self, chain: str, *parts: bytes) -> Message:
        return nftables.new_rule(FAMILY, self.table, chain, *parts)

    def add(
        self, name: str, pairs: Iterable[tuple[bytes, bytes | Verdict | None]]
    ) -> list[Message]:
        spans = SETS[name][2]
        return nftables.add_elements(FAMILY, self.table, name, pairs, interval=spans)

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
            self._rule("forward", nft.load_meta("iifname"), nft.lookup("from", into=0)),
            self._rule("forward", nft.load_meta("oifname"), nft.lookup("to", into=0)),
        ]
        if guard:
            # What is another engine's is judged by that one's rules.
            group = nft.compare(struct.pack("=I", GROUP))
            rules.append(self._rule("forward", nft.load_meta("iifgroup"), group, _ACCEPT))
            rules.append(self._rule("forward", nft.load_meta("oifgroup"), group, _ACCEPT))
            rules.append(self._rule("forward", _DROP))
        return rules

    def _input(self, networks: Iterable[Network]) -> list[Message]:
        """A bridge without an address takes what is sent to its MAC address all the same, for any
        address of the machine's."""
        rules = [
            self._rule(
                "input", nft.load_meta("iifname"), nft.compare(_interface(network.link)),
                *_is(version), _DROP,
            )
            for network in networks
            for version in network.sealed
        ]  # fmt: skip
        if not rules:
            return []
        return [nftables.new_chain(FAMILY, self.table, "input", _INPUT), *rules]

    def _ports(self) -> list[Message]:
        """Published ports: by address first, then at any address of the machine's. 127.0.0.0/8 is
        the machine's own in the output hook only: from elsewhere it is not to be reached."""
        rules = [
            self._rule(
                "prerouting", *_is_v4(), nft.load_payload(nft.NETWORK, 16, 1),
                nft.compare(_LOOPBACK), nft.decide("return"),
            ),
            # What is led back to ::1 is dropped by the kernel: those end at who holds the port.
            self._rule(
                "output", *_is_v6(), nft.load_payload(nft.NETWORK, 24, 16),
                nft.compare(bytes(15) + b"\x01"), nft.decide("return"),
            ),
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
            nftables.new_chain(FAMILY, self.table, inward),
            self._between(network, inward),
        ]
        if not network.internal:
            translated = nft.ct_bits("status", nft.DESTINATION_TRANSLATED)
            messages.append(self._rule(inward, *translated, _ACCEPT))
            messages += self._direct(network, inward)
        messages.append(self._rule(inward, _DROP))
        messages += self.add("bridges", [(link, None)])
        messages += self.add("to", [(link, Verdict("jump", inward))])
        if network.internal:
            kept = f"from-{network.link}"
            return [
                *messages,
                nftables.new_chain(FAMILY, self.table, kept),
                self._rule(kept, nft.load_meta("oifname"), nft.compare(link), _ACCEPT),
                self._rule(kept, _DROP),
                *self.add("from", [(link, Verdict("jump", kept))]),
            ]
        if not network.masquerade:
            return messages
        elsewhere = nft.load_meta("oifname"), nft.compare(link, unequal=True)
        messages += [
            nftables.new_chain(FAMILY, self.table, outward),
            *(
                self._rule(
                    outward,
                    *elsewhere,
                    *_is(version),
                    nft.load_value(ipaddress.ip_address(network.source(version)).packed),
                    nft.source_nat(family, nft.FIRST),
                )
                for version, family in ((4, 2), (6, 10))
                if network.source(version)
            ),
            self._rule(outward, *elsewhere, nft.masquerade()),
            # Hairpin: an answer that did not come back through us would be nobody's.
            self._rule(
                outward, *nft.ct_bits("status", nft.DESTINATION_TRANSLATED), nft.masquerade()
            ),
        ]
        for subnet in network.subnets:
            net = parse(subnet.subnet)
            if network.gateway_mode(net.version) == "routed":
                continue
            key = nftables.span(net.network_address.packed, net.prefixlen)
            messages += self.add(f"source{net.version}", [(key, Verdict("jump", outward))])
        return messages

    def _between(self, network: Network, inward: str) -> Message:
        """Between its own ports, where br_netfilter has us asked. With ICC off they do not reach
        one another, but for what is linked, which the machine passes on (``bridge.pass_on``)."""
        own = nft.load_meta("iifname"), nft.compare(_interface(network.link))
        if network.icc:
            return self._rule(inward, *own, _ACCEPT)
        return self._rule(
            inward, *own, *_is_v4(),
            nft.load_payload(nft.NETWORK, 12, 4, 8), nft.load_payload(nft.NETWORK, 16, 4, 9),
            nft.load_meta("l4proto", 10), nft.load_payload(nft.TRANSPORT, 2, 2, 11),
            nft.lookup("linked4", register=8), _ACCEPT,
        )  # fmt: skip

    def _direct(self, network: Network, inward: str) -> list[Message]:
        """What reaches a container at its own address from another link."""
        rules = []
        for version, offset, size in ((4, 16, 4), (6, 24, 16)):
            mode = network.gateway_mode(version)
            if mode == "routed":
                icmp = nft.load_meta("l4proto"), nft.compare(_ICMP[version])
                behind = 8 + size // 4
                rules += [
                    self._rule(
                        inward, *_is(version), nft.load_payload(nft.NETWORK, offset, size, 8),
                        nft.load_meta("l4proto", behind),
                        nft.load_payload(nft.TRANSPORT, 2, 2, behind + 1),
                        nft.lookup(f"open{version}", register=8), _ACCEPT,
                    ),
                    self._rule(inward, *_is(version), *icmp, _ACCEPT),
                ]  # fmt: skip
            if mode == "nat-unprotected":
                rules += [
                    # Networks of ours reach one another's published ports, as ever.
                    self._rule(inward, *_is(version), *_from_bridge(), _DROP),
                    self._rule(inward, *_is(version), _ACCEPT),
                ]
        return rules
