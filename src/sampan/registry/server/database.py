"""All that a registry knows, in one SQLite file: one thread writes, whoever wants reads.

Write-ahead logging: readers see the last commit and wait for nobody (sqlite.org/wal.html). Writes
are closures in a queue; the writer takes all that wait as one transaction, each in a savepoint of
its own (sqlite.org/lang_savepoint.html), so that one fsync serves every push that came meanwhile.
``synchronous`` is FULL for a transaction that somebody will rely on and NORMAL for one that may be
lost with the machine's power, never with this process.

``PRAGMA user_version`` and ``schema.MIGRATIONS`` as in ``sampan.storage.database``.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.errors import Corrupt, NotSupported, Unavailable
from sampan.registry.server.schema import MIGRATIONS
from sampan.registry.server.versions import sort_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = ["Database"]

T = TypeVar("T")

_BUSY_SECONDS = 30.0
_BATCH = 128


class _Job:
    """A closure, and the promise of its result."""

    __slots__ = ("durable", "future", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.future: Future[Any] = Future()
        self.result: Any = None


class _Savepoint:
    """One job's part of a transaction: what it raises undoes that part, and is the job's alone."""

    def __init__(self, connection: sqlite3.Connection, job: _Job) -> None:
        self._connection = connection
        self._job = job

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT job")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        # Some failures, a full disk first of all, have ended the whole transaction already.
        if self._connection.in_transaction:
            if error is not None:
                self._connection.execute("ROLLBACK TO job")
            self._connection.execute("RELEASE job")
        if error is not None:
            self._job.future.set_exception(_explained(error))
        return error is not None


class Database:
    """The file at ``path``, made when it is missing. ``write`` and ``rows`` are for any thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        _make(path)
        self._writer = self._connect()
        try:
            self._migrate()
        except sqlite3.DatabaseError as error:
            self._writer.close()
            raise Corrupt(f"database {path}: {error}") from error
        except NotSupported:
            self._writer.close()
            raise
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="registry-writer", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA foreign_keys=ON")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"database {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"database {self.path}: {error}") from error
        return connection

    def _migrate(self) -> None:
        execute = self._writer.execute
        self._writer.create_function("version_key", 1, sort_key, deterministic=True)
        execute("PRAGMA synchronous=FULL")
        execute("BEGIN IMMEDIATE")  # another process may be making it at this moment
        version = int(execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise NotSupported(
                f"database {self.path}: its schema is version {version}, newer than this "
                f"program's {len(MIGRATIONS)}; use the program that wrote it"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                execute(statement)
        execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        execute("COMMIT")

    def close(self) -> None:
        """Finish what is queued; the log is folded into the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        for reader in self._readers:
            reader.close()
        self._writer.close()

    # -- reading -----------------------------------------------------------------------------------

    @property
    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._connect()
            found.execute("PRAGMA query_only=ON")
            self._local.connection = found
            with self._lock:
                self._readers.append(found)
        return found

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        return self._reader.execute(query, parameters).fetchall()

    def row(self, query: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        found: tuple[Any, ...] | None = self._reader.execute(query, parameters).fetchone()
        return found

    # -- writing -----------------------------------------------------------------------------------

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction on the writer's thread; its result, when it is committed.

        What it raises comes out here, and nothing of it is done.
        """
        return self.submit(work, durable=durable).result()

    def submit(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> Future[T]:
        """The same without waiting."""
        job = _Job(work, durable)
        with self._lock:
            if self._closed:
                raise Unavailable("the registry is closed")
            self._queue.put(job)
        return job.future

    def _work(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < _BATCH and not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    open_ = False
                    break
                batch.append(job)
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        execute = self._writer.execute
        try:
            durable = any(job.durable for job in batch)
            execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            execute("BEGIN IMMEDIATE")
            for job in batch:
                with _Savepoint(self._writer, job):
                    job.result = job.work(self._writer)
                if not self._writer.in_transaction:
                    raise sqlite3.OperationalError("a failure has undone the whole transaction")
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            explained = _explained(error)
            for job in batch:
                if not job.future.done():
                    job.future.set_exception(explained)
            return
        for job in batch:
            if not job.future.done():
                job.future.set_result(job.result)


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


def _explained(error: BaseException) -> BaseException:
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return Unavailable("no space left on device: free some space, or move the registry's root")
    return error
