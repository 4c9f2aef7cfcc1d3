"""Search in a registry, and what of its answer is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.image.filters import boolean
from sampan.oci import reference as references
from sampan.registry.carrier import messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.engine.core import Engine
    from sampan.registry.types import Credentials, Hit

__all__ = ["FILTERS", "search"]

FILTERS = ("is-automated", "is-official", "stars")
_USUAL, _MOST = 25, 100


async def search(
    engine: Engine,
    term: str,
    limit: int | None,
    filters: Mapping[str, Sequence[str]],
    credentials: Credentials | None,
) -> list[Hit]:
    """``term`` may begin with a registry's address. Raises InvalidArgument, SampanError."""
    if limit is None or limit == 0:
        limit = _USUAL
    if not 1 <= limit <= _MOST:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {_MOST}]")
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term}) has a scheme")
    stars = _stars(filters.get("stars", ()))
    wanted = [(name, boolean(name, text)) for name in FILTERS[:2] for text in filters.get(name, ())]
    domain, slash, text = term.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost"):
        domain, text = references.DEFAULT_DOMAIN, term.removeprefix("library/")
    if not references.is_domain(domain):
        raise InvalidArgument(f'"{domain}" is not a registry\'s address')
    if not text.strip():
        raise InvalidArgument("search for what? the term is empty")
    where = engine.transfers.where(references.Reference(domain=domain, path=""), credentials)
    request = messages.Search(number=0, where=where, text=text, limit=limit)
    found = (await engine.transfers.ask(request, messages.Searched)).hits
    return [
        hit
        for hit in found
        if hit.stars >= stars
        and all((hit.official if name == "is-official" else hit.automated) == is_
                for name, is_ in wanted)
    ]  # fmt: skip


def _stars(values: Sequence[str]) -> int:
    for text in values:
        if not (text.isascii() and text.isdecimal()):
            raise InvalidArgument(f"invalid filter 'stars={text}'")
    return max(map(int, values), default=0)
