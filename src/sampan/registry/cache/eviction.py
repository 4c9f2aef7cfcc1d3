"""What a cache forgets: what nobody used for long, and what was not used for longest where there is
more than there may be. Plain, blocking; the blobs themselves go with the collection behind it.

A blob's lease is how long it is kept, renewed when it is used; so the link whose lease ends first
is the one that was not used for longest. ``touched`` of a manifest is when it was last asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.registry.server import search
from sampan.registry.server.manifests import remove

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["evict", "note_use"]

_BATCH = 200
_FULL = 0.9
"""A cache that is too large is brought to this part of what it may have, not to the last byte."""


def note_use(place: Place, manifest: int, now: float) -> None:
    place.database.write(
        lambda connection: connection.execute(
            "UPDATE manifests SET touched = max(touched, ?) WHERE id = ?", (now, manifest)
        ),
        durable=False,
    )


def evict(place: Place, keep: float, size: int) -> tuple[int, int]:
    """How many manifests went, and how many bytes of blobs will."""
    gone = 0
    while count := place.database.write(lambda connection: _forget(connection, place, keep)):
        gone += count
    return gone, _shrink(place, size) if size else 0


def _forget(connection: Transaction, place: Place, keep: float) -> int:
    now = place.clock.now()
    rows = connection.execute(
        "SELECT id, document, repository FROM manifests WHERE touched < ? LIMIT ?",
        (now - keep, _BATCH),
    ).fetchall()
    for manifest, document, _ in rows:
        connection.execute("DELETE FROM tags WHERE manifest = ?", (manifest,))
        remove(connection, manifest, document, now)
    for repository in {row[2] for row in rows}:
        search.refresh(connection, repository)
    return len(rows)


def _shrink(place: Place, size: int) -> int:
    """End the leases of what was not used for longest."""
    row = place.database.row("SELECT coalesce(sum(size), 0) FROM blobs WHERE key IS NOT NULL")
    held = int(row[0]) if row is not None else 0
    if held <= size:
        return 0
    ends, freed = [], 0
    for blob, leased, one in place.database.rows(
        """SELECT b.id, max(l.leased), b.size FROM blobs b JOIN links l ON l.blob = b.id
            WHERE b.key IS NOT NULL GROUP BY b.id, b.size ORDER BY 2"""
    ):
        if held - freed <= size * _FULL:
            break
        ends.append((blob, leased))
        freed += one
    place.database.write(
        lambda connection: connection.executemany(
            # Not where somebody has used it meanwhile.
            "UPDATE links SET leased = 0 WHERE blob = ? AND leased <= ?",
            ends,
        )
    )
    return freed
