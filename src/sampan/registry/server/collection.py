"""Collection, while pushes go on (docs/registry-server.md): uploads that nothing came for, links
that nothing uses, blobs without links, bytes that no row names.

Any process may collect at any time, and two may do so at once. Each change is one small
transaction; what dies between two is found by the next collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["UPLOAD_SECONDS", "Collector", "Removed", "Share"]

UPLOAD_SECONDS = 24 * 3600.0
_BATCH = 200

_UNUSED = """SELECT l.repository, l.blob, r.name, b.digest, b.size, b.links, l.leased FROM links l
    JOIN repositories r ON r.id = l.repository JOIN blobs b ON b.id = l.blob
    WHERE l.refs = 0 AND l.leased < ?"""
_KNOWN = """SELECT EXISTS (SELECT 1 FROM blobs WHERE key = ?1)
    OR EXISTS (SELECT 1 FROM trash WHERE key = ?1), EXISTS (SELECT 1 FROM uploads WHERE id = ?2)"""
_EMPTY = """SELECT id FROM repositories r
    WHERE NOT EXISTS (SELECT 1 FROM links WHERE repository = r.id)
    AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository = r.id) LIMIT ?"""


class Removed(NamedTuple):
    """``bytes`` are freed by this; those of a link whose blob has others are not."""

    what: str
    why: str
    bytes: int


class Share(NamedTuple):
    """A part of all bytes of the storage, and why they are there."""

    why: str
    things: int
    bytes: int


class Collector:
    """``tell`` hears of everything that is removed; of what would be, if it is a ``dry`` run."""

    def __init__(
        self,
        place: Place,
        tell: Callable[[Removed], None],
        *,
        dry: bool = False,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        self._place = place
        self._tell = tell
        self._dry = dry
        self._upload_seconds = upload_seconds

    def run(self) -> None:
        self._expire_uploads()
        self._unlink()
        self._forget_repositories()
        self._empty_trash()
        self._sweep_files()

    def _expire_uploads(self) -> None:
        place = self._place
        sizes = {one.name: one.size for one in place.storage.uploads()}
        before = place.clock.now() - self._upload_seconds
        rows = place.database.rows(
            "SELECT id, repository, touched, state FROM uploads WHERE touched < ?", (before,)
        )
        for identifier, repository, touched, state in rows:
            if not self._dry and not self._end_upload(identifier, touched, state):
                continue  # somebody has gone on with it, or ended it
            age = round(place.clock.now() - touched)
            self._tell(
                Removed(
                    f"upload {identifier} to {repository}",
                    f"nothing came for {age} s",
                    sizes.get(identifier, 0),
                )
            )

    def _end_upload(self, identifier: str, touched: float, state: str) -> bool:
        def end(connection: Transaction) -> int:
            return connection.execute(
                "DELETE FROM uploads WHERE id = ? AND touched = ?", (identifier, touched)
            ).rowcount

        if not self._place.database.write(end):
            return False
        self._place.storage.drop(identifier, state)
        return True

    def _unlink(self) -> None:
        """Links whose lease is over, and blobs that are without links then."""
        now = self._place.clock.now()
        if self._dry:
            self._explain_unlinking(now)
            return
        while True:
            removed = self._place.database.write(lambda connection: _unlink(connection, now))
            for one in removed:
                self._tell(one)
            if not removed:
                return

    def _explain_unlinking(self, now: float) -> None:
        rows = self._place.database.rows(_UNUSED, (now,))
        left: dict[str, int] = {}
        for _, _, name, digest, size, links, leased in rows:
            left[digest] = left.get(digest, links) - 1
            self._tell(_unlinked(name, digest, now - leased))
            if not left[digest]:
                self._tell(_unheld(digest, size))
        rows = self._place.database.rows("SELECT digest, size FROM blobs WHERE links = 0")
        for digest, size in rows:
            self._tell(_unheld(digest, size))

    def _forget_repositories(self) -> None:
        """Those that have nothing any more."""
        if self._dry:
            return  # they have no bytes

        def forget(connection: Transaction) -> int:
            rows = connection.execute(_EMPTY, (_BATCH,)).fetchall()
            connection.executemany("DELETE FROM found WHERE rowid = ?", rows)
            connection.executemany("DELETE FROM repositories WHERE id = ?", rows)
            return len(rows)

        if self._place.database.row(_EMPTY, (1,)) is not None:
            while self._place.database.write(forget):
                continue

    def _empty_trash(self) -> None:
        """Bytes of blobs whose rows are gone. They were told of when those went."""
        if self._dry:
            return
        database, storage = self._place.database, self._place.storage
        while rows := database.rows("SELECT key FROM trash LIMIT ?", (_BATCH,)):
            for (key,) in rows:
                storage.delete(key)
            database.write(
                lambda connection, rows=rows: (
                    connection.executemany(  # type: ignore[misc]
                        "DELETE FROM trash WHERE key = ?", rows
                    ).rowcount
                )
            )

    def _sweep_files(self) -> None:
        """Bytes that no row names: somebody died between two steps."""
        storage = self._place.storage
        for name, size in storage.uploads():
            if not self._is_upload(name):
                if not self._dry:
                    storage.drop(name, "")
                self._tell(Removed(f"bytes of upload {name}", "there is no such upload", size))
        for key, size in storage.blobs():
            if not any(self._owners(key)):
                if not self._dry:
                    storage.delete(key)
                self._tell(Removed(f"bytes {key}", "they became no blob", size))

    def _is_upload(self, name: str) -> bool:
        row = self._place.database.row("SELECT 1 FROM uploads WHERE id = ?", (name,))
        return row is not None

    def _owners(self, key: str) -> tuple[bool, bool]:
        """It is a blob's, or was; its upload is under way.

        In one query: a key becomes a blob's in the transaction that ends its upload.
        """
        row = self._place.database.row(_KNOWN, (key, self._place.storage.upload_of(key)))
        assert row is not None
        return bool(row[0]), bool(row[1])

    # -- why each byte is there --------------------------------------------------------------------

    def shares(self) -> Iterator[Share]:
        """All bytes of the storage, by why they are there."""
        database, storage = self._place.database, self._place.storage
        now = self._place.clock.now()
        used = "EXISTS (SELECT 1 FROM links WHERE blob = b.id AND refs > 0)"
        leased = "EXISTS (SELECT 1 FROM links WHERE blob = b.id AND leased >= ?)"
        query = f"SELECT count(*), total(size) FROM blobs b WHERE key IS NOT NULL AND {used}"
        yield Share("blobs that manifests use", *_counted(database.row(query)))
        query = query.replace(used, f"NOT {used} AND {leased}")
        yield Share(
            "blobs with a lease, for a manifest to come", *_counted(database.row(query, (now,)))
        )
        query = query.replace(f"AND {leased}", f"AND NOT {leased}")
        yield Share("blobs that nothing uses", *_counted(database.row(query, (now,))))
        sizes = []
        for (key,) in database.rows("SELECT key FROM trash"):
            try:
                reader = storage.open(key)
            except NotFound:
                continue
            sizes.append(reader.size)
            reader.close()
        yield Share("deleted blobs whose bytes are still there", len(sizes), sum(sizes))
        uploads = [one.size for one in storage.uploads()]
        strange: list[int] = []
        for one in storage.blobs():
            is_blob, is_upload = self._owners(one.name)
            if not is_blob:
                (uploads if is_upload else strange).append(one.size)
        yield Share("uploads under way", len(uploads), sum(uploads))
        yield Share("bytes that became no blob", len(strange), sum(strange))


def _counted(row: tuple[float, ...] | None) -> tuple[int, int]:
    assert row is not None
    return int(row[0]), int(row[1])


def _unlinked(name: str, digest: str, ago: float) -> Removed:
    why = f"no manifest uses it, and its lease is over for {round(ago)} s"
    return Removed(f"blob {digest} from {name}", why, 0)


def _unheld(digest: str, size: int) -> Removed:
    return Removed(f"blob {digest}", "no repository has it", size)


def _unlink(connection: Transaction, now: float) -> list[Removed]:
    """A batch, in one transaction: links, then what has none any more."""
    execute = connection.execute
    links = execute(f"{_UNUSED} LIMIT ?", (now, _BATCH)).fetchall()
    connection.executemany(
        "DELETE FROM links WHERE repository = ? AND blob = ?", [row[:2] for row in links]
    )
    removed = [_unlinked(row[2], row[3], now - row[6]) for row in links]
    blobs = execute(
        "SELECT id, digest, size, key FROM blobs WHERE links = 0 LIMIT ?", (_BATCH,)
    ).fetchall()
    connection.executemany(
        "INSERT OR IGNORE INTO trash VALUES (?)", [(row[3],) for row in blobs if row[3] is not None]
    )
    connection.executemany("DELETE FROM blobs WHERE id = ?", [(row[0],) for row in blobs])
    return removed + [_unheld(row[1], row[2] if row[3] is not None else 0) for row in blobs]
