"""What every storage driver does (``sampan.registry.server.storage.base``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, NotFound
from sampan.registry.server.storage.base import Storage, upload_of
from sampan.registry.server.storage.local import LocalStorage
from tests.registry.registries import sha256

DRIVERS = {"local": LocalStorage}
DATA = os.urandom(100_000)


@pytest.fixture(params=sorted(DRIVERS))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    yield DRIVERS[request.param](str(tmp_path))


def upload(storage: Storage, data: bytes) -> str:
    name = os.urandom(16).hex()
    appender = storage.append(name)
    appender.append(data)
    appender.close()
    return name


def content(storage: Storage, key: str) -> bytes:
    reader = storage.open(key)
    try:
        assert reader.read(reader.size, 10) == b""
        if reader.fileno() >= 0:
            assert os.pread(reader.fileno(), reader.size, 0) == reader.read(0, reader.size)
        return reader.read(0, reader.size)
    finally:
        reader.close()


def test_an_upload_grows_and_is_sealed(storage: Storage) -> None:
    name = upload(storage, DATA[:40_000])
    appender = storage.append(name)
    assert appender.offset == 40_000
    appender.append(DATA[40_000:])
    assert appender.offset == len(DATA)
    appender.close()
    reader = storage.read_upload(name)
    assert (reader.size, reader.read(5, 10)) == (len(DATA), DATA[5:15])
    reader.close()
    assert [one.name for one in storage.uploads()] == [name]
    key = storage.seal(name, sha256(DATA))
    assert upload_of(key) == name
    assert content(storage, key) == DATA
    assert list(storage.uploads()) == []
    assert [tuple(one) for one in storage.blobs()] == [(key, len(DATA))]


def test_sealing_again_changes_nothing(storage: Storage) -> None:
    name = upload(storage, DATA)
    key = storage.seal(name, sha256(DATA))
    assert storage.seal(name, sha256(DATA)) == key
    assert content(storage, key) == DATA


def test_two_uploads_of_one_digest_are_two_blobs(storage: Storage) -> None:
    first, second = (storage.seal(upload(storage, DATA), sha256(DATA)) for _ in range(2))
    assert first != second
    assert storage.delete(first)
    assert content(storage, second) == DATA


def test_an_upload_is_dropped(storage: Storage) -> None:
    name = upload(storage, DATA)
    assert storage.drop(name)
    assert not storage.drop(name)
    assert list(storage.uploads()) == []
    with pytest.raises(NotFound):
        storage.read_upload(name)
    with pytest.raises(NotFound):
        storage.seal(name, sha256(DATA))


def test_a_deleted_blob_is_read_to_its_end(storage: Storage) -> None:
    key = storage.seal(upload(storage, DATA), sha256(DATA))
    reader = storage.open(key)
    assert storage.delete(key)
    assert not storage.delete(key)
    assert reader.read(0, len(DATA)) == DATA
    reader.close()
    with pytest.raises(NotFound):
        storage.open(key)


def test_a_blob_is_set_aside(storage: Storage) -> None:
    key = storage.seal(upload(storage, DATA), sha256(DATA))
    where = storage.set_aside(key)
    assert storage.set_aside(key) == where
    assert list(storage.blobs()) == []
    with pytest.raises(NotFound):
        storage.open(key)


def test_an_empty_upload(storage: Storage) -> None:
    name = os.urandom(16).hex()
    storage.append(name).close()
    assert content(storage, storage.seal(name, sha256(b""))) == b""


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "a" * 31, "/etc/passwd", "A" * 32])
def test_names_that_are_none_reach_nothing(storage: Storage, name: str) -> None:
    for call in (storage.append, storage.read_upload, storage.drop, storage.open, storage.delete):
        with pytest.raises(InvalidArgument):
            call(name)
    with pytest.raises(InvalidArgument):
        storage.set_aside(f"sha256/{name}")
