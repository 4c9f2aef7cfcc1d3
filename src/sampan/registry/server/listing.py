"""Lists: tags, repositories, referrers. Every one comes in pages, by the last name of the one
before; all of this only reads.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from sampan.oci.image import INDEX
from sampan.registry.server.errors import NameUnknown

if TYPE_CHECKING:
    from sampan.registry.server.place import Place

__all__ = ["Names", "Referrers", "catalog", "referrers", "tags"]

_REFERRERS = 500


class Names(NamedTuple):
    """``more``: there are names behind the last one."""

    names: list[str]
    more: bool


class Referrers(NamedTuple):
    """Descriptors, in the order they came; ``next`` continues behind them, where it is not 0."""

    descriptors: list[dict[str, Any]]
    next: int


class _Listed(msgspec.Struct):
    manifests: list[dict[str, Any]] | None = None


def tags(place: Place, repository: str, limit: int, last: str) -> Names:
    """In lexical order, whatever the case. Raises NameUnknown."""
    row = place.database.row("SELECT id FROM repositories WHERE name = ?", (repository,))
    if row is None:
        raise NameUnknown(f"there is no repository {repository}", {"name": repository})
    rows = place.database.rows(
        """SELECT name FROM tags WHERE repository = ?1 AND lower(name) >= lower(?2)
            AND (lower(name) > lower(?2) OR name > ?2)
            ORDER BY lower(name), name LIMIT ?3""",
        (row[0], last, limit + 1),
    )
    return _page([row[0] for row in rows], limit)


def catalog(place: Place, limit: int, last: str) -> Names:
    rows = place.database.rows(
        "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", (last, limit + 1)
    )
    return _page([row[0] for row in rows], limit)


def _page(names: list[str], limit: int) -> Names:
    return Names(names[:limit], len(names) > limit)


def referrers(
    place: Place, repository: str, digest: str, artifact_type: str, after: int
) -> Referrers:
    """Manifests of the repository whose subject is ``digest``; of one artifact type if it is said.

    On the first page with them come those that only the tag of the fallback lists (distribution
    specification, "Referrers Tag Schema"): a client without this API has put them there.
    """
    rows = place.database.rows(
        """SELECT m.id, d.digest, length(d.data), m.media_type, m.artifact_type, m.annotations
            FROM repositories r JOIN manifests m ON m.repository = r.id AND m.subject = ?2
            JOIN documents d ON d.id = m.document
            WHERE r.name = ?1 AND m.id > ?3 AND (?4 = '' OR m.artifact_type = ?4)
            ORDER BY m.id LIMIT ?5""",
        (repository, digest, after, artifact_type, _REFERRERS + 1),
    )
    found = [_descriptor(*row[1:]) for row in rows[:_REFERRERS]]
    following = rows[_REFERRERS - 1][0] if len(rows) > _REFERRERS else 0
    if not after:
        known = {one["digest"] for one in found}
        found += [
            one
            for one in _fallback(place, repository, digest)
            if one["digest"] not in known and artifact_type in ("", one.get("artifactType"))
        ]
    return Referrers(found, following)


def _descriptor(
    digest: str, size: int, media_type: str, artifact_type: str, annotations: str
) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        found["artifactType"] = artifact_type
    if said := json.loads(annotations):
        found["annotations"] = said
    return found


def _fallback(place: Place, repository: str, digest: str) -> list[dict[str, Any]]:
    """What the fallback's tag lists and this repository has."""
    row = place.database.row(
        """SELECT d.data, m.id FROM repositories r JOIN tags t ON t.repository = r.id
            JOIN manifests m ON m.id = t.manifest JOIN documents d ON d.id = m.document
            WHERE r.name = ? AND t.name = ? AND m.media_type = ?""",
        (repository, digest.replace(":", "-")[:128], INDEX),
    )
    if row is None:
        return []
    listed = msgspec.json.decode(row[0], type=_Listed).manifests or []
    there = {
        child[0]
        for child in place.database.rows(
            """SELECT d.digest FROM children c JOIN manifests m ON m.id = c.child
                JOIN documents d ON d.id = m.document WHERE c.manifest = ?
                AND (m.subject IS NULL OR m.subject = ?)""",
            (row[1], digest),
        )
    }
    return [one for one in listed if one["digest"] in there][:_REFERRERS]
