"""What every database does for a registry (``sampan.registry.server.database.base``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument, Unavailable
from sampan.registry.server.database.base import Database, Transaction
from sampan.registry.server.database.postgres import PostgresDatabase
from sampan.registry.server.database.sqlite import SqliteDatabase

Opener = Callable[[], Database]


def sqlite(request: pytest.FixtureRequest, place: Path) -> Opener:
    return lambda: SqliteDatabase(str(place / "registry.db"))


def postgres(request: pytest.FixtureRequest, place: Path) -> Opener:
    url = request.getfixturevalue("cluster").make()
    return lambda: PostgresDatabase(url)


@pytest.fixture(params=[sqlite, postgres])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens one and the same database each time."""
    found: list[Database] = []
    make = request.param(request, tmp_path)

    def open_() -> Database:
        found.append(make())
        return found[-1]

    yield open_
    for one in found:
        one.close()


@pytest.fixture
def database(opener: Opener) -> Database:
    return opener()


def repository(connection: Transaction, name: str) -> int:
    row = connection.execute(
        "INSERT INTO repositories (name, created, changed) VALUES (?1, ?2, ?2) RETURNING id",
        (name, 1.5),
    ).fetchone()
    return int(row[0])


def names(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT name FROM repositories ORDER BY name")]


def test_what_is_written_is_read_by_everybody(opener: Opener) -> None:
    first, second = opener(), opener()
    identifier = first.write(lambda connection: repository(connection, "a/b"))
    for one in (first, second, opener()):
        row = one.row("SELECT id, name, created FROM repositories WHERE name = ?", ("a/b",))
        assert row == (identifier, "a/b", 1.5)
    assert first.row("SELECT 1 FROM repositories WHERE name = ?", ("c",)) is None


def test_what_fails_is_undone_and_others_are_not(database: Database) -> None:
    def fail(connection: Transaction) -> None:
        repository(connection, "bad")
        raise InvalidArgument("no")

    hold = threading.Event()
    started = threading.Event()

    def wait(connection: Transaction) -> None:
        started.set()
        hold.wait(60)

    futures: list[Future[Any]] = [database.submit(wait)]
    assert started.wait(60)
    # Those that wait together are one transaction.
    futures += [database.submit(partial(repository, name=f"good{n}")) for n in range(3)]
    bad = database.submit(fail)
    futures += [database.submit(lambda connection: repository(connection, "last"))]
    hold.set()
    for one in futures:
        one.result(60)
    with pytest.raises(InvalidArgument):
        bad.result(60)
    assert names(database) == ["good0", "good1", "good2", "last"]


def test_what_the_database_refuses_is_undone_and_it_goes_on(database: Database) -> None:
    database.write(lambda connection: repository(connection, "a"))

    def twice(connection: Transaction) -> None:
        repository(connection, "b")
        repository(connection, "a")

    with pytest.raises(Exception, match=r"(?i)unique"):
        database.write(twice)
    assert names(database) == ["a"]
    database.write(lambda connection: repository(connection, "b"), durable=False)
    assert names(database) == ["a", "b"]


def test_two_writers_do_not_see_one_another_half_done(opener: Opener) -> None:
    """Each reads, then writes what it has read and one more: none is lost."""
    both = [opener(), opener()]
    both[0].write(lambda connection: repository(connection, "n"))

    def more(connection: Transaction) -> None:
        pulls = connection.execute("SELECT pulls FROM repositories").fetchone()[0]
        connection.execute("UPDATE repositories SET pulls = ?", (pulls + 1,))

    def work(database: Database) -> None:
        for _ in range(25):
            database.write(more, durable=False)

    threads = [threading.Thread(target=work, args=(one,)) for one in both * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert both[1].row("SELECT pulls FROM repositories") == (100,)


def test_counts_are_kept_by_triggers(database: Database) -> None:
    def fill(connection: Transaction) -> tuple[int, int]:
        place = repository(connection, "a")
        blob = connection.execute(
            "INSERT INTO blobs (digest, size, key, created) VALUES (?, ?, ?, ?) RETURNING id",
            ("sha256:0", 1 << 40, "k", 0.0),
        ).fetchone()[0]
        connection.executemany(
            "INSERT INTO links (repository, blob, leased) VALUES (?, ?, ?)", [(place, blob, 2.0)]
        )
        return place, blob

    place, blob = database.write(fill)
    assert database.row("SELECT links, size FROM blobs") == (1, 1 << 40)
    assert list(database.problems()) == []
    # What has a reference to it stays.
    with pytest.raises(Exception, match=r"(?i)foreign"):
        database.write(lambda c: c.execute("DELETE FROM repositories WHERE id = ?", (place,)))
    deleted = database.write(
        lambda c: c.execute("DELETE FROM links WHERE blob = ?", (blob,)).rowcount
    )
    assert deleted == 1
    assert database.row("SELECT links FROM blobs") == (0,)


def test_bytes_and_numbers_come_back_as_they_were(database: Database) -> None:
    data = bytes(range(256)) * 1000
    database.write(
        lambda c: c.execute("INSERT INTO documents (digest, data) VALUES (?, ?)", ("d", data))
    )
    row = database.row("SELECT data, length(data) FROM documents")
    assert row == (data, len(data))
    row = database.row("SELECT count(*), coalesce(sum(length(data)), 0) FROM documents")
    assert row == (1, len(data))


def test_one_at_a_time_is_alone(opener: Opener) -> None:
    first, second = opener(), opener()
    with first.alone("collection") as one, second.alone("collection") as other:
        assert one
        assert other == (not second.shared)
    with second.alone("collection", wait=True) as one:
        assert one


def test_nothing_is_written_after_the_end(database: Database) -> None:
    database.close()
    with pytest.raises(Unavailable):
        database.write(lambda connection: repository(connection, "a"))
