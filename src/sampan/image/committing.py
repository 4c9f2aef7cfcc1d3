"""An image from a container: its image's layers, and what it wrote as one more.

The layer is written once, packed, into the blob store, and unpacked from there like any other: so
it is verified, and its directory belongs to no container. A container that wrote nothing gives an
image with a step more in its history and no layer more, as Docker does it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import NotSupported
from sampan.image.types import timestamp
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.storage.archive.compression import Compressor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sampan.image.store import ImageStore
    from sampan.image.types import Image
    from sampan.oci.reference import Reference

__all__ = ["commit"]

_NOTHING = digests.of(bytes(1024))
"""The diff ID of a tar without members."""


def commit(
    store: ImageStore,
    container: str,
    image: Image,
    config: oci.ImageConfig,
    *,
    name: Reference | None,
    author: str,
    comment: str,
    created_by: str,
    check: Callable[[], None],
    marks: Collection[bytes] = (),
) -> str:
    """The new image's ID; ``image`` is the container's, ``config`` the new image's; ``marks`` are
    paths where something was mounted: what was made there for that is left out. ``check`` raises
    where the container's removal has begun by then: files that it took were not found.

    Raises NotSupported (the host image), Conflict (a file that shrinks while it is read).
    """
    if image.system:
        raise NotSupported(
            "a container of the host image stands on this machine itself, which has no bytes of "
            "its own: its changes cannot become an image; export them, or start from an imported "
            "root file system"
        )
    document = image.document
    try:
        with store.layers.hold() as hold:
            for chain_id in image.chain:
                hold.pin(chain_id)
            with store.blobs.ingest() as ingest:
                packer = Compressor(ingest.write)
                store.driver.diff(container, packer, marks)
                packer.close()
                check()
                diff_id, empty = packer.digest, packer.digest == _NOTHING
                blob, _ = hold.commit(ingest)
            chain, diff_ids = image.chain, document.rootfs.diff_ids
            if not empty:
                parent = chain[-1] if chain else None
                chain = (*chain, store.layers.unpack(diff_id, parent, blob, hold))
                diff_ids = (*diff_ids, diff_id)
            now = timestamp(time.time())
            step = oci.History(
                created=now,
                created_by=created_by,
                author=author or None,
                comment=comment or None,
                empty_layer=True if empty else None,
            )
            changed = document.replace(
                created=now,
                author=author or document.author,
                comment=comment or None,
                config=config,
                rootfs=oci.RootFS(diff_ids=diff_ids),
                history=(*document.history, step),
            )
            data = msgspec.json.encode(changed.to_json())
            with store.blobs.ingest() as ingest:
                ingest.write(data)
                hold.commit(ingest)
            with store.database.transaction(durable=True):
                size = store.layers.size(chain)
                image_id = store.records.insert(data, changed, size, parent=image.id)
                store.records.tag(image_id, () if name is None else (name,))
            return image_id
    finally:
        store.layers.collect()
