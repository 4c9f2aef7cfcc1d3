"""What several servers of a registry know, in PostgreSQL (docs/registry-servers.md).

One transaction writes at a time, in the whole cluster: it begins with an advisory lock, which goes
with it, or with its connection (PostgreSQL's manual, "Advisory Locks"). Readers take single
statements, as they are committed. What is not durable is committed with ``synchronous_commit``
off: others see it, and a database that crashes may forget it.

The connection's password is libpq's to find: PGPASSWORD, PGPASSFILE, PGSERVICE.
"""

from __future__ import annotations

import contextlib
import threading
import unicodedata
import urllib.parse
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.errors import InvalidArgument, NotSupported, SampanError, Unavailable
from sampan.registry.server.database import dialect
from sampan.registry.server.database.base import Matching
from sampan.registry.server.database.writer import Writer
from sampan.registry.server.errors import Unreachable
from sampan.registry.server.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import psycopg

    from sampan.registry.server.database.base import Rows, Transaction

    _Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = ["PostgresDatabase", "is_there"]

T = TypeVar("T")

_READERS = 8
_WRITING = 0x73616D70616E01
"""Keys of our advisory locks; whoever is alone with a name has the next ones."""
_ALONE = {"collection": _WRITING + 1}
_SETTINGS: dict[str, Any] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "tcp_user_timeout": "30000",
    "fallback_application_name": "sampan-registry",
}
_PATIENCE = "SET lock_timeout = '60s'; SET idle_in_transaction_session_timeout = '30s'"
_MATCHING = Matching(
    "f.words @@ to_tsquery('simple', ?1)",
    "-ts_rank('{0.1, 0.1, 0.3, 1.0}', f.words, to_tsquery('simple', ?1))",
    lambda terms: " & ".join(f"{_folded(term)}:*" for term in terms),
)


def _folded(word: str) -> str:
    """Without accents, as the words of ``found`` are."""
    apart = unicodedata.normalize("NFKD", word.lower())
    return "".join(letter for letter in apart if not "\u0300" <= letter <= "\u036f")


class _Driver:
    """psycopg, and how we use it."""

    def __init__(self, url: str) -> None:
        self.where = _checked(url)
        self._url = url
        try:
            import psycopg
            import psycopg.adapt
        except ImportError as error:
            raise InvalidArgument(
                f"--database {self.where}: this needs psycopg: pip install 'sampan[postgres]'"
            ) from error

        class Number(psycopg.adapt.Loader):
            """A sum of integers is one, and no Decimal."""

            def load(self, data: Any) -> int | float:
                text = bytes(data)
                return int(text) if text.lstrip(b"-").isdigit() else float(text)

        self.psycopg = psycopg
        self._number = Number

    def connect(self) -> _Connection:
        """Raises psycopg's errors."""
        connection = self.psycopg.connect(
            self._url,
            autocommit=True,
            cursor_factory=self.psycopg.RawCursor,
            **_SETTINGS,
        )
        connection.adapters.register_loader("numeric", self._number)
        connection.execute(_PATIENCE)
        return connection

    def explain(self, error: BaseException) -> BaseException:
        """What a failure is called towards whoever asked."""
        psycopg = self.psycopg
        if not isinstance(error, psycopg.Error):
            return error
        said = str(error).strip().partition("\n")[0]
        text = f"database {self.where}: {said}"
        if isinstance(error, psycopg.errors.DiskFull):
            return Unavailable(text)
        passing = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.QueryCanceled)
        explained = Unreachable(text) if isinstance(error, passing) else SampanError(text)
        explained.__cause__ = error
        return explained


def _checked(url: str) -> str:
    """How the database is called in messages. Raises InvalidArgument."""
    parts = urllib.parse.urlsplit(url)
    options = dict(urllib.parse.parse_qsl(parts.query))
    if parts.scheme not in ("postgresql", "postgres"):
        raise InvalidArgument("--database: expected postgresql://[USER@]HOST[:PORT]/NAME")
    if parts.password is not None or "password" in options:
        raise InvalidArgument(
            "--database: everybody who runs ps sees a password here; put it in PGPASSWORD, or in "
            "the file of PGPASSFILE"
        )
    return f"{parts.hostname or options.get('host', '')}{parts.path}"


def is_there(url: str) -> bool:
    """There is a registry in the database."""
    driver = _Driver(url)
    try:
        with driver.connect() as connection:
            row = connection.execute("SELECT to_regclass('registry_version')").fetchone()
    except driver.psycopg.Error as error:
        raise driver.explain(error) from error
    return row is not None and row[0] is not None


