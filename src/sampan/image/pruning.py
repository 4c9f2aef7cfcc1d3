"""Images nobody needs: which they are, and what their removal gave back.

Without a name (``dangling``, the default) or without a container, and nothing built on them; the
filters narrow that down. What a container uses is passed over, not refused: pruning is the one
removal that means "whatever can go".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import Conflict, InvalidArgument, NotFound
from sampan.image import filters as image_filters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.image.removing import User
    from sampan.image.store import ImageStore
    from sampan.image.types import Image, Removal

__all__ = ["Pruned", "prune"]

KNOWN = ("dangling", "label", "label!", "until")


class Pruned(NamedTuple):
    """What went, and bytes of files in the layers that went."""

    removals: list[Removal]
    reclaimed: int


def prune(
    store: ImageStore,
    filters: Mapping[str, Sequence[str]],
    used_by: Callable[[str], Sequence[User]],
) -> Pruned:
    """Remove what the filters allow. Raises InvalidArgument."""
    for name in filters:
        if name not in KNOWN:
            raise InvalidArgument(f"invalid filter '{name}': known are {', '.join(KNOWN)}")
    given = dict(filters)
    values = given.pop("dangling", ())
    if len(values) > 1:
        raise InvalidArgument("filter dangling: give one value")
    dangling = all(image_filters.boolean("dangling", value) for value in values)
    removals: list[Removal] = []
    reclaimed = 0
    for image in store.list(given):
        if image.system or (dangling and image.references):
            continue
        if not (image.references or image.digests) and store.records.children(image.id):
            continue  # a step on the way to another image
        done, freed = _remove(store, image, used_by)
        removals += done
        reclaimed += freed
    return Pruned(removals, reclaimed)


def _remove(
    store: ImageStore, image: Image, used_by: Callable[[str], Sequence[User]]
) -> tuple[list[Removal], int]:
    if used_by(image.id):
        return [], 0
    sizes = {chain_id: store.layers.size([chain_id]) for chain_id in image.chain}
    done: list[Removal] = []
    names = image.references + image.digests
    try:
        for name in names or (image.id,):
            done += store.remove(name, used_by=used_by)
    except (Conflict, NotFound):
        # Somebody uses it since we looked, or a digest went with its repository's last tag.
        pass
    return done, sum(sizes.get(item.deleted or "", 0) for item in done)
