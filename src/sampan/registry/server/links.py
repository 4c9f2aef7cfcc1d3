"""Which repository has which blob, and until when it stays though no manifest uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import NotFound
from sampan.registry.server import quota
from sampan.registry.server.errors import BlobUnknown, Unsupported, UploadUnknown

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place
    from sampan.registry.server.storage.base import Reader

__all__ = ["Blob", "Links", "repository_row"]

_URL_SECONDS = 1200.0
"""Less than a lease is meant to be; where it is more, the bucket may say that the blob is gone."""

_FIND = """SELECT b.id, b.digest, b.size, b.key, l.repository, l.refs, l.leased FROM repositories r
    JOIN links l ON l.repository = r.id JOIN blobs b ON b.id = l.blob
    WHERE r.name = ? AND b.digest = ?"""


class Blob(NamedTuple):
    """A blob of a repository."""

    identifier: int
    digest: str
    size: int
    key: str
    repository: int
    refs: int
    leased: float


def repository_row(connection: Transaction, name: str, now: float) -> int:
    """The identifier of a repository, which is made where it is missing."""
    row = connection.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return int(row[0])
    row = connection.execute(
        "INSERT INTO repositories (name, created, changed) VALUES (?, ?, ?) RETURNING id",
        (name, now, now),
    ).fetchone()
    return int(row[0])


class Links:
    """Every method may be called by any thread; ``find`` and ``has_blob`` only read."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def find(self, repository: str, digest: str) -> Blob:
        """Raises BlobUnknown: the repository does not have it, or its bytes are in quarantine."""
        row = self._place.database.row(_FIND, (repository, digest))
        if row is None or row[3] is None:
            raise BlobUnknown(f"{repository} has no blob {digest}", {"digest": digest})
        return Blob(*row)

    def open(self, repository: str, digest: str) -> Reader:
        """The bytes. Raises BlobUnknown."""
        while True:
            blob = self.find(repository, digest)
            try:
                return self._place.storage.open(blob.key)
            except NotFound as error:
                # Collected, and pushed again, between the two?
                if self.find(repository, digest).key == blob.key:
                    raise BlobUnknown(
                        f"the bytes of blob {digest} are missing: run 'sampan registry fsck'"
                    ) from error

    def url(self, blob: Blob) -> str | None:
        """Where clients may fetch the bytes themselves; None where they come from us."""
        if not self._place.redirect:
            return None
        return self._place.storage.url(blob.key, _URL_SECONDS)

    def due(self, blob: Blob) -> bool:
        """Its lease is to be renewed, since somebody was told that it is there."""
        return not blob.refs and blob.leased - self._place.clock.now() < self._place.lease / 2

    def renew(self, blob: Blob) -> None:
        """Raises BlobUnknown: it was collected at this moment."""
        until = self._place.clock.now() + self._place.lease

        def renew(connection: Transaction) -> int:
            return connection.execute(
                "UPDATE links SET leased = max(leased, ?) WHERE repository = ? AND blob = ?",
                (until, blob.repository, blob.identifier),
            ).rowcount

        if not self._place.database.write(renew, durable=False):
            raise BlobUnknown(f"blob {blob.digest} has just been collected: push it again")

    def has_blob(self, digest: str) -> bool:
        """Whether the bytes are in the storage, for whichever repository."""
        row = self._place.database.row("SELECT key FROM blobs WHERE digest = ?", (digest,))
        return row is not None and row[0] is not None

    def arrive(self, repository: str, digest: str, size: int, upload: str, key: str | None) -> bool:
        """An upload becomes a blob of a repository, and its row goes: one transaction.

        With ``key`` its bytes are those of the blob, unless there are some already. Without, False
        where there are none. Raises UploadUnknown: it was ended meanwhile; Denied by a quota.
        """
        now = self._place.clock.now()

        def arrive(connection: Transaction) -> bool:
            execute = connection.execute
            row = execute("SELECT id, key FROM blobs WHERE digest = ?", (digest,)).fetchone()
            if (row is None or row[1] is None) and key is None:
                return False
            if not execute("DELETE FROM uploads WHERE id = ?", (upload,)).rowcount:
                raise UploadUnknown(f"upload {upload} has ended: begin a new one")
            if row is None:
                blob = execute(
                    "INSERT INTO blobs (digest, size, key, created) VALUES (?, ?, ?, ?) "
                    "RETURNING id",
                    (digest, size, key, now),
                ).fetchone()[0]
            else:
                blob = row[0]
                if row[1] is None:
                    execute("UPDATE blobs SET key = ?, size = ? WHERE id = ?", (key, size, blob))
                elif key is not None and key != row[1]:
                    execute("INSERT OR IGNORE INTO trash VALUES (?)", (key,))
            self._link(connection, repository, blob, now)
            return True

        return self._place.database.write(arrive)

    def _link(self, connection: Transaction, name: str, blob: int, now: float) -> None:
        """Raises Denied by a quota."""
        repository = repository_row(connection, name, now)
        with quota.within(connection, self._place, repository, name):
            connection.execute(
                "INSERT INTO links (repository, blob, leased) VALUES (?, ?, ?) ON CONFLICT "
                "(repository, blob) DO UPDATE SET leased = max(links.leased, excluded.leased)",
                (repository, blob, now + self._place.lease),
            )

    def mount(self, repository: str, digest: str, source: str | None) -> bool:
        """Link a blob that ``source`` has, or any repository; whether that is so.

        Raises Denied by a quota: the blob counts here as it does there.
        """
        now = self._place.clock.now()
        query = "SELECT b.id FROM blobs b WHERE b.digest = ? AND b.key IS NOT NULL AND b.links > 0"
        parameters: tuple[str, ...] = (digest,)
        if source is not None:
            query += """ AND EXISTS (SELECT 1 FROM links l JOIN repositories r
                ON r.id = l.repository WHERE l.blob = b.id AND r.name = ?)"""
            parameters = (digest, source)
        if self._place.database.row(query, parameters) is None:
            return False

        def mount(connection: Transaction) -> bool:
            row = connection.execute(query, parameters).fetchone()
            if row is None:
                return False
            self._link(connection, repository, row[0], now)
            return True

        return self._place.database.write(mount)

    def unlink(self, repository: str, digest: str) -> None:
        """Take the blob from the repository. Raises BlobUnknown, Unsupported while it is used."""

        def unlink(connection: Transaction) -> None:
            row = connection.execute(_FIND, (repository, digest)).fetchone()
            if row is None:
                raise BlobUnknown(f"{repository} has no blob {digest}", {"digest": digest})
            blob = Blob(*row)
            if blob.refs:
                users = connection.execute(
                    """SELECT d.digest FROM uses u JOIN manifests m ON m.id = u.manifest
                        JOIN documents d ON d.id = m.document
                        WHERE u.repository = ? AND u.blob = ? LIMIT 20""",
                    (blob.repository, blob.identifier),
                ).fetchall()
                raise Unsupported(
                    f"blob {digest} is used by {blob.refs} manifests of {repository}: "
                    "delete those first",
                    {"manifests": [user[0] for user in users]},
                )
            connection.execute(
                "DELETE FROM links WHERE repository = ? AND blob = ?",
                (blob.repository, blob.identifier),
            )

        self._place.database.write(unlink)
