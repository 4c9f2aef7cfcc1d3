"""All that a registry knows, in one SQLite file: one thread writes, whoever wants reads.

Write-ahead logging: readers see the last commit and wait for nobody (sqlite.org/wal.html). Each
write has a savepoint of its own (sqlite.org/lang_savepoint.html) in the writer's transaction.
``synchronous`` is FULL for a transaction that somebody will rely on and NORMAL for one that may be
lost with the machine's power, never with this process.

``PRAGMA user_version`` and ``schema.MIGRATIONS`` as in ``sampan.storage.database``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.errors import Corrupt, NotSupported, Unavailable
from sampan.registry.server.database.base import Matching
from sampan.registry.server.database.writer import Writer
from sampan.registry.server.schema import MIGRATIONS
from sampan.registry.server.versions import sort_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from sampan.registry.server.database.base import Transaction

__all__ = ["SqliteDatabase"]

T = TypeVar("T")

_BUSY_SECONDS = 30.0


class SqliteDatabase:
    """The file at ``path``, made when it is missing. ``write`` and ``rows`` are for any thread."""

    shared = False
    matching = Matching(
        "f.found MATCH ?1",
        "bm25(f.found, 10.0, 3.0, 1.0, 1.0)",
        lambda terms: " ".join(f'"{term}"*' for term in terms),
    )

    def __init__(self, path: str) -> None:
        self.path = path
        _make(path)
        connection = _connect(path)
        try:
            _migrate(connection, path)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise Corrupt(f"database {path}: {error}") from error
        except NotSupported:
            connection.close()
            raise
        self._connection = connection
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._writer = Writer(_Session(connection))

    def close(self) -> None:
        """Finish what is queued; the log is folded into the file."""
        if self._writer.close():
            for reader in self._readers:
                reader.close()
            self._connection.close()

    # -- reading -----------------------------------------------------------------------------------

    @property
    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = _connect(self.path)
            found.execute("PRAGMA query_only=ON")
            self._local.connection = found
            with self._lock:
                self._readers.append(found)
        return found

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._reader.execute(query, parameters).fetchall()

    def row(self, query: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._reader.execute(query, parameters).fetchone()
        return found

    def now(self) -> float:
        return time.time()

    def alone(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        return contextlib.nullcontext(True)

    def problems(self) -> Iterator[str]:
        for (text,) in self.rows("PRAGMA integrity_check"):
            if text != "ok":
                yield str(text)
        for row in self.rows("PRAGMA foreign_key_check"):
            yield f"table {row[0]}, row {row[1]}: what it refers to is missing"

    # -- writing -----------------------------------------------------------------------------------

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        return self.submit(work, durable=durable).result()

    def submit(self, work: Callable[[Transaction], T], *, durable: bool = True) -> Future[T]:
        return self._writer.submit(work, durable=durable)


class _Session:
    errors = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.execute = connection.execute

    @property
    def active(self) -> bool:
        return self._connection.in_transaction

    def begin(self, durable: bool) -> sqlite3.Connection:
        self.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self.execute("BEGIN IMMEDIATE")
        return self._connection

    def explain(self, error: BaseException) -> BaseException:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return Unavailable(
                "no space left on device: free some space, or move the registry's root"
            )
        return error

    def recover(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")


def _connect(path: str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.OperationalError as error:
        raise Unavailable(f"database {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"database {path}: {error}") from error
    return connection


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    execute = connection.execute
    connection.create_function("version_key", 1, sort_key, deterministic=True)
    execute("PRAGMA synchronous=FULL")
    execute("BEGIN IMMEDIATE")  # another process may be making it at this moment
    version = int(execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise NotSupported(
            f"database {path}: its schema is version {version}, newer than this "
            f"program's {len(MIGRATIONS)}; use the program that wrote it"
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            execute(statement)
    execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    execute("COMMIT")


def _make(path: str) -> None:
    """With the right mode from the start. A file that is there is not touched: closing a descriptor
    of it would let go of the locks that other connections of this process have (fcntl(2)), and
    another process would then take the log for its own (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise Unavailable(f"database {path}: {error.strerror}") from error
