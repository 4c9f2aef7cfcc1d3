"""Search over repositories: by name, description, label and platform, ranked by the database
(sqlite.org/fts5; PostgreSQL's manual, "Full Text Search").

A repository has one row in ``found``, written in the transaction that changed a manifest or a tag
of it: its name's words, the newest description that one of its tagged manifests gives, their labels
and annotations, their platforms. Of very many tags the newest count.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["Found", "Page", "refresh", "search"]

_TAGS = 50
_TEXT = 16 * 1024
_DESCRIPTIONS = (
    "org.opencontainers.image.description",
    "org.label-schema.description",
    "description",
    "summary",
    "org.opencontainers.image.title",
)
_WORD = re.compile(r"[^\W_]+")
_TERMS = 16


class Found(NamedTuple):
    name: str
    description: str
    pulls: int


class Page(NamedTuple):
    """``total`` of all that was found."""

    total: int
    results: list[Found]


def refresh(connection: Transaction, repository: int) -> None:
    """Write the repository's row again, in the caller's transaction."""
    rows = connection.execute(
        """SELECT m.annotations, m.labels, m.platforms FROM tags t
            JOIN manifests m ON m.id = t.manifest
            WHERE t.repository = ? ORDER BY t.changed DESC LIMIT ?""",
        (repository, _TAGS),
    ).fetchall()
    description = ""
    words: dict[str, None] = {}
    platforms: dict[str, None] = {}
    for noted, labels, places in rows:
        said = json.loads(noted) | json.loads(labels)
        if not description:
            description = next((said[key] for key in _DESCRIPTIONS if said.get(key)), "")
        words.update(dict.fromkeys(f"{key}={value}" for key, value in said.items()))
        platforms.update(dict.fromkeys(places.split()))
    connection.execute("DELETE FROM found WHERE rowid = ?", (repository,))
    connection.execute(
        "INSERT INTO found (rowid, name, description, labels, platforms) "
        "SELECT id, name, ?, ?, ? FROM repositories WHERE id = ?",
        (description[:_TEXT], " ".join(words)[:_TEXT], " ".join(platforms)[:_TEXT], repository),
    )


def search(place: Place, text: str, limit: int, offset: int = 0) -> Page:
    """Repositories with every word of ``text``, or words that begin so; the best first.

    What is called so comes first, then a word in the name counts most; between equals the one that
    is pulled more comes first.
    """
    terms = _WORD.findall(text)[:_TERMS]
    if not terms:
        return Page(0, [])
    matching = place.database.matching
    query = matching.text(terms)
    total = place.database.row(f"SELECT count(*) FROM found f WHERE {matching.condition}", (query,))
    rows = place.database.rows(
        f"""SELECT r.name, f.description, r.pulls FROM found f JOIN repositories r ON r.id = f.rowid
            WHERE {matching.condition}
            ORDER BY r.name <> ?4, substr(r.name, length(r.name) - length(?4)) <> '/' || ?4,
                {matching.rank}, r.pulls DESC, r.name
            LIMIT ?2 OFFSET ?3""",
        (query, limit, offset, text.strip().lower()),
    )
    return Page(total[0] if total else 0, [Found(*row) for row in rows])
