"""How much somebody may ask: ``[[rate]]`` of the policy, by account or, without one, by address.

The generic cell rate algorithm (ITU-T I.371): of each rule and each client one number is kept, the
time at which its allowance will be whole again. So ``limit`` may come at once, then as many as grow
back. Who was never here and who has not been for long have the same allowance: both are forgotten.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.registry.server.policy.policy import Rate

__all__ = ["Rates", "client_address"]

_CLIENTS = 10_000


class Rates:
    """What everybody has used; rules come from the policy of the moment. Not for many threads."""

    def __init__(self) -> None:
        self._whole: dict[tuple[Rate, str], float] = {}

    def take(
        self, rules: Sequence[Rate], count: str, user: str, address: str, now: float
    ) -> tuple[Rate, float] | None:
        """One more; the rule that forbids it and the seconds to wait, where one does."""
        mine = [rule for rule in rules if rule.count == count and rule.about(user)]
        who = f"user {user}" if user and count != "logins" else f"address {_network(address)}"
        for rule in mine:
            wait = self._whole.get((rule, who), 0.0) - now + rule.each - rule.seconds
            if wait > 1e-9:
                return rule, wait
        for rule in mine:
            self._whole[rule, who] = max(self._whole.get((rule, who), 0.0), now) + rule.each
        if len(self._whole) > _CLIENTS:
            self._forget(now)
        return None

    def peek(
        self, rules: Sequence[Rate], count: str, address: str, now: float
    ) -> tuple[Rate, float] | None:
        """The same, and nothing is taken."""
        who = f"address {_network(address)}"
        for rule in rules:
            if rule.count == count:
                wait = self._whole.get((rule, who), 0.0) - now + rule.each - rule.seconds
                if wait > 1e-9:
                    return rule, wait
        return None

    def _forget(self, now: float) -> None:
        """Those whose allowance is whole; where those are few, who came first."""
        self._whole = {key: whole for key, whole in self._whole.items() if whole > now}
        while len(self._whole) > _CLIENTS * 9 // 10:
            del self._whole[next(iter(self._whole))]


def _network(address: str) -> str:
    """Of IPv6 the 64 bits that a customer is given: the rest he chooses himself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def client_address(peer: str, forwarded: str, trusted: Sequence[str]) -> str:
    """Who asks: the peer, or whom a trusted proxy names last in ``X-Forwarded-For``."""
    networks = [ipaddress.ip_network(one, strict=False) for one in trusted]
    said = [one.strip() for one in forwarded.split(",") if one.strip()]
    while said and _within(peer, networks):
        before = said.pop()
        try:
            peer = str(ipaddress.ip_address(before))
        except ValueError:
            break
    return peer


def _within(
    address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found.version == one.version and found in one for one in networks)
