"""The builder's operations, as far as an engine without a builder has an answer to them.

There is no build cache, so nothing of it is in the way: ``docker system prune`` asks for this too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.docker.context import Context, reply

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

__all__ = ["ROUTES"]

_FILTERS = ("until", "id", "parent", "type", "description", "inuse", "shared", "private")


async def prune(context: Context) -> Answer:
    context.filters(_FILTERS)
    return reply({"CachesDeleted": None, "SpaceReclaimed": 0})


ROUTES = (("POST", "/build/prune", prune),)
