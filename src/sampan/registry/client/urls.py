"""Addresses of registries and of what they send clients to (RFC 3986, as far as HTTP has it)."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from sampan.errors import InvalidArgument

__all__ = ["Url", "parse_url"]

_PORTS = {"http": 80, "https": 443}
_has_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:").match


class Url(NamedTuple):
    """An absolute address; ``target`` is path and query, as they go on the wire."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def shown(self) -> str:
        """For messages: a query may hold a signature or a token."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def join(self, location: str) -> Url:
        """What a ``Location`` means here: absolute, or from this address. InvalidArgument."""
        if location.startswith("//"):
            location = f"{self.scheme}:{location}"
        elif location.startswith("/"):
            return self._replace(target=_wire(location, location))
        elif _has_scheme(location) is None:
            base = self.target.partition("?")[0].rpartition("/")[0]
            return self._replace(target=_wire(f"{base}/{location}", location))
        return parse_url(location)


def parse_url(text: str) -> Url:
    """An ``http`` or ``https`` address. Raises InvalidArgument."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f'"{text[:200]}" is not an address: {error}') from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidArgument(f'"{text[:200]}" is not an address: expected http:// or https://')
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    default = _PORTS[parts.scheme]
    return Url(parts.scheme, parts.hostname, port or default, _wire(target, text))


def _wire(target: str, whole: str) -> str:
    if not target.isascii() or not target.isprintable() or " " in target:
        raise InvalidArgument(f"{whole[:200]!r} is not an address")
    return target
