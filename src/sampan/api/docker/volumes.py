"""The API's tag *Volume*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.docker.context import Context, empty, ordered, reply
from sampan.engine.container import rfc3339
from sampan.engine.reading import read_body
from sampan.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer
    from sampan.volume.store import Volume

__all__ = ["ROUTES", "shown"]


class _Create(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: dict[str, Any] | None = None


_NO_SWARM = "volume update only valid for cluster volumes, but swarm is unavailable"


def shown(volume: Volume) -> dict[str, Any]:
    """A volume in the API's JSON, without ``UsageData``."""
    return {
        "CreatedAt": rfc3339(int(volume.created) * 1_000_000_000),
        "Driver": volume.driver,
        "Labels": ordered(volume.labels),
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": ordered(volume.options),
        "Scope": "local",
    }


async def list_(context: Context) -> Answer:
    volumes = context.engine.volumes.select(context.filters())
    return reply({"Volumes": [shown(volume) for volume in volumes], "Warnings": None})


async def create(context: Context) -> Answer:
    request = read_body(_Create, await context.body())
    if request.cluster_volume_spec is not None:
        raise Unavailable(
            "This node is not a swarm manager: a cluster volume needs one; leave ClusterVolumeSpec "
            "out"
        )
    volume = await context.engine.volumes.create(
        request.name,
        driver=request.driver,
        options=request.driver_opts,
        labels=request.labels,
    )
    return reply(shown(volume), 201)


async def inspect(context: Context) -> Answer:
    return reply(shown(context.engine.volumes.get(context.parameters[0])))


async def update(context: Context) -> Answer:
    """Of cluster volumes, which only a swarm has."""
    if context.version < (1, 42):
        raise NotFound("page not found")
    raise Unavailable(_NO_SWARM)


async def remove(context: Context) -> Answer:
    await context.engine.volumes.remove(context.parameters[0], force=context.flag("force"))
    return empty()


async def prune(context: Context) -> Answer:
    # Before API 1.42 a prune took named volumes too.
    pruned = await context.engine.volumes.prune(context.filters(), named=context.version < (1, 42))
    return reply({"VolumesDeleted": pruned.names, "SpaceReclaimed": pruned.reclaimed})


ROUTES = (
    ("GET", "/volumes", list_),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("PUT", "/volumes/{name}", update),
    ("DELETE", "/volumes/{name}", remove),
)
