"""Manifests and tags: put, get, delete.

A manifest is put in one transaction with what it holds on to and with its tags, so it always has
what it names, and a tag always stands for a manifest that is there.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sampan.oci import digest as digests
from sampan.registry.server import documents, quota, search
from sampan.registry.server.errors import (
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    Unsupported,
)
from sampan.registry.server.links import repository_row
from sampan.registry.server.versions import sort_key
from sampan.registry.types import MANIFEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.documents import Facts, Named
    from sampan.registry.server.links import Links
    from sampan.registry.server.place import Place

__all__ = ["Manifest", "Manifests", "Put", "remove"]

_CONFIG_LIMIT = 1 << 20

_COLUMNS = """SELECT d.digest, m.media_type, d.data, length(d.data) FROM repositories r"""
_BY_TAG = f"""{_COLUMNS} JOIN tags t ON t.repository = r.id JOIN manifests m ON m.id = t.manifest
    JOIN documents d ON d.id = m.document WHERE r.name = ? AND t.name = ?"""
_BY_DIGEST = f"""{_COLUMNS} JOIN documents d ON d.digest = ?2
    JOIN manifests m ON m.repository = r.id AND m.document = d.id WHERE r.name = ?1"""
_HEADS = "SELECT d.digest, m.media_type, NULL, length(d.data) FROM repositories r"


class Manifest(NamedTuple):
    """``data`` is empty where only the head was asked for."""

    digest: str
    media_type: str
    data: bytes
    size: int


class Put(NamedTuple):
    """What was stored; ``subject`` where the manifest refers to one."""

    digest: str
    subject: str | None


class _Arrived(NamedTuple):
    """A document that was read, and is to be stored; ``now`` is when it came."""

    repository: str
    digest: str
    data: bytes
    facts: Facts
    labels: dict[str, str]
    platforms: tuple[str, ...]
    tags: Sequence[str]
    hold: bool
    now: float


class Manifests:
    """Every method may be called by any thread; ``get`` only reads."""

    def __init__(self, place: Place, links: Links) -> None:
        self._place = place
        self._links = links

    def get(self, repository: str, reference: str, *, head: bool = False) -> Manifest:
        """By tag or digest. Raises ManifestUnknown."""
        query = _BY_DIGEST if digests.is_digest(reference) else _BY_TAG
        if head:
            query = query.replace(_COLUMNS, _HEADS)
        row = self._place.database.row(query, (repository, reference))
        if row is None:
            raise ManifestUnknown(f"{repository} has no manifest {reference}", {"name": reference})
        return Manifest(row[0], row[1], row[2] or b"", row[3])

    def configuration(self, repository: str, digest: str) -> bytes:
        """An image's configuration as bytes; empty where it is too large to be one.

        Raises BlobUnknown.
        """
        reader = self._links.open(repository, digest)
        try:
            return reader.read(0, _CONFIG_LIMIT) if reader.size <= _CONFIG_LIMIT else b""
        finally:
            reader.close()

    # -- put ---------------------------------------------------------------------------------------

    def put(
        self,
        repository: str,
        media_type: str,
        data: bytes,
        *,
        digest: str | None,
        tags: Sequence[str],
        hold: bool = True,
    ) -> Put:
        """Store a document under ``digest``, or its sha256, and give it tags.

        What it names has to be there and is held on to; a cache, which fetches that when somebody
        asks for it, does not ``hold``.

        Raises DigestInvalid, ManifestInvalid, ManifestTooLarge, ManifestBlobUnknown, Unsupported;
        Denied for a tag that never moves, or by a quota.
        """
        if len(data) > MANIFEST_LIMIT:
            raise ManifestTooLarge(f"the manifest is larger than {MANIFEST_LIMIT} bytes")
        found = digests.of(data, digest or "sha256:")
        if digest is not None and digest != found:
            raise DigestInvalid(
                f"the manifest's digest is {found}, not {digest}",
                {"digest": digest, "found": found},
            )
        facts = documents.read(media_type, data)
        arrived = _Arrived(
            repository,
            found,
            data,
            facts,
            *self._configuration(repository, facts),
            tags=tags,
            hold=hold,
            now=self._place.clock.now(),
        )
        self._place.database.write(partial(self._store, arrived))
        return Put(found, facts.subject)

    def _store(self, arrived: _Arrived, connection: Transaction) -> None:
        """The document, what it holds on to, and its tags."""
        facts, now = arrived.facts, arrived.now
        place = repository_row(connection, arrived.repository, now)
        blobs = _blobs(connection, place, facts.blobs) if arrived.hold else []
        children = _children(connection, place, facts.children) if arrived.hold else []
        connection.execute(
            "INSERT OR IGNORE INTO documents (digest, data) VALUES (?, ?)",
            (arrived.digest, arrived.data),
        )
        with quota.within(connection, self._place, place, arrived.repository):
            manifest = _row(connection, place, arrived)
        _release(connection, manifest, now + self._place.lease)
        connection.executemany(
            "INSERT OR IGNORE INTO uses VALUES (?, ?, ?)",
            [(manifest, blob, place) for blob in blobs],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO children VALUES (?, ?)",
            [(manifest, child) for child in children],
        )
        self._check_tags(connection, place, arrived.repository, manifest, arrived.tags)
        _touch(connection, place, arrived.tags, now)
        connection.executemany(
            "INSERT INTO tags (repository, name, manifest, changed, version) "
            "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (repository, name) "
            "DO UPDATE SET manifest = ?3, changed = ?4",
            [(place, tag, manifest, now, sort_key(tag)) for tag in arrived.tags],
        )
        connection.execute("UPDATE repositories SET changed = ? WHERE id = ?", (now, place))
        search.refresh(connection, place)

    def _check_tags(
        self,
        connection: Transaction,
        place: int,
        repository: str,
        manifest: int,
        tags: Sequence[str],
    ) -> None:
        """Raises Denied for one that would move and never does."""
        for tag in tags:
            if not self._place.policy.is_immutable(repository, tag):
                continue
            row = connection.execute(
                "SELECT d.digest FROM tags t JOIN manifests m ON m.id = t.manifest "
                "JOIN documents d ON d.id = m.document "
                "WHERE t.repository = ? AND t.name = ? AND t.manifest <> ?",
                (place, tag, manifest),
            ).fetchone()
            if row is not None:
                raise Denied(
                    f"tag {tag} of {repository} is immutable and stands for {row[0]}: "
                    "push under another tag",
                    {"tag": tag, "digest": row[0]},
                )

    def _configuration(
        self, repository: str, facts: Facts
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Labels and platforms, as far as the image's configuration can be read."""
        if not facts.config:
            return {}, facts.platforms
        try:
            data = self.configuration(repository, facts.config)
        except BlobUnknown:
            return {}, ()  # the transaction will say so
        return documents.labels_and_platforms(data)

    # -- delete ------------------------------------------------------------------------------------

    def delete(self, repository: str, digest: str) -> None:
        """With its tags. Raises ManifestUnknown, Unsupported while an index lists it, Denied where
        a tag may not go.
        """
        lease = self._place.clock.now() + self._place.lease

        def delete(connection: Transaction) -> None:
            execute = connection.execute
            row = execute(
                """SELECT m.id, m.repository, m.document FROM repositories r
                    JOIN documents d ON d.digest = ?
                    JOIN manifests m ON m.repository = r.id AND m.document = d.id
                    WHERE r.name = ?""",
                (digest, repository),
            ).fetchone()
            if row is None:
                raise ManifestUnknown(f"{repository} has no manifest {digest}", {"name": digest})
            manifest, place, document = row
            parents = execute(
                """SELECT d.digest FROM children c JOIN manifests m ON m.id = c.manifest
                    JOIN documents d ON d.id = m.document WHERE c.child = ? LIMIT 20""",
                (manifest,),
            ).fetchall()
            if parents:
                raise Unsupported(
                    f"manifest {digest} is listed by an index of {repository}: delete that first",
                    {"manifests": [parent[0] for parent in parents]},
                )
            for (tag,) in execute("SELECT name FROM tags WHERE manifest = ?", (manifest,)):
                self._check_deletion(repository, tag)
            execute("DELETE FROM tags WHERE manifest = ?", (manifest,))
            remove(connection, manifest, document, lease)
            search.refresh(connection, place)

        self._place.database.write(delete)

    def untag(self, repository: str, tag: str) -> None:
        """The manifest stays. Raises ManifestUnknown, Denied where the tag may not go."""
        now = self._place.clock.now()

        def untag(connection: Transaction) -> None:
            row = connection.execute(
                "DELETE FROM tags WHERE name = ? AND repository = "
                "(SELECT id FROM repositories WHERE name = ?) RETURNING repository, manifest",
                (tag, repository),
            ).fetchone()
            if row is None:
                raise ManifestUnknown(f"{repository} has no tag {tag}", {"name": tag})
            self._check_deletion(repository, tag)
            connection.execute("UPDATE manifests SET touched = ? WHERE id = ?", (now, row[1]))
            search.refresh(connection, row[0])

        self._place.database.write(untag)

    def _check_deletion(self, repository: str, tag: str) -> None:
        """Raises Denied; what was done in the transaction is undone then."""
        if self._place.policy.is_undeletable(repository, tag):
            raise Denied(
                f"tag {tag} of {repository} is immutable, and may not be deleted", {"tag": tag}
            )


