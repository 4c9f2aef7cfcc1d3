"""``GET /system/df``: what images, containers and volumes take of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.api.docker import images, volumes
from sampan.api.docker.context import Context, reply
from sampan.api.docker.listing import list_containers
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.api.docker.versions import Version
    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine

__all__ = ["ROUTES"]

_TYPES = ("container", "image", "volume", "build-cache")


async def usage(context: Context) -> Answer:
    """All of it, or what ``type`` names; what was not asked for is null."""
    engine = context.engine
    # Before API 1.42 there was no choice.
    wanted = context.request.query.all("type") if context.version >= (1, 42) else []
    for kind in wanted:
        if kind not in _TYPES:
            raise InvalidArgument(f"unknown object type: {kind}")
    chosen = set(wanted or _TYPES)
    shown: dict[str, Any] = {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": None,
        "BuildCache": None,
    }
    if "image" in chosen:
        shown["LayersSize"], shown["Images"] = await _images(engine, context.version)
    if "container" in chosen:
        shown["Containers"] = await list_containers(
            engine, context.version, everything=True, limit=None, size=True, filters={}
        )
    if "volume" in chosen:
        shown["Volumes"] = await _volumes(engine)
    if "build-cache" in chosen:
        shown["BuildCache"] = []
    if context.version < (1, 42):
        shown["BuilderSize"] = 0
    return reply(shown)


async def _images(engine: Engine, version: Version) -> tuple[int, list[dict[str, Any]]]:
    """Bytes in all layers, each counted once, and the images with what each shares."""
    found = await engine.images.select({})
    sizes: dict[str, int] = {}
    for image in found:
        sizes.update(zip(image.chain, engine.images.layer_sizes(image), strict=True))
    shared = {image.id: 0 for image in found} | await engine.images.shared_sizes()
    shown = [images.summary(engine, image, version, shared) for image in found]
    return sum(sizes.values()), shown


async def _volumes(engine: Engine) -> list[dict[str, Any]]:
    shown = []
    for volume in engine.volumes.select({}):
        users = engine.volumes.users(volume.name)
        size = await engine.volumes.size(volume)
        shown.append({**volumes.shown(volume), "UsageData": {"Size": size, "RefCount": len(users)}})
    return shown


ROUTES = (("GET", "/system/df", usage),)
