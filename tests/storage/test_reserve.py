"""Room that is held back: rows are removed on a disk that is full to the last byte, and no others.

The disk is a tmpfs of the test's own; whoever fills it is the test.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sampan.kernel.mounts import mount, umount
from sampan.storage.database import Database
from sampan.storage.reserve import SIZE, Reserve

pytestmark = pytest.mark.root

ROWS = 2000


class Disk:
    """A small file system, with a database and its reserve."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.reserve = Reserve(f"{place}/reserve")
        self.database = Database(f"{place}/db", reserve=self.reserve)

    def fill(self) -> None:
        fd = os.open(self.place / "fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for piece in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    os.write(fd, bytes(piece))
        os.close(fd)

    def empty(self) -> None:
        (self.place / "fill").unlink()

    def held(self) -> int:
        return (self.place / "reserve").stat().st_blocks * 512

    def add(self, name: str) -> None:
        query = "INSERT INTO containers VALUES (?, ?, 1.0, ?, x'')"
        self.database.execute(query, (name, name, os.urandom(2000)))

    def remove(self, name: str) -> None:
        query = "DELETE FROM containers WHERE id = ?"
        self.database.release(lambda: self.database.execute(query, (name,)))

    def close(self) -> None:
        self.database.close()
        self.reserve.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    mount("tmpfs", str(tmp_path), "tmpfs", 0, f"size={32 << 20}")
    one = Disk(tmp_path)
    try:
        yield one
    finally:
        one.close()
        umount(str(tmp_path))


def test_rows_are_removed_from_a_full_disk_and_none_are_added(disk: Disk) -> None:
    for number in range(20):
        disk.add(str(number))
    disk.fill()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(ROWS):  # what the log has allocated is used up first
            disk.add(f"more {number}")
    assert disk.held() == SIZE
    disk.fill()
    for number in range(20):
        disk.remove(str(number))
        disk.fill()  # others take what is given up at once
    assert disk.database.row("SELECT count(*) FROM containers WHERE id NOT LIKE 'more%'") == (0,)
    assert disk.held() < SIZE


def test_it_ends_at_last_and_is_made_again(disk: Disk) -> None:
    disk.add("there")
    query = "UPDATE containers SET config = ? WHERE id = 'there'"

    def write() -> None:
        disk.database.release(lambda: disk.database.execute(query, (os.urandom(20000),)))

    disk.fill()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for _ in range(ROWS):
            write()
            disk.fill()
    assert disk.held() == 0
    disk.empty()
    with disk.database.transaction():
        disk.add("another")
    assert disk.held() == SIZE
    assert disk.database.row("SELECT count(*) FROM containers") == (2,)


def test_a_database_is_opened_on_a_full_disk(disk: Disk) -> None:
    """A daemon that ends as it should takes the log and its index along; the next needs both."""
    disk.add("there")
    disk.close()
    disk.fill()
    again = Disk(disk.place)
    disk.reserve, disk.database = again.reserve, again.database
    disk.remove("there")
    assert disk.database.row("SELECT count(*) FROM containers") == (0,)


def test_what_is_part_of_something_larger_is_not_tried_again(disk: Disk) -> None:
    disk.add("there")
    disk.fill()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(ROWS):
            with disk.database.transaction():
                disk.add(str(number))
                disk.remove("there")
                disk.add("there")
    assert disk.held() == SIZE
    assert disk.database.row("SELECT count(*) FROM containers WHERE id = 'there'") == (1,)


def test_a_small_disk_is_left_to_others(tmp_path: Path) -> None:
    mount("tmpfs", str(tmp_path), "tmpfs", 0, f"size={8 << 20}")
    try:
        reserve = Reserve(f"{tmp_path}/reserve")
        assert (tmp_path / "reserve").stat().st_blocks == 0 and not reserve.give_up()
        reserve.close()
    finally:
        umount(str(tmp_path))


def test_a_file_that_was_copied_without_its_zeros_is_made_whole(tmp_path: Path) -> None:
    with (tmp_path / "reserve").open("wb") as file:
        file.truncate(SIZE)
    Reserve(f"{tmp_path}/reserve").close()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE
