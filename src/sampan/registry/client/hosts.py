"""From a reference's domain to addresses, and how far each is trusted.

``docker.io`` is a name for people: its registry is ``registry-1.docker.io``, and the mirrors, where
there are any, stand before it. An insecure registry may answer HTTPS with any certificate, or plain
HTTP; loopback counts as insecure, as in every engine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple

from sampan.oci.reference import DEFAULT_DOMAIN
from sampan.registry.client.proxies import is_loopback
from sampan.registry.client.urls import Url, parse_url
from sampan.registry.types import HUB

if TYPE_CHECKING:
    from sampan.registry.policy import Policy

__all__ = ["Endpoint", "Hosts"]


class Endpoint(NamedTuple):
    """Where to ask: ``base`` without a path; ``verify`` its certificate or not."""

    base: Url
    verify: bool
    mirror: bool = False


class Hosts:
    """Answers for one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._networks = [ipaddress.ip_network(text) for text in policy.insecure if "/" in text]

    async def endpoints(self, domain: str, *, mirrors: bool) -> list[Endpoint]:
        """In the order to try them."""
        found: list[Endpoint] = []
        if domain == DEFAULT_DOMAIN:
            if mirrors:
                for text in self._policy.mirrors:
                    url = parse_url(text)
                    found.append(Endpoint(url, await self.verify(url), mirror=True))
            domain = HUB
        secure = parse_url(f"https://{domain}")
        if await self.insecure(secure.host, domain):
            return [*found, Endpoint(secure, False), Endpoint(parse_url(f"http://{domain}"), False)]
        return [*found, Endpoint(secure, True)]

    async def verify(self, url: Url) -> bool:
        """Whether an address's certificate has to be good."""
        return not await self.insecure(url.host, f"{url.host}:{url.port}")

    async def insecure(self, host: str, domain: str) -> bool:
        """Whether plain HTTP, or any certificate, will do for a host."""
        names = {host, domain, domain.partition(":")[0]}
        if is_loopback(host) or names & set(self._policy.insecure):
            return True
        if not self._networks:
            return False
        return any(
            address in network
            for address in await _addresses(host)
            for network in self._networks
            if address.version == network.version
        )


async def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # whoever connects next says what is wrong with the name
    return [ipaddress.ip_address(row[4][0]) for row in found]