class PostgresDatabase:
    """The database at ``url``, whose tables are made when they are missing."""

    shared = True
    matching = _MATCHING

    def __init__(self, url: str) -> None:
        self._driver = _Driver(url)
        try:
            with self._driver.connect() as connection:
                _migrate(connection, self._driver.where)
        except self._driver.psycopg.Error as error:
            raise self._driver.explain(error) from error
        self._readers = _Readers(self._driver)
        self._session = _Session(self._driver)
        self._writer = Writer(self._session)

    def close(self) -> None:
        if self._writer.close():
            self._session.close()
            self._readers.close()

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._readers.fetch(query, parameters)

    def row(self, query: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        found = self._readers.fetch(query, parameters)
        return found[0] if found else None

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        return self.submit(work, durable=durable).result()

    def submit(self, work: Callable[[Transaction], T], *, durable: bool = True) -> Future[T]:
        return self._writer.submit(work, durable=durable)

    def now(self) -> float:
        row = self.row("SELECT extract(epoch FROM clock_timestamp())::double precision")
        assert row is not None
        return float(row[0])

    def problems(self) -> Iterator[str]:
        """It holds its constraints itself."""
        return iter(())

    @contextlib.contextmanager
    def alone(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        driver = self._driver
        try:
            connection = driver.connect()
        except driver.psycopg.Error as error:
            raise driver.explain(error) from error
        with connection:
            try:
                if wait:
                    connection.execute("SET lock_timeout = 0")
                    connection.execute("SELECT pg_advisory_lock($1)", [_ALONE[name]])
                    row: Any = (True,)
                else:
                    call = "SELECT pg_try_advisory_lock($1)"
                    row = connection.execute(call, [_ALONE[name]]).fetchone()
            except driver.psycopg.Error as error:
                raise driver.explain(error) from error
            yield bool(row[0])


def _migrate(connection: _Connection, where: str) -> None:
    execute = connection.execute
    encoding = execute("SHOW server_encoding").fetchone()
    if encoding != ("UTF8",):
        raise NotSupported(f"database {where}: its encoding must be UTF8: CREATE DATABASE … UTF8")
    with connection.transaction():
        execute("SELECT pg_advisory_xact_lock($1)", [_WRITING])
        execute("CREATE TABLE IF NOT EXISTS registry_version (version INTEGER NOT NULL)")
        row = execute("SELECT version FROM registry_version").fetchone()
        if row is None:
            execute("INSERT INTO registry_version VALUES (0)")
            for statement in dialect.FUNCTIONS:
                execute(statement)
        version = row[0] if row is not None else 0
        if version > len(MIGRATIONS):
            raise NotSupported(
                f"database {where}: its schema is version {version}, newer than this program's "
                f"{len(MIGRATIONS)}; use the program that wrote it"
            )
        for statement in dialect.schema(MIGRATIONS, version):
            execute(statement)
        execute("UPDATE registry_version SET version = $1", [len(MIGRATIONS)])


class _Transaction:
    """psycopg's connection, for SQL as we write it."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows:
        text, order = dialect.query(query)
        return self._connection.execute(text, [parameters[place] for place in order])

    def executemany(self, query: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        text, order = dialect.query(query)
        cursor = self._connection.cursor()
        cursor.executemany(text, [[one[place] for place in order] for one in parameters])
        return cursor


class _Session:
    """The writer's connection; another when it broke."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver
        self._status = driver.psycopg.pq.TransactionStatus
        self._connection: _Connection | None = None
        self.errors = (driver.psycopg.Error,)
        self.explain = driver.explain

    @property
    def active(self) -> bool:
        found = self._connection
        status = self._status
        return found is not None and found.info.transaction_status in (
            status.INTRANS,
            status.INERROR,
        )

    def begin(self, durable: bool) -> _Transaction:
        if self._connection is not None:
            try:
                return self._begin(self._connection, durable)
            except self._driver.psycopg.OperationalError:
                if not self._connection.broken:
                    raise
                self.close()  # it was idle, and somebody has closed it
        self._connection = self._driver.connect()
        return self._begin(self._connection, durable)

    def _begin(self, connection: _Connection, durable: bool) -> _Transaction:
        connection.execute(
            f"BEGIN; SET LOCAL synchronous_commit = {'on' if durable else 'off'}; "
            f"SELECT pg_advisory_xact_lock({_WRITING})"
        )
        return _Transaction(connection)

    def execute(self, statement: str) -> object:
        assert self._connection is not None
        return self._connection.execute(statement)

    def recover(self) -> None:
        """A connection that has failed once is not asked how it is."""
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Readers:
    """A few connections, for whoever reads."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver
        self._room = threading.BoundedSemaphore(_READERS)
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False

    def fetch(self, query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        text, order = dialect.query(query)
        wanted = [parameters[place] for place in order]
        with self._room:
            try:
                return self._fetch(text, wanted)
            except self._driver.psycopg.Error as error:
                if not isinstance(error, self._driver.psycopg.OperationalError):
                    raise self._driver.explain(error) from error
            # A connection that was idle for long may have been closed by anybody.
            self._drop()
            try:
                return self._fetch(text, wanted)
            except self._driver.psycopg.Error as error:
                raise self._driver.explain(error) from error

    def _fetch(self, text: str, parameters: list[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._driver.connect()
            connection.execute("SET default_transaction_read_only = on")
        try:
            found = connection.execute(text, parameters).fetchall()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return found
        connection.close()
        return found

    def _drop(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def close(self) -> None:
        self._closed = True
        self._drop()
