"""Choosing subnets and addresses: numbers in, numbers out.

After RFC 4632 (prefixes), RFC 4193 (unique local IPv6 addresses), RFC 6890 (what no host may have).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.network.types import Pool, Subnet

__all__ = [
    "Block",
    "Net",
    "around",
    "choose_subnet",
    "local_prefix",
    "mac_of",
    "overlap",
    "parse",
]

Net = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse(text: str, what: str = "subnet") -> Net:
    """``10.1.0.0/16``. Raises InvalidArgument, for host bits too."""
    try:
        if "/" not in text:
            raise ValueError("write ADDRESS/PREFIX")
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} {text}: invalid CIDR address: {error}") from error
    if str(found.network_address) != text.partition("/")[0]:
        raise InvalidArgument(f"invalid {what} {text}: it should be {found}")
    return found


def around(text: str, what: str) -> Net:
    """The subnet of an address with its prefix length, 10.1.0.1/16. Raises InvalidArgument."""
    try:
        return ipaddress.ip_interface(text).network
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} {text}: {error}") from error


def overlap(one: Net, others: Iterable[Net]) -> Net | None:
    """The first of ``others`` that shares addresses with ``one``."""
    first, last = int(one.network_address), int(one.broadcast_address)
    for other in others:
        if (
            one.version == other.version
            and first <= int(other.broadcast_address)
            and int(other.network_address) <= last
        ):
            return other
    return None


def choose_subnet(pools: Sequence[Pool], taken: Sequence[Net]) -> Net:
    """The first part of the pools that shares nothing with ``taken``. Raises Unavailable."""
    for pool in pools:
        base = ipaddress.ip_network(pool.base)
        near = [net for net in taken if overlap(base, (net,))]
        step = 1 << (base.max_prefixlen - pool.size)
        start, end = int(base.network_address), int(base.broadcast_address)
        while start <= end:
            part = _network(start, pool.size, base.version)
            hit = overlap(part, near)
            if hit is None:
                return part
            # Behind what is in the way, at the next part's beginning.
            start += (max(int(hit.broadcast_address), start) - start) // step * step + step
    raise Unavailable(
        "all predefined address pools have been fully subnetted: remove networks that nobody uses, "
        "give a subnet (--subnet), or the daemon more pools (--default-address-pool)"
    )


def _network(start: int, size: int, version: int) -> Net:
    if version == 4:
        return ipaddress.IPv4Network((start, size))
    return ipaddress.IPv6Network((start, size))


def local_prefix(identity: str) -> str:
    """The /48 of an engine: ``fd`` and 40 bits of its identity (RFC 4193)."""
    digits = identity.replace("-", "")[:10]
    return f"{ipaddress.IPv6Address(int(f'fd{digits}', 16) << 80)}/48"


def mac_of(address: str) -> str:
    """An endpoint's MAC address: of its IPv4 address, so that whoever remembers the address
    (arp(7)) remembers the right one; else of the last 32 bits of its IPv6 address."""
    packed = ipaddress.ip_address(address).packed[-4:]
    return "02:42:" + ":".join(f"{byte:02x}" for byte in packed)


class Block:
    """The addresses of one subnet, in memory: who has them is in the rows. The lowest goes first.

    ``taken`` holds offsets; below ``_free`` there is none free.
    """

    __slots__ = ("_free", "_last", "_start", "net", "subnet", "taken")

    def __init__(self, subnet: Subnet) -> None:
        self.subnet = subnet
        self.net = parse(subnet.subnet)
        span = parse(subnet.ip_range, "IP range") if subnet.ip_range else self.net
        base = int(self.net.network_address)
        self._start = self._free = int(span.network_address) - base
        self._last = int(span.broadcast_address) - base
        size = self.net.num_addresses
        self.taken: set[int] = set()
        if size > 2:
            # The network's own address; of IPv6 the routers' anycast (RFC 4291, 2.6.1).
            self.taken.add(0)
            if self.net.version == 4:
                self.taken.add(size - 1)
        for address in (subnet.gateway, *subnet.auxiliary.values()):
            if address:
                self.taken.add(self.offset(address))

    def offset(self, address: str) -> int:
        """Raises InvalidArgument for an address that is not in the subnet."""
        try:
            one = ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidArgument(f"invalid IP address: {address}") from error
        if one.version != self.net.version or one not in self.net:
            raise InvalidArgument(f"invalid address {address}: it does not belong to {self.net}")
        return int(one) - int(self.net.network_address)

    def holds(self, address: str) -> bool:
        """Whether an address, which must be one, is in the subnet."""
        try:
            return ipaddress.ip_address(address) in self.net
        except ValueError as error:
            raise InvalidArgument(f"invalid IP address: {address}") from error

    def first_free(self) -> int:
        """The offset that goes next. Raises Unavailable."""
        taken, offset = self.taken, self._free
        while offset in taken:
            offset += 1
        if offset > self._last:
            raise Unavailable(
                f"no available IPv{self.net.version} addresses on this network's address pools: "
                f"{self.subnet.ip_range or self.net} is used up"
            )
        self._free = offset
        return offset

    def asked(self, address: str) -> int:
        """The offset of an address somebody asks for. Raises InvalidArgument, Conflict."""
        offset = self.offset(address)
        if offset in self.taken:
            raise Conflict(f"Address already in use: {address} on {self.net}")
        return offset

    def give_back(self, offset: int) -> None:
        self.taken.discard(offset)
        if self._start <= offset < self._free:
            self._free = offset

    def text(self, offset: int) -> str:
        return str(self.net.network_address + offset)
