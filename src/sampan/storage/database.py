"""What is known, in one SQLite file: images, tags, layers, containers, volumes.

Write-ahead logging with ``synchronous=NORMAL``: a process killed at any instruction loses nothing
that was committed; a machine that loses power may lose the last commits and never the file's
integrity (sqlite.org/wal.html, "Performance Considerations"). A change that must outlive a power
failure asks for ``transaction(durable=True)``.

One connection, guarded by a re-entrant lock, serves every thread: commits are serial in SQLite
anyway, statements here take microseconds, and one connection keeps one cache of pages and of
prepared statements. ``bench/layers.py`` prints what a container's row costs.

A disk that is full refuses every change, but for those that make room (``release``).

The schema is the table ``_MIGRATIONS``: entry *n* takes a file from version *n* to *n + 1*
(``PRAGMA user_version``) in one transaction with the number itself.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.errors import Corrupt, NotSupported, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sampan.storage.reserve import Reserve

__all__ = ["SCHEMA_VERSION", "Database"]

T = TypeVar("T")

_BUSY_TIMEOUT = 5.0
# How a full disk is told: for the log and the file, for the log's index, and by a quota.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE}

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE images (
            id TEXT PRIMARY KEY,
            document BLOB NOT NULL,
            parent TEXT NOT NULL DEFAULT '',
            size INTEGER NOT NULL,
            created REAL NOT NULL,
            loaded REAL NOT NULL,
            tagged REAL NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        """CREATE TABLE image_layers (
            image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            diff_id TEXT NOT NULL,
            chain_id TEXT NOT NULL,
            PRIMARY KEY (image_id, position)
        ) WITHOUT ROWID""",
        "CREATE INDEX image_layers_by_chain ON image_layers(chain_id)",
        "CREATE INDEX image_layers_by_diff ON image_layers(diff_id)",
        """CREATE TABLE tags (
            reference TEXT PRIMARY KEY,
            image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
        ) WITHOUT ROWID""",
        "CREATE INDEX tags_by_image ON tags(image_id)",
        """CREATE TABLE layers (
            driver TEXT NOT NULL,
            chain_id TEXT NOT NULL,
            diff_id TEXT NOT NULL,
            parent TEXT,
            size INTEGER NOT NULL,
            boot_id TEXT,
            PRIMARY KEY (driver, chain_id)
        ) WITHOUT ROWID""",
        """CREATE TABLE layer_blobs (
            diff_id TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            size INTEGER NOT NULL,
            tar_size INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX layer_blobs_by_digest ON layer_blobs(digest)",
        """CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT UNIQUE NOT NULL,
            created REAL NOT NULL,
            config BLOB NOT NULL,
            state BLOB NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE volumes (
            name TEXT PRIMARY KEY,
            driver TEXT NOT NULL,
            created REAL NOT NULL,
            anonymous INTEGER NOT NULL,
            labels TEXT NOT NULL,
            options TEXT NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # What registries gave or were given: an image's manifests as bytes, and where a layer is
        # known to be, as which blob.
        """CREATE TABLE manifests (
            image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
            digest TEXT NOT NULL,
            media_type TEXT NOT NULL,
            document BLOB NOT NULL,
            seen REAL NOT NULL,
            PRIMARY KEY (image_id, digest)
        ) WITHOUT ROWID""",
        """CREATE TABLE layer_origins (
            diff_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            repository TEXT NOT NULL,
            size INTEGER NOT NULL,
            PRIMARY KEY (diff_id, digest, repository)
        ) WITHOUT ROWID""",
    ),
    (
        # An address of a network is one endpoint's, or nobody's.
        """CREATE TABLE networks (
            id TEXT PRIMARY KEY,
            name TEXT UNIQUE NOT NULL,
            created INTEGER NOT NULL,
            document BLOB NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE endpoints (
            id TEXT PRIMARY KEY,
            network_id TEXT NOT NULL REFERENCES networks(id),
            container_id TEXT NOT NULL,
            document BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX endpoints_by_network ON endpoints(network_id)",
        """CREATE TABLE leases (
            network_id TEXT NOT NULL REFERENCES networks(id),
            address TEXT NOT NULL,
            endpoint_id TEXT NOT NULL REFERENCES endpoints(id) ON DELETE CASCADE,
            PRIMARY KEY (network_id, address)
        ) WITHOUT ROWID""",
        "CREATE INDEX leases_by_endpoint ON leases(endpoint_id)",
    ),
)
SCHEMA_VERSION = len(_MIGRATIONS)


class Database:
    """The file at ``path``, made or migrated when opened. Safe to share between threads.

    ``read_only``: another process's file, which is neither made nor migrated nor locked.
    ``reserve``: the room there is for ``release``; whose it is closes it.
    """

    def __init__(
        self, path: str, *, read_only: bool = False, reserve: Reserve | None = None
    ) -> None:
        self.path = path
        self._reserve = reserve
        self._lock = threading.RLock()
        self._depth = 0
        if read_only:
            self._open_read_only()
        else:
            self._open()

    def _open_read_only(self) -> None:
        from urllib.parse import quote

        try:
            self._connection = sqlite3.connect(
                f"file:{quote(self.path)}?mode=ro",
                uri=True,
                timeout=_BUSY_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
            version = self._version()
        except sqlite3.DatabaseError as error:
            raise Unavailable(f"database {self.path}: {error}") from error
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise NotSupported(
                f"database {self.path}: its schema is version {version}, and this program's is "
                f"{SCHEMA_VERSION}; use the version of the program that wrote it"
            )

    def _open(self) -> None:
        path = self.path
        try:
            # Environments are in it, and passwords in those (class of CVE-2021-41091). SQLite makes
            # the journal's files with the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
        except OSError as error:
            raise Unavailable(f"database {path}: {error.strerror}") from error
        try:
            # isolation_level=None: no implicit BEGIN; transaction() is the only one who begins.
            self._connection = sqlite3.connect(
                path,
                timeout=_BUSY_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except sqlite3.OperationalError as error:
            raise Unavailable(f"database {path}: {error}") from error
        try:
            self._with_room(self._set_up)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise Corrupt(f"database {path}: {error}") from error
        except NotSupported:
            self._connection.close()
            raise

    def _set_up(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._migrate()

    def _with_room(self, work: Callable[[], T]) -> T:
        """Again and again, while the disk is full and the reserve has anything to give."""
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                full = error.sqlite_errorcode in _FULL and not self._depth
                if not full or self._reserve is None or not self._reserve.give_up():
                    raise

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in by SQLite."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end of the block, rolled back by an exception.

        Nested blocks of one thread join the outermost. ``durable`` makes the commit wait for the
        disk; it has no effect in a nested block.
        """
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield self._connection
                finally:
                    self._depth -= 1
                return
            if self._reserve is not None:
                self._reserve.refill()
            execute = self._connection.execute
            if durable:
                execute("PRAGMA synchronous=FULL")
            try:
                execute("BEGIN IMMEDIATE")
                self._depth = 1
                try:
                    yield self._connection
                    execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        execute("ROLLBACK")
                    raise
                finally:
                    self._depth = 0
            finally:
                if durable:
                    execute("PRAGMA synchronous=NORMAL")

    def release(self, work: Callable[[], T], *, durable: bool = False) -> T:
        """``work`` in a transaction, done again with more room as long as the disk is full and the
        reserve has any. For what makes room, and nothing else.

        In a transaction of the caller's it is a part of that, and what it was called for counts.
        """

        def once() -> T:
            with self.transaction(durable=durable):
                return work()

        with self._lock:
            return self._with_room(once)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()

    def row(self, query: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        with self._lock:
            found: tuple[Any, ...] | None = self._connection.execute(query, parameters).fetchone()
            return found

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """One statement, committed at once outside a transaction; the count of changed rows.

        A broken constraint is ``sqlite3.IntegrityError``: who writes a row knows what it means.
        """
        with self._lock:
            return self._connection.execute(statement, parameters).rowcount

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        version = self._version()
        if version > SCHEMA_VERSION:
            raise NotSupported(
                f"database {self.path}: its schema is version {version}, newer than this "
                f"program's {SCHEMA_VERSION}; use the program that wrote it"
            )
        for number in range(version, SCHEMA_VERSION):
            with self.transaction(durable=True) as connection:
                for statement in _MIGRATIONS[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={number + 1}")
