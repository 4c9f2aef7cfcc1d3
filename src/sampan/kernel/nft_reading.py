"""What stands in anybody's nftables: base chains and rules, read only.

After the kernel's Documentation/netlink/specs/nftables.yaml. Rules are not understood: only which
values they compare, as bytes, and whether one drops whatever comes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from sampan.kernel.nft_rules import text
from sampan.kernel.nftables import FAMILIES
from sampan.kernel.nlmsg import (
    NETLINK_NETFILTER,
    Message,
    Socket,
    attribute,
    attribute_list,
    attributes,
)

__all__ = ["BaseChain", "Rule", "base_chains", "rules"]

_SUBSYSTEM, _GETCHAIN, _GETRULE = 10, 4, 7
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _HOOK_NUMBER = 1, 3, 4, 5, 1
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _NAME, _VALUES = 1, 2, 4, 1, 2
_POLICY_DROP = bytes(4)
_DATA, _VERDICT, _CODE = 2, 2, 1  # of an immediate expression
_NF_DROP = bytes(4)
_PASSIVE = {"counter", "log", "immediate", "reject", "target"}


class BaseChain(NamedTuple):
    """A chain at a hook (``nftables.HOOKS``); ``drops`` is its policy."""

    family: str
    table: str
    name: str
    hook: int
    drops: bool


class Rule(NamedTuple):
    """``data`` holds all the values it compares; ``always_drops``: it asks for nothing."""

    chain: str
    data: bytes
    always_drops: bool


def _ask(kind: int, name: str, family: int, body: bytes) -> list[bytes]:
    head = struct.pack("=BBH", family, 0, 0)
    message = Message(_SUBSYSTEM << 8 | kind, head + body, call=f"nftables {name}")
    with Socket(NETLINK_NETFILTER) as socket:
        return [answer for _, answer in socket.ask(message, dump=True)]


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def base_chains() -> list[BaseChain]:
    """Everybody's, of the families that a routed packet meets. Raises KernelError."""
    names = {number: name for name, number in FAMILIES.items() if name != "bridge"}
    found = []
    for body in _ask(_GETCHAIN, "GETCHAIN", 0, b""):
        values = attributes(body, 4)
        hook = attributes(values.get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER)
        if hook is None or body[0] not in names:
            continue
        found.append(
            BaseChain(
                names[body[0]],
                _string(values[_CHAIN_TABLE]),
                _string(values[_CHAIN_NAME]),
                int.from_bytes(hook, "big"),
                values.get(_CHAIN_POLICY) == _POLICY_DROP,
            )
        )
    return found


def rules(family: str, table: str) -> list[Rule]:
    """The rules of a table, chain by chain, in their order. Raises KernelError."""
    found = []
    chosen = attribute(_RULE_TABLE, text(table))
    for body in _ask(_GETRULE, "GETRULE", FAMILIES[family], chosen):
        values = attributes(body, 4)
        if _string(values[_RULE_TABLE]) != table:
            continue  # an older kernel, which does not choose
        expressions = [
            attributes(one) for _, one in attribute_list(values.get(_RULE_EXPRESSIONS, b""))
        ]
        found.append(Rule(_string(values[_RULE_CHAIN]), body, _drops(expressions)))
    return found


def _drops(expressions: list[dict[int, bytes]]) -> bool:
    names = [_string(one[_NAME]) for one in expressions]
    if not names or not set(names) <= _PASSIVE:
        return False
    last = expressions[-1].get(_VALUES, b"")
    if names[-1] == "immediate":
        verdict = attributes(attributes(attributes(last).get(_DATA, b"")).get(_VERDICT, b""))
        return verdict.get(_CODE) == _NF_DROP
    # iptables' own REJECT, or nft's.
    return names[-1] == "reject" or (names[-1] == "target" and b"REJECT\0" in last)
