"""Where blobs stand between two registries: a blob store of the user's own, nearly always empty."""

from __future__ import annotations

import os
import time

from sampan.storage.blobs import BlobStore

__all__ = ["spool"]

_DAY = 24 * 3600.0


def spool(directory: str) -> BlobStore:
    """The store in a directory, which is made; without what nobody came back for in a day."""
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    store = BlobStore(directory)
    store.sweep(_DAY)
    for digest in store.digests():
        try:
            old = time.time() - os.stat(store.path(digest)).st_mtime > _DAY
        except FileNotFoundError:
            continue
        if old:
            store.delete(digest)
    return store
