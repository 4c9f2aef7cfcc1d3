"""The database: transactions, migrations, threads, and what survives a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Corrupt, NotSupported, Unavailable
from sampan.storage.database import SCHEMA_VERSION, Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "sampan.db"))
    yield opened
    opened.close()


def add(database: Database, name: str) -> None:
    database.execute("INSERT INTO containers VALUES (?, ?, 1.0, x'', x'')", (name, name))


def names(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT name FROM containers ORDER BY name")]


def test_a_new_file_has_the_schema_and_the_journal_asked_for(database: Database) -> None:
    assert database.row("PRAGMA user_version") == (SCHEMA_VERSION,)
    assert database.row("PRAGMA journal_mode") == ("wal",)
    assert database.row("PRAGMA foreign_keys") == (1,)
    assert database.row("PRAGMA synchronous") == (1,)


def test_nobody_else_can_read_it_cve_2021_41091(tmp_path: Path) -> None:
    """Containers' environments are in it."""
    path = tmp_path / "sampan.db"
    path.touch(0o644)
    opened = Database(str(path))
    try:
        add(opened, "one")
        for file in tmp_path.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file
    finally:
        opened.close()


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    add(database, "before")
    with pytest.raises(RuntimeError), database.transaction() as connection:
        connection.execute("DELETE FROM containers")
        with database.transaction():
            add(database, "inside")
        raise RuntimeError
    assert names(database) == ["before"]
    with database.transaction(durable=True):
        add(database, "after")
    assert names(database) == ["after", "before"]
    assert database.row("PRAGMA synchronous") == (1,)


def test_a_broken_constraint_undoes_the_transaction(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        add(database, "one")
        add(database, "one")
    assert names(database) == []


def test_a_tag_cannot_point_at_nothing(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO tags VALUES ('a', 'missing')")


def test_threads_share_one_database(database: Database) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for index in range(50):
                with database.transaction():
                    add(database, f"{number}.{index}")
                database.rows("SELECT count(*) FROM containers")
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(names(database)) == 200


def test_an_older_schema_is_brought_up_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "sampan.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=0")
    connection.close()
    database = Database(str(path))
    assert database.row("PRAGMA user_version") == (SCHEMA_VERSION,)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(NotSupported, match="newer"):
        Database(str(path))


def test_a_reader_of_anothers_file(database: Database, tmp_path: Path) -> None:
    reader = Database(database.path, read_only=True)
    add(database, "a")
    assert names(reader) == ["a"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        add(reader, "b")
    database.close()
    assert names(reader) == ["a"]
    reader.close()
    reader = Database(database.path, read_only=True)  # with nobody else at it
    assert names(reader) == ["a"]
    reader.close()
    with pytest.raises(Unavailable):
        Database(str(tmp_path / "missing.db"), read_only=True)
    assert not (tmp_path / "missing.db").exists()


def test_a_reader_of_another_schema_is_refused(database: Database) -> None:
    database.execute("PRAGMA user_version = 999")
    with pytest.raises(NotSupported, match="version 999"):
        Database(database.path, read_only=True)


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "sampan.db"
    path.write_bytes(b"this is not a database at all, by any reading of it" * 100)
    with pytest.raises(Corrupt, match=r"sampan\.db"):
        Database(str(path))


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="missing"):
        Database(str(tmp_path / "missing" / "sampan.db"))


WRITER = """
import sys
from sampan.storage.database import Database
database = Database(sys.argv[1])
for number in range(1000000):
    with database.transaction() as connection:
        name = str(number)
        connection.execute("INSERT INTO containers VALUES (?, ?, 1.0, x'', x'')", (name, name))
        connection.execute("INSERT INTO volumes VALUES (?, 'local', 1.0, 0, '', '')", (name,))
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = str(tmp_path / "sampan.db")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(30):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        seen = 29
        for line in writer.stdout:
            seen = int(line)
    database = Database(path)
    containers = database.row("SELECT count(*) FROM containers")
    assert containers is not None
    assert containers[0] >= seen + 1
    assert database.row("SELECT count(*) FROM volumes") == containers
    assert database.row("PRAGMA integrity_check") == ("ok",)
    database.close()
