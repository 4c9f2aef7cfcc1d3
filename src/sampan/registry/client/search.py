"""Search in a registry: ``/v1/search``, the one part of Docker's first API that is in use.

The distribution specification has no search. Docker Hub answers at an address of its own, other
registries (this project's among them) at their own or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from sampan.errors import Corrupt, NotSupported
from sampan.registry.client.errors import refusal
from sampan.registry.types import Hit

if TYPE_CHECKING:
    from sampan.registry.client.session import Session

__all__ = ["INDEX", "search"]

INDEX = "index.docker.io"
_LIMIT = 4 << 20
_SCOPES = ("registry:catalog:*",)


class _Hit(msgspec.Struct):
    name: str
    description: str | None = None
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Page(msgspec.Struct):
    results: list[_Hit] | None = None


async def search(session: Session, text: str, limit: int) -> list[Hit]:
    """At most ``limit``, the best first. Raises NotSupported, Corrupt, SampanError."""
    target = f"/v1/search?{urlencode({'q': text, 'n': limit})}"
    async with session.request("GET", target, scopes=_SCOPES) as response:
        shown = response.url.shown
        if response.status in (404, 405):
            raise NotSupported(f"{shown}: this registry has no search")
        if response.status != 200:
            raise await refusal(response, f"search for {text}")
        data = await response.read(_LIMIT)
    try:
        found = msgspec.json.decode(data, type=_Page).results or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{shown}: not what a search finds: {error}") from error
    return [
        Hit(
            name=one.name,
            description=one.description or "",
            stars=one.star_count,
            official=one.is_official,
            automated=one.is_automated,
        )
        for one in found[:limit]
    ]
