"""What people ask a registry: its repositories, and a repository's tags with what there is to know
of each. All of this only reads; every list comes in pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sampan.registry.server import search
from sampan.registry.server.errors import NameUnknown
from sampan.registry.server.versions import sort_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.registry.server.place import Place

__all__ = ["ORDERS", "Listed", "Repository", "Tag", "find", "repositories", "repository", "tags"]

ORDERS = ("version", "name", "pushed")
_BATCH = 500
_SEARCHED = 1000
_WIDEST = 20
"""Platforms of a repository that are told."""

_REPOSITORY = """SELECT r.name, coalesce(f.description, ''), coalesce(f.platforms, ''), r.changed,
    r.pulls, (SELECT count(*) FROM tags t WHERE t.repository = r.id)
    FROM repositories r LEFT JOIN found f ON f.rowid = r.id"""
# An index is as large as the blobs of its manifests together, each counted once.
_TAG = """SELECT t.name, d.digest, m.media_type, m.artifact_type, m.platforms, t.changed,
    m.pulls, m.pulled,
    (SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE b.id IN (SELECT u.blob FROM uses u
        WHERE u.manifest IN (SELECT m.id UNION ALL
            SELECT c.child FROM children c WHERE c.manifest = m.id))),
    (SELECT count(*) FROM manifests s WHERE s.repository = t.repository AND s.subject = d.digest)
    FROM tags t JOIN manifests m ON m.id = t.manifest JOIN documents d ON d.id = m.document
    WHERE t.repository = ?1"""


class Repository(NamedTuple):
    """``platforms`` of its newest tags; ``changed`` in seconds since the epoch."""

    name: str
    description: str
    platforms: tuple[str, ...]
    changed: float
    pulls: int
    tags: int


class Tag(NamedTuple):
    """``size`` of the blobs, in bytes; ``pulls`` of what the tag stands for now, ``pulled`` when
    that was pulled last; ``referrers`` are manifests whose subject it is.
    """

    name: str
    digest: str
    media_type: str
    artifact_type: str
    platforms: tuple[str, ...]
    changed: float
    pulls: int
    pulled: float | None
    size: int
    referrers: int


class Listed(NamedTuple):
    """A page; ``more``: there is another behind it."""

    tags: list[Tag]
    more: bool


def _repository(row: tuple[str, str, str, float, int, int]) -> Repository:
    return Repository(row[0], row[1], tuple(row[2].split()[:_WIDEST]), *row[3:])


def _tag(row: tuple[Any, ...]) -> Tag:
    return Tag(*row[:4], tuple(row[4].split()), *row[5:])  # type: ignore[call-arg]


def repository(place: Place, name: str) -> Repository:
    """Raises NameUnknown."""
    row = place.database.row(f"{_REPOSITORY} WHERE r.name = ?", (name,))
    if row is None:
        raise NameUnknown(f"there is no repository {name}", {"name": name})
    return _repository((row[0], row[1], row[2], row[3], row[4], row[5]))


def repositories(
    place: Place, limit: int, last: str, sees: Callable[[str], bool]
) -> tuple[list[Repository], bool]:
    """In the order of their names, those that ``sees`` allows; whether there are more."""
    found: list[Repository] = []
    while True:
        names = place.database.rows(
            "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", (last, _BATCH)
        )
        for (name,) in names:
            if not sees(name):
                continue
            if len(found) == limit:
                return found, True
            found.append(repository(place, name))
        if len(names) < _BATCH:
            return found, False
        last = names[-1][0]


def find(
    place: Place, text: str, limit: int, offset: int, sees: Callable[[str], bool]
) -> tuple[list[Repository], bool]:
    """The best first, of the first thousand that have the words."""
    hits = search.search(place, text, _SEARCHED).results
    names = [hit.name for hit in hits if sees(hit.name)]
    page = names[offset : offset + limit]
    return [repository(place, name) for name in page], len(names) > offset + limit


def tags(
    place: Place,
    name: str,
    limit: int,
    *,
    order: str = "version",
    text: str = "",
    last: str = "",
    at: float = 0.0,
) -> Listed:
    """Those with ``text`` in their name, behind the tag ``last`` (which was pushed ``at``).

    ``version`` and ``pushed``: the newest first. Raises NameUnknown.
    """
    row = place.database.row("SELECT id FROM repositories WHERE name = ?", (name,))
    if row is None:
        raise NameUnknown(f"there is no repository {name}", {"name": name})
    query = _TAG
    if text:
        query += " AND instr(lower(t.name), ?2) > 0"
    if order == "version":
        if last:
            query += " AND (t.version, t.name) < (?3, ?4)"
        query += " ORDER BY t.version DESC, t.name DESC"
    elif order == "pushed":
        if last:
            query += " AND (t.changed, t.name) < (?5, ?4)"
        query += " ORDER BY t.changed DESC, t.name DESC"
    else:
        query += " AND t.name > ?4 ORDER BY t.name"
    rows = place.database.rows(
        f"{query} LIMIT ?6",
        (row[0], text.lower(), sort_key(last), last, at, limit + 1),
    )
    found = [_tag(values) for values in rows[:limit]]
    return Listed(found, len(rows) > limit)
