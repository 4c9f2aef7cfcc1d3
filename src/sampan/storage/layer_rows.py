"""The table ``layers``, asked: how large layers are, and which of them a crash has taken.

A row is (driver, chain ID, diff ID, parent, bytes of its files, boot ID until it is durable).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from sampan.storage.database import Database

__all__ = ["drop_lost", "shared_sizes", "size", "size_of"]


def size(database: Database, driver: str, chain: Sequence[str]) -> int:
    """Bytes of the files in the layers of a chain."""
    marks = ",".join("?" * len(chain))
    row = database.row(
        f"SELECT COALESCE(SUM(size), 0) FROM layers WHERE driver = ? AND chain_id IN ({marks})",
        (driver, *chain),
    )
    return 0 if row is None else int(row[0])


def size_of(database: Database, driver: str, top: str) -> int:
    """Bytes of the files in a layer and all that are below it."""
    row = database.row(
        "WITH RECURSIVE below(chain_id, parent, size) AS ("
        " SELECT chain_id, parent, size FROM layers WHERE driver = ?1 AND chain_id = ?2"
        " UNION SELECT l.chain_id, l.parent, l.size FROM layers l"
        " JOIN below b ON l.driver = ?1 AND l.chain_id = b.parent)"
        " SELECT COALESCE(SUM(size), 0) FROM below",
        (driver, top),
    )
    return 0 if row is None else int(row[0])


def shared_sizes(database: Database, driver: str) -> dict[str, int]:
    """For each image the size of its layers that are another's too."""
    rows = database.rows(
        "SELECT i.image_id, COALESCE(SUM(CASE WHEN n.images > 1 THEN l.size ELSE 0 END), 0)"
        " FROM image_layers i"
        " JOIN (SELECT chain_id, COUNT(DISTINCT image_id) AS images FROM image_layers"
        "       GROUP BY chain_id) n ON n.chain_id = i.chain_id"
        " JOIN layers l ON l.chain_id = i.chain_id AND l.driver = ?"
        " GROUP BY i.image_id",
        (driver,),
    )
    return {row[0]: row[1] for row in rows}


def drop_lost(
    database: Database, driver: str, present: Set[str], boot: str
) -> tuple[set[str], bool]:
    """Forget layers without a directory, those another boot may have damaged, and what stands on
    such; the layers that are left, and whether this boot made some that are not durable yet."""
    rows = {
        row[0]: (row[1], row[2])
        for row in database.rows(
            "SELECT chain_id, parent, boot_id FROM layers WHERE driver = ?", (driver,)
        )
    }
    lost = {
        chain_id
        for chain_id, (_, written) in rows.items()
        if chain_id not in present or written not in (None, boot)
    }
    before = -1
    while before != len(lost):
        before = len(lost)
        lost.update(chain_id for chain_id, (parent, _) in rows.items() if parent in lost)
    with database.transaction() as connection:
        for chain_id in lost:
            connection.execute(
                "DELETE FROM layers WHERE driver = ? AND chain_id = ?", (driver, chain_id)
            )
    return rows.keys() - lost, any(written == boot for _, written in rows.values())
