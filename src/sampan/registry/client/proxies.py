"""Which proxy a request goes through: ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``.

The custom has no standard; this follows what Go programs (and so dockerd) do: lower-case names
count too, ``NO_PROXY`` lists names (with their subdomains; a leading dot leaves the name itself
out), addresses, networks and ``*``, each with a port if need be, and loopback is never proxied.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Proxies", "is_loopback"]


def is_loopback(host: str) -> bool:
    """``localhost`` or an address of this machine's own loopback."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Proxies(msgspec.Struct, frozen=True):
    """Addresses of proxies, empty for none; ``exempt`` is the text of NO_PROXY."""

    http: str = ""
    https: str = ""
    exempt: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Proxies:
        def value(name: str) -> str:
            return environment.get(name.upper()) or environment.get(name) or ""

        return cls(value("http_proxy"), value("https_proxy"), value("no_proxy"))

    def find(self, scheme: str, host: str, port: int) -> str:
        """The proxy's URL for a request, or nothing."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or is_loopback(host):
            return ""
        if any(_matches(item.strip().lower(), host, port) for item in self.exempt.split(",")):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"


def _matches(item: str, host: str, port: int) -> bool:
    if not item:
        return False
    if item == "*":
        return True
    address = _address(host)
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, number = item.rpartition(":")
    if colon and number.isdecimal() and name and ":" not in name.strip("[]"):
        if int(number) != port:
            return False
        item = name
    known = _address(item.strip("[]"))
    if known is not None:
        return known == address
    if item.startswith("*."):
        item = item[1:]
    if item.startswith("."):
        return host.endswith(item)
    return host == item or host.endswith(f".{item}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
