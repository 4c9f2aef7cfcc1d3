"""What stands in an nftables rule: expressions, which load, compare and decide.

After nft(8), "EXPRESSIONS" and "STATEMENTS", and the kernel's nftables.yaml. A rule is a list of
expressions that go on while they are true; each function gives one, as bytes. Values pass in
registers: 1 to 4 of 16 bytes, or 8 to 23 of 4 bytes which are the same memory.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from sampan.kernel.nlmsg import attribute, nested

__all__ = [
    "VALUE_TYPES",
    "Verdict",
    "compare",
    "ct_bits",
    "data_value",
    "data_verdict",
    "decide",
    "load_ct",
    "load_fib_type",
    "load_meta",
    "leave_untracked",
    "load_payload",
    "load_value",
    "lookup",
    "masquerade",
    "nat",
    "store_payload",
    "text",
    "u32",
]

VALUE_TYPES = {
    "ipv4_addr": (7, 4),
    "ipv6_addr": (8, 16),
    "inet_proto": (12, 1),
    "inet_service": (13, 2),
    "mark": (19, 4),
    "ifname": (41, 16),
}
"""Type -> (the number nft(8) knows it by, its bytes)."""

META = {
    "mark": 3, "oif": 5, "iifname": 6, "oifname": 7, "nfproto": 15, "l4proto": 16,
    "iifgroup": 21, "oifgroup": 22,
}  # fmt: skip
CT = {"state": 0, "direction": 1, "status": 2, "mark": 3}
INVALID, ESTABLISHED, RELATED, NEW = 1, 2, 4, 8
DESTINATION_TRANSLATED = 0x20
LOCAL = 2
NETWORK, TRANSPORT = 1, 2
FIRST = 1  # the register most rules need
_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_VALUE, _VERDICT = 1, 2


class Verdict(NamedTuple):
    """``drop``, ``accept``, ``return``, or ``jump`` and ``goto`` a chain."""

    name: str
    chain: str = ""


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def data_value(value: bytes) -> bytes:
    return attribute(_VALUE, value)


def data_verdict(verdict: Verdict) -> bytes:
    body = attribute(1, struct.pack(">i", _VERDICTS[verdict.name]))
    if verdict.chain:
        body += attribute(2, text(verdict.chain))
    return nested(_VERDICT, body)


def _expression(name: str, *values: bytes) -> bytes:
    return attribute(1, text(name)) + nested(2, *values)


def load_meta(key: str, register: int = FIRST) -> bytes:
    """``meta KEY``: ``iifname`` and ``oifname`` are 16 bytes, ``nfproto`` and ``l4proto`` one, the
    others four, in the machine's order."""
    return _expression("meta", attribute(2, u32(META[key])), attribute(1, u32(register)))


def load_payload(base: int, offset: int, length: int, register: int = FIRST) -> bytes:
    """Bytes of the packet's network or transport header."""
    return _expression(
        "payload",
        attribute(1, u32(register)),
        attribute(2, u32(base)),
        attribute(3, u32(offset)),
        attribute(4, u32(length)),
    )


def load_ct(key: str, register: int = FIRST) -> bytes:
    """``ct KEY``."""
    return _expression("ct", attribute(2, u32(CT[key])), attribute(1, u32(register)))


def load_fib_type(register: int = FIRST) -> bytes:
    """``fib daddr type``: compare with ``local()``."""
    return _expression(
        "fib", attribute(1, u32(register)), attribute(2, u32(3)), attribute(3, u32(2))
    )


def local() -> bytes:
    """The type of an address of this machine, as ``load_fib_type`` leaves it."""
    return struct.pack("=I", LOCAL)


def compare(value: bytes, *, unequal: bool = False, register: int = FIRST) -> bytes:
    """Go on if the register is ``value``, or is not."""
    return _expression(
        "cmp",
        attribute(1, u32(register)),
        attribute(2, u32(1 if unequal else 0)),
        nested(3, data_value(value)),
    )


def mask(bits: bytes, register: int = FIRST) -> bytes:
    """Leave only ``bits`` of a register."""
    return _expression(
        "bitwise",
        attribute(1, u32(register)),
        attribute(2, u32(register)),
        attribute(3, u32(len(bits))),
        nested(4, data_value(bits)),
        nested(5, data_value(bytes(len(bits)))),
    )


def ct_bits(key: str, bits: int, register: int = FIRST) -> tuple[bytes, ...]:
    """Go on if any of ``bits`` is set in ``ct KEY``."""
    value = struct.pack("=I", bits)
    return load_ct(key, register), mask(value, register), compare(bytes(4), unequal=True)


def lookup(
    name: str, *, register: int = FIRST, into: int | None = None, absent: bool = False
) -> bytes:
    """Go on if the register is in the set, or is not; of a map the value goes ``into`` a register,
    0 for a verdict map."""
    values = [attribute(1, text(name)), attribute(2, u32(register))]
    if into is not None:
        values.append(attribute(3, u32(into)))
    if absent:
        values.append(attribute(5, u32(1)))
    return _expression("lookup", *values)


def decide(name: str, chain: str = "") -> bytes:
    """The verdict on a packet that has come so far."""
    return _expression(
        "immediate", attribute(1, u32(0)), nested(2, data_verdict(Verdict(name, chain)))
    )


def load_value(value: bytes, register: int = FIRST) -> bytes:
    """A constant, to be stored."""
    return _expression("immediate", attribute(1, u32(register)), nested(2, data_value(value)))


def store_payload(
    base: int, offset: int, length: int, checksum: int, register: int = FIRST
) -> bytes:
    """Write the register into the packet's header, whose checksum is ``checksum`` bytes behind
    the base's beginning."""
    return _expression(
        "payload",
        attribute(5, u32(register)),
        attribute(2, u32(base)),
        attribute(3, u32(offset)),
        attribute(4, u32(length)),
        attribute(6, u32(1)),
        attribute(7, u32(checksum)),
        attribute(8, u32(0)),
    )


def leave_untracked() -> bytes:
    """``notrack``: the packet is not connection tracking's (before priority -200)."""
    return _expression("notrack")


def nat(family: int, address: int, port: int | None = None) -> bytes:
    """Translate the destination to the address, and port, in these registers."""
    values = [attribute(1, u32(1)), attribute(2, u32(family)), attribute(3, u32(address))]
    values.append(attribute(4, u32(address)))
    if port is not None:
        values += [attribute(5, u32(port)), attribute(6, u32(port))]
    return _expression("nat", *values)


def source_nat(family: int, address: int) -> bytes:
    """Translate the source to the address in this register."""
    values = [attribute(1, u32(0)), attribute(2, u32(family))]
    values += [attribute(3, u32(address)), attribute(4, u32(address))]
    return _expression("nat", *values)


def masquerade() -> bytes:
    """Translate the source to an address of the link the packet leaves by."""
    return _expression("masq")


def reject() -> bytes:
    """Drop, and say "administratively prohibited" in the packet's own family."""
    return _expression("reject", attribute(1, u32(2)), attribute(2, bytes((3,))))
