"""What nothing uses any more is removed: layers from the top down, and then blobs.

What is in use is looked up and never counted (``layers`` says by what). The caller holds the
store's lock; ``pins`` are the layers and blobs of operations under way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from sampan.storage.blobs import BlobStore
    from sampan.storage.database import Database
    from sampan.storage.drivers.base import SnapshotDriver

__all__ = ["collect_blobs", "collect_layers"]


def collect_layers(
    database: Database, driver: SnapshotDriver, pins: Collection[str], *, adopted: bool
) -> list[str]:
    """Remove a driver's layers that nothing uses; their chain IDs, the topmost first."""
    rows: dict[str, str | None] = dict(
        database.rows("SELECT chain_id, parent FROM layers WHERE driver = ?", (driver.name,))
    )
    wanted = {row[0] for row in database.rows("SELECT chain_id FROM image_layers")}
    if not adopted:
        without_blob = database.rows(
            "SELECT chain_id FROM layers WHERE driver = ?"
            " AND diff_id NOT IN (SELECT diff_id FROM layer_blobs)",
            (driver.name,),
        )
        wanted.update(row[0] for row in without_blob)
    wanted.update(driver.held(), pins)
    used: set[str] = set()
    for chain_id in wanted:
        at: str | None = chain_id
        while at is not None and at in rows and at not in used:
            used.add(at)
            at = rows[at]
    unused: list[str] = []
    for chain_id in _topmost_first({n: rows[n] for n in rows if n not in used}):
        claim = None if chain_id in used else driver.claim_layer(chain_id)
        if claim is None:
            # Another program runs containers on it, or one of ours was made on it since we looked:
            # what is below stays with it.
            used.update(name for name in (rows[chain_id],) if name is not None)
            continue
        try:
            # The row first: a directory without a row is removed at the next opening.
            row = (driver.name, chain_id)
            query = "DELETE FROM layers WHERE driver = ? AND chain_id = ?"
            database.release(lambda: database.execute(query, row))  # noqa: B023 - called here
            driver.remove_layer(chain_id)
        finally:
            os.close(claim)
        unused.append(chain_id)
    return unused


def collect_blobs(database: Database, blobs: BlobStore, pins: Collection[str]) -> None:
    """Forget blobs of layers that are gone, and delete what no row names."""

    def forget() -> None:
        database.execute(
            "DELETE FROM layer_blobs WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
            " AND diff_id NOT IN (SELECT diff_id FROM layers)"
        )
        database.execute(
            "DELETE FROM layer_origins WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
        )

    database.release(forget)
    kept = {row[0] for row in database.rows("SELECT digest FROM layer_blobs")}
    kept.update(row[0] for row in database.rows("SELECT id FROM images"))
    for digest in list(blobs.digests()):
        if digest not in kept and digest not in pins:
            blobs.delete(digest)


def _topmost_first(parents: dict[str, str | None]) -> list[str]:
    ordered: list[str] = []
    left = dict(parents)
    while left:
        lower = set(left.values())
        tops = sorted(name for name in left if name not in lower)
        ordered += tops
        for name in tops:
            del left[name]
    return ordered