def remove(connection: Transaction, manifest: int, document: int, lease: float) -> None:
    """A manifest that no tag and no index needs any more, in the caller's transaction."""
    _release(connection, manifest, lease)
    connection.execute("DELETE FROM manifests WHERE id = ?", (manifest,))
    connection.execute(
        "DELETE FROM documents WHERE id = ?1 AND NOT EXISTS "
        "(SELECT 1 FROM manifests WHERE document = ?1)",
        (document,),
    )


def _touch(connection: Transaction, repository: int, tags: Sequence[str], now: float) -> None:
    """What ``tags`` have stood for until now is without them from now on."""
    connection.executemany(
        "UPDATE manifests SET touched = ?1 "
        "WHERE id IN (SELECT manifest FROM tags WHERE repository = ?2 AND name = ?3)",
        [(now, repository, tag) for tag in tags],
    )


def _row(connection: Transaction, repository: int, arrived: _Arrived) -> int:
    """A document becomes a manifest of a repository; the manifest's identifier."""
    facts = arrived.facts
    values = (
        repository,
        arrived.digest,
        facts.media_type,
        facts.artifact_type,
        facts.subject,
        json.dumps(facts.annotations),
        json.dumps(arrived.labels),
        " ".join(arrived.platforms),
        arrived.now,
    )
    row = connection.execute(
        """INSERT INTO manifests (repository, document, media_type, artifact_type, subject,
                annotations, labels, platforms, created, touched)
            VALUES (?1, (SELECT id FROM documents WHERE digest = ?2), ?3, ?4, ?5, ?6, ?7, ?8,
                ?9, ?9)
            ON CONFLICT (repository, document) DO UPDATE SET media_type = ?3,
                artifact_type = ?4, subject = ?5, annotations = ?6, labels = ?7, platforms = ?8,
                touched = ?9
            RETURNING id""",
        values,
    ).fetchone()
    return int(row[0])


