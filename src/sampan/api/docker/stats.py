"""A container's figures: ``top``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.docker.context import Context, reply
from sampan.api.docker.top import top

if TYPE_CHECKING:
    from sampan.api.http.connection import Answer

__all__ = ["ROUTES"]


async def processes(context: Context) -> Answer:
    live, _ = context.engine.containers.running(context.parameters[0])
    group = context.engine.hierarchy.group(context.engine.cgroup_of(live.record))
    answer = await top(group.processes(), context.text("ps_args") or "-ef")
    context.engine.publish(live.record, "top")
    return reply(answer)


ROUTES = (("GET", "/containers/{id}/top", processes),)
