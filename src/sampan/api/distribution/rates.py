"""Requests held against the policy's rates: 429 and ``Retry-After`` (RFC 6585, section 4)."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from sampan.registry.server.errors import TooManyRequests
from sampan.registry.server.policy.rates import Rates, client_address

if TYPE_CHECKING:
    from sampan.api.http.messages import Request
    from sampan.registry.server.place import Place
    from sampan.registry.server.policy.policy import Rate

__all__ = ["Brake", "address_of"]


def address_of(request: Request, place: Place) -> str:
    """Who asks, by address; a proxy's word counts where the policy trusts it."""
    transport = request.connection.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    address = str(peer[0]) if peer else ""
    trusted = place.policy.trusted_proxies
    if trusted:
        return client_address(address, request.headers.get("x-forwarded-for", ""), trusted)
    return address


class Brake:
    """One server's; what clients have used is in memory, and gone with the process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._rates = Rates()

    def count(self, request: Request, user: str, *counts: str) -> None:
        """Raises TooManyRequests."""
        rules = self._place.policy.rates
        if rules:
            address = address_of(request, self._place)
            for count in counts:
                _refuse(self._rates.take(rules, count, user, address, time.monotonic()))

    def before_password(self, request: Request) -> None:
        """Raises TooManyRequests where wrong passwords have come from there."""
        rules = self._place.policy.rates
        if rules:
            address = address_of(request, self._place)
            _refuse(self._rates.peek(rules, "logins", address, time.monotonic()))

    def wrong_password(self, request: Request) -> None:
        rules = self._place.policy.rates
        if rules:
            address = address_of(request, self._place)
            self._rates.take(rules, "logins", "", address, time.monotonic())


def _refuse(found: tuple[Rate, float] | None) -> None:
    if found is not None:
        rule, wait = found
        what = "wrong passwords" if rule.count == "logins" else rule.count
        after = max(1, math.ceil(wait))
        raise TooManyRequests(
            f"more than {rule.limit} {what} in {rule.per}: try again in {after} s", after
        )
