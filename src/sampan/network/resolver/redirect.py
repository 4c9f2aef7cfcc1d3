"""Port 53 of 127.0.0.11 leads to the resolver's sockets, which have other ports.

So that a container's own server may have port 53 of every address. Rules of its namespace rewrite
ports on the way out of ``lo`` and back, without connection tracking, which would keep an entry for
each query for 30 s (nft(8), "notrack" and payload statements; docs/decisions/0025). One table,
replaced as a whole; it goes with the namespace.
"""

from __future__ import annotations

import struct
from errno import EEXIST

from sampan.errors import KernelError
from sampan.kernel import nft_rules as nft
from sampan.kernel import nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.kernel.nlmsg import Message

__all__ = ["TABLE", "redirect"]

TABLE = "sampan-resolver"
_FAMILY = "ip"
_PORT = struct.pack(">H", 53)
_LOOPBACK_INDEX = struct.pack("=I", 1)
_PROTOCOLS = {"udp": (b"\x11", 6), "tcp": (b"\x06", 16)}
"""Number, and where in the header its checksum is."""
_SOURCE, _DESTINATION = (12, 0), (16, 2)
"""Where the address is in the network header, and the port in the transport header."""


def redirect(address: str, ports: dict[str, int]) -> None:
    """Have queries for ``address``, port 53, of this thread's network namespace go to ``ports``, of
    ``udp`` and ``tcp``. Raises KernelError."""
    packed = bytes(int(part) for part in address.split("."))
    messages = [
        nftables.new_chain(_FAMILY, TABLE, "out", nftables.Hook("filter", "output", -300)),
        # All that leaves the container pays for this one only.
        nftables.new_rule(
            _FAMILY, TABLE, "out", nft.load_meta("oif"),
            nft.compare(_LOOPBACK_INDEX, unequal=True), nft.decide("return"),
        ),
    ]  # fmt: skip
    for protocol, number in ports.items():
        port = struct.pack(">H", number)
        messages.append(_rewrite(protocol, packed, _DESTINATION, _PORT, port))
        messages.append(_rewrite(protocol, packed, _SOURCE, port, _PORT))
    fresh = nftables.new_table(_FAMILY, TABLE, exclusive=True)
    try:
        nftables.commit([fresh, *messages])
    except KernelError as error:
        if error.errno != EEXIST:
            raise
        # Those of sockets that are gone. Not done to be sure: the kernel takes 10 ms to delete.
        gone = nftables.delete_table(_FAMILY, TABLE)
        nftables.commit([gone, fresh, *messages])


def _rewrite(
    protocol: str, address: bytes, place: tuple[int, int], old: bytes, new: bytes
) -> Message:
    number, checksum = _PROTOCOLS[protocol]
    at_network, at_transport = place
    return nftables.new_rule(
        _FAMILY, TABLE, "out",
        nft.load_meta("l4proto"), nft.compare(number),
        nft.load_payload(nft.NETWORK, at_network, 4), nft.compare(address),
        nft.load_payload(nft.TRANSPORT, at_transport, 2), nft.compare(old),
        nft.leave_untracked(),
        nft.load_value(new), nft.store_payload(nft.TRANSPORT, at_transport, 2, checksum),
    )  # fmt: skip
