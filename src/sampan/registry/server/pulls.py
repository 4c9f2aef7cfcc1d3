"""How often things were pulled: counted in memory, noted in the database now and then.

A pull is a manifest that somebody fetched. The manifest counts it, and its repository, unless an
index names the manifest: who pulls an index fetches that before, and pulls once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["note"]


def note(place: Place, pulls: Mapping[tuple[str, str], int]) -> None:
    """``pulls`` are by repository and digest, those since the last time."""
    now = place.clock.now()

    def work(connection: Transaction) -> None:
        for (name, digest), count in pulls.items():
            row = connection.execute(
                """SELECT r.id, m.id, EXISTS (SELECT 1 FROM children WHERE child = m.id)
                    FROM repositories r JOIN documents d ON d.digest = ?2
                    JOIN manifests m ON m.repository = r.id AND m.document = d.id
                    WHERE r.name = ?1""",
                (name, digest),
            ).fetchone()
            if row is None:
                continue  # deleted meanwhile
            repository, manifest, is_child = row
            connection.execute(
                "UPDATE manifests SET pulls = pulls + ?, pulled = ? WHERE id = ?",
                (count, now, manifest),
            )
            if not is_child:
                connection.execute(
                    "UPDATE repositories SET pulls = pulls + ? WHERE id = ?", (count, repository)
                )

    if pulls:
        place.database.write(work, durable=False)