def _release(connection: Transaction, manifest: int, lease: float) -> None:
    """Let go of what a manifest holds on to; its blobs stay for a lease."""
    connection.execute(
        """UPDATE links SET leased = max(leased, ?2) WHERE (repository, blob) IN
            (SELECT repository, blob FROM uses WHERE manifest = ?1)""",
        (manifest, lease),
    )
    connection.execute("DELETE FROM uses WHERE manifest = ?", (manifest,))
    connection.execute("DELETE FROM children WHERE manifest = ?", (manifest,))


def _blobs(connection: Transaction, repository: int, named: Sequence[Named]) -> list[int]:
    """The blobs a manifest names. Raises ManifestBlobUnknown, ManifestInvalid."""
    return _named(
        connection,
        """SELECT b.digest, b.size, b.id FROM json_each(?2) j JOIN blobs b ON b.digest = j.value
            JOIN links l ON l.blob = b.id AND l.repository = ?1 WHERE b.key IS NOT NULL""",
        repository,
        named,
        "blob",
    )


def _children(connection: Transaction, repository: int, named: Sequence[Named]) -> list[int]:
    return _named(
        connection,
        """SELECT d.digest, length(d.data), m.id FROM json_each(?2) j
            JOIN documents d ON d.digest = j.value
            JOIN manifests m ON m.document = d.id AND m.repository = ?1""",
        repository,
        named,
        "manifest",
    )


def _named(
    connection: Transaction, query: str, repository: int, named: Sequence[Named], what: str
) -> list[int]:
    wanted = json.dumps(list(dict.fromkeys(one.digest for one in named)))
    rows = connection.execute(query, (repository, wanted)).fetchall()
    there = {digest: (size, identifier) for digest, size, identifier in rows}
    missing = [one.digest for one in named if one.required and one.digest not in there]
    if missing:
        raise ManifestBlobUnknown(
            f"the manifest names {what}s that this repository does not have: push them first",
            {f"{what}s": missing},
        )
    for one in named:
        size = there[one.digest][0] if one.digest in there else one.size
        if one.size not in (size, -1):
            raise ManifestInvalid(
                f"the manifest says that {what} {one.digest} has {one.size} bytes: it has {size}",
                {"digest": one.digest, "size": size},
            )
    return [identifier for _, identifier in there.values()]
