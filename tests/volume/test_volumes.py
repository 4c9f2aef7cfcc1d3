"""Volumes of the local driver."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument, NotFound, NotSupported
from sampan.storage.database import Database
from sampan.volume.store import VolumeStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "sampan.db"))
    yield opened
    opened.close()


@pytest.fixture
def volumes(tmp_path: Path, database: Database) -> Iterator[VolumeStore]:
    opened = VolumeStore(str(tmp_path), database)
    yield opened
    opened.close()


def test_a_volume_is_a_directory_with_a_name(volumes: VolumeStore, tmp_path: Path) -> None:
    made = volumes.create("data", {"k": "v"})
    assert made.path == str(tmp_path / "volumes" / "data" / "_data")
    assert os.path.isdir(made.path)
    assert (made.driver, made.labels, made.anonymous) == ("local", {"k": "v"}, False)
    assert made.created > 1e9
    assert volumes.get("data") == made
    assert volumes.create("data", {"other": "label"}) == made
    assert [volume.name for volume in volumes.list()] == ["data"]


def test_an_anonymous_volume_has_a_name_of_its_own(volumes: VolumeStore) -> None:
    first, second = volumes.create(), volumes.create()
    assert first.anonymous
    assert len(first.name) == 64
    assert first.name != second.name


def test_ensure_says_whether_it_was_made_now(volumes: VolumeStore) -> None:
    assert volumes.ensure("data")[1] is True
    volume, new = volumes.ensure("data", anonymous=True)
    assert (new, volume.anonymous) == (False, False)


@pytest.mark.parametrize("name", ["a", "-ab", ".trash", "a/b", "a b", "..", "é" * 3, "x" * 256])
def test_a_name_that_cannot_be_is_refused(volumes: VolumeStore, name: str) -> None:
    with pytest.raises(InvalidArgument, match="volume name"):
        volumes.create(name)
    assert volumes.list() == []


def test_what_the_local_driver_cannot_do_is_named(volumes: VolumeStore) -> None:
    with pytest.raises(NotSupported, match='"nfs"'):
        volumes.create("data", driver="nfs")
    with pytest.raises(NotSupported, match='"device"'):
        volumes.create("data", options={"device": "tmpfs"})


def test_a_removed_volume_is_gone_with_what_was_in_it(volumes: VolumeStore) -> None:
    made = volumes.create("data")
    with open(os.path.join(made.path, "file"), "w", encoding="utf-8") as file:
        file.write("x")
    volumes.remove("data")
    assert not os.path.exists(made.path)
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        volumes.get("data")
    with pytest.raises(NotFound, match="no such volume"):
        volumes.remove("data")
    volumes.remove("data", force=True)
    volumes.collect()
    assert os.listdir(volumes.root) == [".trash"]
    assert os.listdir(os.path.join(volumes.root, ".trash")) == []
    assert os.listdir(volumes.create("data").path) == []


def test_a_directory_somebody_deleted_is_made_again(volumes: VolumeStore) -> None:
    made = volumes.create("data")
    os.rmdir(made.path)
    assert volumes.path("data") == made.path
    assert os.path.isdir(made.path)


def test_volumes_outlive_the_store_and_what_was_half_made_does_not(
    tmp_path: Path, database: Database
) -> None:
    first = VolumeStore(str(tmp_path), database)
    kept = first.create("kept")
    (tmp_path / "volumes" / "half" / "_data").mkdir(parents=True)
    first.close()
    second = VolumeStore(str(tmp_path), database)
    second.collect()
    assert second.list() == [kept]
    assert sorted(os.listdir(second.root)) == [".trash", "kept"]
    second.close()
