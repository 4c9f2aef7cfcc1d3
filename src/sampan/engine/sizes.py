"""How large a container is: what it wrote, and that with its image.

Trees are walked while containers write to them, on threads of the pool; a listing asks for many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from sampan.engine.spec import MOUNT_POINTS
from sampan.errors import NotFound

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine

__all__ = ["Sizes", "container_sizes"]


class Sizes(NamedTuple):
    """Bytes of files, in the Docker API's words ``SizeRw`` and ``SizeRootFs``."""

    rw: int
    root: int


async def container_sizes(engine: Engine, record: ContainerRecord) -> Sizes:
    """Raises NotFound when the container was removed meanwhile."""
    try:
        rw = await asyncio.to_thread(engine.driver.size, record.id, MOUNT_POINTS)
    except FileNotFoundError as error:
        raise NotFound(f"No such container: {record.id}") from error
    image = await engine.images.find(record.image_id)
    if image is not None:
        return Sizes(rw, rw + image.size)
    # It was removed by force; the container holds its layers.
    top = engine.driver.containers().get(record.id)
    return Sizes(rw, rw + (engine.image_store.layers.size_of(top) if top else 0))
