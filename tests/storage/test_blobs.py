"""Blobs are there whole or not at all, whoever dies when."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from sampan.errors import Corrupt, InvalidArgument, NotFound, SampanError
from sampan.storage.blobs import BlobStore
from tests.storage.archive.trees import in_child


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def leftovers(store: BlobStore) -> list[str]:
    return os.listdir(os.path.join(store.root, "ingest"))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "content"))


def test_what_is_written_can_be_read_by_its_digest(store: BlobStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"hello ")
        ingest.write(memoryview(b"world"))
        found, size = ingest.commit()
    assert (found, size) == (digest(b"hello world"), 11)
    assert store.has(found)
    assert store.size(found) == 11
    assert store.read(found) == b"hello world"
    assert list(store.digests()) == [found]
    assert leftovers(store) == []
    descriptor = store.open(found)
    assert os.read(descriptor, 100) == b"hello world"
    assert os.get_inheritable(descriptor) is False
    os.close(descriptor)


def test_the_empty_blob_and_the_one_that_was_there_before(store: BlobStore) -> None:
    for _ in range(2):
        with store.ingest(digest(b""), 0) as ingest:
            ingest.commit()
    inode = os.stat(store.path(digest(b""))).st_ino
    with store.ingest() as ingest:
        ingest.commit()
    assert os.stat(store.path(digest(b""))).st_ino == inode, "a blob was rewritten"
    assert leftovers(store) == []


def test_sha512_is_verified_and_kept_apart(store: BlobStore) -> None:
    expected = "sha512:" + hashlib.sha512(b"x").hexdigest()
    with store.ingest(expected) as ingest:
        ingest.write(b"x")
        assert ingest.commit() == (expected, 1)
    assert list(store.digests()) == [expected]


def test_wrong_bytes_are_corrupt_and_gone(store: BlobStore) -> None:
    with (
        pytest.raises(Corrupt, match=f"expected blob {digest(b'a')}, found {digest(b'b')}"),
        store.ingest(digest(b"a")) as ingest,
    ):
        ingest.write(b"b")
        ingest.commit()
    assert leftovers(store) == []
    assert not store.has(digest(b"a"))
    assert not store.has(digest(b"b"))


def test_too_few_and_too_many_bytes_are_corrupt(store: BlobStore) -> None:
    with (
        pytest.raises(Corrupt, match="truncated: expected 2 bytes, found 1"),
        store.ingest(size=2) as ingest,
    ):
        ingest.write(b"a")
        ingest.commit()
    with (
        pytest.raises(Corrupt, match="longer than the 2 bytes announced"),
        store.ingest(size=2) as ingest,
    ):
        ingest.write(b"abc")
    assert leftovers(store) == []


def test_an_ingest_left_without_commit_leaves_nothing(store: BlobStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"abc")
    with pytest.raises(ZeroDivisionError), store.ingest() as ingest:
        ingest.write(b"abc")
        _ = 1 / 0
    assert leftovers(store) == []


def test_an_interrupted_download_continues_where_it_was(store: BlobStore) -> None:
    data = os.urandom(3_000_000)
    with (
        pytest.raises(ConnectionError),
        store.ingest(digest(data), len(data), resume=True) as ingest,
    ):
        assert ingest.offset == 0
        ingest.write(data[:2_000_000])
        raise ConnectionError
    with store.ingest(digest(data), len(data), resume=True) as ingest:
        assert ingest.offset == 2_000_000
        # A second one of the same digest meanwhile has a file of its own.
        with store.ingest(digest(data), len(data), resume=True) as other:
            assert other.offset == 0
        ingest.write(data[2_000_000:])
        assert ingest.commit() == (digest(data), len(data))
    assert leftovers(store) == []
    store.verify(digest(data))


def test_wrong_bytes_are_not_resumed(store: BlobStore) -> None:
    with pytest.raises(Corrupt), store.ingest(digest(b"ab"), 2, resume=True) as ingest:
        ingest.write(b"xy")
        ingest.commit()
    with store.ingest(digest(b"ab"), 2, resume=True) as ingest:
        assert ingest.offset == 0
    with pytest.raises(InvalidArgument):
        store.ingest(resume=True)


def test_a_damaged_blob_is_found_by_reading_it(store: BlobStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"good")
        name, _ = ingest.commit()
    path = Path(store.path(name))
    path.chmod(0o600)
    path.write_bytes(b"evil")
    with pytest.raises(Corrupt, match="found " + digest(b"evil")):
        store.verify(name)
    with pytest.raises(Corrupt, match=name):
        store.read(name)


def test_what_is_not_there_and_what_is_no_digest(store: BlobStore) -> None:
    absent = digest(b"absent")
    for call in (store.open, store.size, store.read):
        with pytest.raises(NotFound, match=absent):
            call(absent)
    assert store.delete(absent) is False
    for bad in ("", "sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64):
        with pytest.raises(InvalidArgument):
            store.path(bad)
        with pytest.raises(InvalidArgument):
            store.ingest(bad or "x")


def test_delete_removes_a_blob_but_not_from_under_its_reader(store: BlobStore) -> None:
    with store.ingest() as ingest:
        ingest.write(b"bytes")
        name, _ = ingest.commit()
    descriptor = store.open(name)
    assert store.delete(name) is True
    assert os.read(descriptor, 10) == b"bytes"
    os.close(descriptor)
    assert not store.has(name)


def test_sweep_spares_the_living_and_takes_the_dead(store: BlobStore) -> None:
    living = store.ingest()
    living.write(b"still going")
    child = os.fork()
    if child == 0:
        dead = store.ingest()
        dead.write(b"never done")
        partial = store.ingest(digest(b"partial"), resume=True)
        partial.write(b"part")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(leftovers(store)) == 3
    assert BlobStore(store.root).sweep() == 1
    with store.ingest(digest(b"partial"), resume=True) as ingest:
        assert ingest.offset == 4
        ingest.write(b"ial")
        ingest.commit()
    assert living.commit()[0] == digest(b"still going")
    assert leftovers(store) == []


def test_sweep_gives_up_on_an_old_partial(store: BlobStore) -> None:
    ingest = store.ingest(digest(b"x"), resume=True)
    ingest.write(b"y")
    ingest.abort(keep=True)
    assert store.sweep() == 0
    assert store.sweep(keep_partial=0) == 1
    assert leftovers(store) == []


def test_sigkill_at_any_moment_leaves_whole_blobs_and_nothing_after_a_sweep(
    store: BlobStore,
) -> None:
    chance = random.Random(7)
    for _ in range(40):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    data = os.urandom(40_000)
                    with store.ingest(digest(data), len(data), resume=chance.random() < 0.5) as new:
                        new.write(data[new.offset : 20_000])
                        new.write(data[new.offset :])
                        new.commit()
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    found = list(store.digests())
    assert found
    for name in found:
        store.verify(name)
    store.sweep(keep_partial=0)
    assert leftovers(store) == []


@pytest.mark.root
def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path: Path) -> None:
    def work() -> None:
        from sampan.kernel import mounts

        mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=1m")
        store = BlobStore(str(tmp_path))
        expected = digest(bytes(4 << 20))
        with (
            pytest.raises(
                SampanError, match=f"no space left on device while storing blob {expected}"
            ),
            store.ingest(expected) as ingest,
        ):
            for _ in range(64):
                ingest.write(bytes(1 << 16))
        assert leftovers(store) == []
        assert list(store.digests()) == []
        with store.ingest() as ingest:
            ingest.write(bytes(1 << 16))
            ingest.commit()

    in_child(work)
