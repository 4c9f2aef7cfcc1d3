"""``/v1/search``: what ``docker search HOST/TERM`` asks (the index API of Docker's first registry).

It asks ``/v1/_ping`` before. Pages count from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution.context import Context, reply
from sampan.registry.server.search import search

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

__all__ = ["find", "ping"]

_MOST = 100
_USUAL = 25


async def ping(context: Context) -> Answer:
    return reply(True, headers={"X-Docker-Registry-Standalone": "true"})


async def find(context: Context) -> Answer:
    size = max(1, context.number("n", _USUAL, _MOST))
    page = max(1, context.number("page", 1, 10_000))
    text = context.request.query.get("q") or ""
    found = await context.run(search, context.registry.place, text, size, (page - 1) * size)
    results = [
        {
            "name": one.name,
            "description": one.description,
            "star_count": one.pulls,
            "is_official": False,
            "is_automated": False,
            "is_trusted": False,
        }
        for one in found.results
    ]
    return reply(
        {
            "query": text,
            "num_results": found.total,
            "num_pages": -(-found.total // size),
            "page": page,
            "page_size": size,
            "results": results,
        }
    )
