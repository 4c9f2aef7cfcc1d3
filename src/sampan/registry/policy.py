"""What an administrator says about registries: dockerd's settings, as the carrier is told them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from sampan.errors import InvalidArgument
from sampan.registry.client.proxies import Proxies

__all__ = ["CERTS_DIRECTORIES", "Policy", "check_insecure", "check_mirror"]

CERTS_DIRECTORIES = ("/etc/sampan/certs.d", "/etc/docker/certs.d")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """``mirrors`` of docker.io, ``insecure`` registries (names, with or without a port, and
    networks), how many blobs move at once, and how often one is tried."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs: tuple[str, ...] = CERTS_DIRECTORIES
    proxies: Proxies = Proxies()
    downloads: int = 3
    uploads: int = 5
    attempts: int = 5


def check_mirror(text: str) -> str:
    """A mirror's address as it is kept. Raises InvalidArgument."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"registry-mirror {text}: write http://host or https://host")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise InvalidArgument(f"registry-mirror {text}: nothing may stand behind the host")
    return f"{parts.scheme}://{parts.netloc}/"


def check_insecure(text: str) -> str:
    """A name, ``host:port``, or a network. Raises InvalidArgument."""
    if "/" in text and "://" not in text:
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise InvalidArgument(f"insecure-registry {text}: {error}") from error
    if "://" in text or not text:
        raise InvalidArgument(f"insecure-registry {text}: write host[:port] or a network")
    return text
