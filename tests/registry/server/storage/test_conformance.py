"""What every storage driver does (``sampan.registry.server.storage.base``)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sampan.errors import InvalidArgument, NotFound
from sampan.registry.server.storage.base import Storage
from sampan.registry.server.storage.bucket import parse
from sampan.registry.server.storage.local import LocalStorage
from sampan.registry.server.storage.s3 import PART, S3Storage
from tests.registry.registries import sha256
from tests.registry.server.buckets import Bucket

DATA = os.urandom(100_000)


class Upload(NamedTuple):
    name: str
    state: str


def local(request: pytest.FixtureRequest, place: Path) -> Storage:
    return LocalStorage(str(place))


def s3(request: pytest.FixtureRequest, place: Path) -> Storage:
    driver: Driver = request.getfixturevalue("drivers")[PART]
    return driver.at(place)


def s3_in_parts(request: pytest.FixtureRequest, place: Path) -> Storage:
    driver: Driver = request.getfixturevalue("drivers")[1 << 16]
    return driver.at(place)


class Driver(S3Storage):
    """Half a second to make: one for all tests, each with a prefix of its own."""

    def at(self, place: Path) -> Driver:
        self.bucket.address = self.bucket.address._replace(prefix=f"{place.name}/")
        return self

    def close(self) -> None:
        """By ``end``, after the last test."""

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def drivers(bucket: Bucket, quick: Path) -> Iterator[dict[int, Driver]]:
    """By the size of a part."""
    with tempfile.TemporaryDirectory(dir=quick) as place:
        address = parse(bucket.address("x"))
        yield (made := {part: Driver(address, place, part) for part in (PART, 1 << 16)})
        for one in made.values():
            one.end()


@pytest.fixture(params=[local, s3, s3_in_parts])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    driver: Storage = request.param(request, tmp_path)
    yield driver
    driver.close()


def upload(storage: Storage, data: bytes) -> Upload:
    name = os.urandom(16).hex()
    appender = storage.append(name, "")
    appender.append(data)
    appender.close()
    return Upload(name, appender.state)


def sealed(storage: Storage, data: bytes) -> str:
    """A blob's key."""
    name, state = upload(storage, data)
    done = storage.finish(name, sha256(data), state)
    assert done.known
    return storage.seal(name, sha256(data), done.state)


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
    name, state = upload(storage, DATA[:40_000])
    assert storage.size(name, state) == 40_000
    appender = storage.append(name, state)
    assert appender.offset == 40_000
    appender.append(DATA[40_000:])
    assert appender.offset == len(DATA)
    appender.finish()
    storage.replaced(state, appender.state)
    listed = [*storage.uploads(), *storage.blobs()]
    assert [one.size for one in listed] == [len(DATA)]
    state, known = storage.finish(name, sha256(DATA), appender.state)
    assert known
    assert storage.size(name, state) == len(DATA)
    reader = storage.read_upload(name, state)
    assert (reader.size, reader.read(5, 10)) == (len(DATA), DATA[5:15])
    reader.close()
    key = storage.seal(name, sha256(DATA), state)
    assert storage.upload_of(key) == name
    assert content(storage, key) == DATA
    assert list(storage.uploads()) == []
    assert [tuple(one) for one in storage.blobs()] == [(key, len(DATA))]


def test_finishing_and_sealing_again_change_nothing(storage: Storage) -> None:
    name, before = upload(storage, DATA)
    state, _ = storage.finish(name, sha256(DATA), before)
    key = storage.seal(name, sha256(DATA), state)
    assert storage.seal(name, sha256(DATA), state) == key
    # Somebody else, who knows what was kept last.
    state, _ = storage.finish(name, sha256(DATA), before)
    reader = storage.read_upload(name, state)
    assert reader.read(0, len(DATA) + 1) == DATA
    reader.close()
    assert storage.seal(name, sha256(DATA), state) == key
    assert content(storage, key) == DATA


def test_what_was_closed_is_gone_on_with_by_somebody_else(storage: Storage) -> None:
    """A state is all that has to be known of it."""
    name, state = upload(storage, DATA[:10])
    for offset in range(10, 50, 10):
        appender = storage.append(name, state)
        assert appender.offset == offset
        appender.append(DATA[offset : offset + 10])
        appender.close()
        storage.replaced(state, appender.state)
        state = appender.state
    state, _ = storage.finish(name, sha256(DATA[:50]), state)
    assert content(storage, storage.seal(name, sha256(DATA[:50]), state)) == DATA[:50]


def test_two_uploads_of_one_digest_are_two_blobs(storage: Storage) -> None:
    first, second = (sealed(storage, DATA) for _ in range(2))
    assert first != second
    assert storage.delete(first)
    assert content(storage, second) == DATA


def test_an_upload_is_dropped(storage: Storage) -> None:
    name, state = upload(storage, DATA)
    assert storage.drop(name, state)
    assert not storage.drop(name, state)
    assert [*storage.uploads(), *storage.blobs()] == []
    with pytest.raises(NotFound):
        storage.read_upload(name, state)
    with pytest.raises(NotFound):
        storage.seal(name, sha256(DATA), state)


def test_a_blob_that_is_deleted_while_it_is_read(storage: Storage) -> None:
    key = sealed(storage, DATA)
    reader = storage.open(key)
    first = reader.read(0, 10)
    assert storage.delete(key)
    assert not storage.delete(key)
    try:
        assert first + reader.read(10, len(DATA)) == DATA
    except NotFound:
        assert reader.fileno() < 0  # a file that is open stays
    reader.close()
    with pytest.raises(NotFound):
        storage.open(key)


def test_a_blob_is_set_aside(storage: Storage) -> None:
    key = sealed(storage, DATA)
    where = storage.set_aside(key)
    assert storage.set_aside(key) == where
    assert list(storage.blobs()) == []
    assert not storage.delete(key)


def test_an_empty_upload(storage: Storage) -> None:
    name = os.urandom(16).hex()
    assert storage.size(name, "") == 0
    state, _ = storage.finish(name, sha256(b""), "")
    assert content(storage, storage.seal(name, sha256(b""), state)) == b""


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "a" * 31, "/etc/passwd", "A" * 32])
def test_names_that_are_none_reach_nothing(storage: Storage, name: str) -> None:
    for call in (storage.append, storage.drop):
        with pytest.raises(InvalidArgument):
            call(name, "")
    for ask in (storage.open, storage.delete):
        with pytest.raises(InvalidArgument):
            ask(name)
    with pytest.raises(InvalidArgument):
        storage.set_aside(f"sha256/{name}")
