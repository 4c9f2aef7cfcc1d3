"""Layers: verified, made durable, restored from blobs, and collected when nothing needs them."""

from __future__ import annotations

import fcntl
import gzip
import os
import time
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Conflict, Corrupt, NotFound
from sampan.oci import digest as digests
from sampan.storage.blobs import BlobStore
from sampan.storage.data_root import lock_data_root
from sampan.storage.database import Database
from sampan.storage.drivers import open_driver
from sampan.storage.layers import LayerStore
from tests.storage.drivers.layers import layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.storage.drivers.base import SnapshotDriver

pytestmark = pytest.mark.root

ONE = layer({"one": b"1"})
TWO = layer({"two": b"22"})


class World:
    """A database, a driver and blobs, which can be closed and opened again."""

    def __init__(self, root: str) -> None:
        self.root = root
        os.makedirs(root, exist_ok=True)
        self.open()

    def open(self) -> None:
        self.database = Database(f"{self.root}/sampan.db")
        self.blobs = BlobStore(f"{self.root}/content")
        self.driver: SnapshotDriver = open_driver("overlay2", self.root)
        self.layers = LayerStore(self.database, self.driver, self.blobs)

    def close(self) -> None:
        self.layers.close()
        self.driver.close()
        self.database.close()

    def blob(self, data: bytes) -> str:
        with self.blobs.ingest() as ingest:
            ingest.write(data)
            return ingest.commit()[0]

    def ensure(self, *layers: bytes, packed: bool = False) -> tuple[str, ...]:
        blobs = [self.blob(gzip.compress(data) if packed else data) for data in layers]
        with self.layers.hold() as hold:
            return self.layers.ensure([digests.of(data) for data in layers], blobs, hold)

    def claim(self, image: str, *layers: bytes) -> None:
        """The rows of an image made of these layers."""
        diff_ids = [digests.of(data) for data in layers]
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO images (id, document, size, created, loaded) VALUES (?, x'', 0, 0, 0)",
                (image,),
            )
            for position, chain_id in enumerate(digests.chain_ids(diff_ids)):
                connection.execute(
                    "INSERT INTO image_layers VALUES (?, ?, ?, ?)",
                    (image, position, diff_ids[position], chain_id),
                )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(str(tmp_path / "data"))
    yield made
    made.close()


@pytest.mark.parametrize("packed", [False, True])
def test_layers_are_unpacked_once_and_measured(world: World, packed: bool) -> None:
    chain = world.ensure(ONE, TWO, packed=packed)
    assert chain == digests.chain_ids([digests.of(ONE), digests.of(TWO)])
    assert world.ensure(ONE, TWO, packed=packed) == chain
    assert sorted(world.driver.layers()) == sorted(chain)
    assert world.layers.size(chain) == 3
    assert world.layers.blob_of(digests.of(TWO))[2] == len(TWO)


def test_a_blob_that_is_not_the_layer_is_refused(world: World) -> None:
    with world.layers.hold() as hold, pytest.raises(Corrupt, match=digests.of(ONE)):
        world.layers.ensure([digests.of(ONE)], [world.blob(TWO)], hold)
    assert world.driver.layers() == []
    world.ensure(ONE)
    with world.layers.hold() as hold, pytest.raises(Corrupt, match=digests.of(ONE)):
        world.layers.ensure([digests.of(ONE)], [world.blob(gzip.compress(TWO))], hold)


def test_what_nothing_needs_is_collected_and_what_is_held_is_not(world: World) -> None:
    with world.layers.hold() as hold:
        chain = world.layers.ensure([digests.of(ONE)], [world.blob(ONE)], hold)
        hold.pin(digests.of(ONE))
        assert world.layers.collect() == []
        assert world.blobs.has(digests.of(ONE))
    world.claim("image", ONE)
    assert world.layers.collect() == []
    world.database.execute("DELETE FROM images")
    assert world.layers.collect() == [chain[0]]
    assert list(world.blobs.digests()) == []


def test_a_container_holds_its_whole_chain(world: World) -> None:
    chain = world.ensure(ONE, TWO)
    world.driver.create_container("c", chain)
    assert world.layers.collect() == []
    world.driver.remove_container("c")
    assert world.layers.collect() == [chain[1], chain[0]]


def test_a_lock_of_another_program_holds_a_layer_and_what_is_below(world: World) -> None:
    chain = world.ensure(ONE, TWO)
    place = f"{world.root}/overlay2/layers/{digests.hexadecimal(chain[1])}"
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert world.layers.collect() == []
    assert os.path.isdir(place)
    os.close(fd)
    assert world.layers.collect() == [chain[1], chain[0]]


def test_a_lock_below_lets_what_is_above_go(world: World) -> None:
    chain = world.ensure(ONE, TWO)
    fd = os.open(
        f"{world.root}/overlay2/layers/{digests.hexadecimal(chain[0])}",
        os.O_RDONLY | os.O_DIRECTORY,
    )
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert world.layers.collect() == [chain[1]]
    os.close(fd)


@pytest.mark.parametrize("held", [False, True], ids=["stands on it", "holds it"])
def test_a_container_that_is_made_while_layers_are_collected_has_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    """Between the look at who uses a layer and its removal."""
    first = world.ensure(ONE)
    chain = world.ensure(ONE, TWO)
    if held:
        world.driver.create_container("c", first)
    claim = world.driver.claim_layer

    def late(chain_id: str) -> int | None:
        if chain_id == chain[1]:
            if held:
                world.driver.hold_layer("c", chain[1])
            else:
                world.driver.create_container("c", chain)
        return claim(chain_id)

    with monkeypatch.context() as patch:
        patch.setattr(world.driver, "claim_layer", late)
        assert world.layers.collect() == []
    assert sorted(world.driver.layers()) == sorted(chain)
    world.driver.remove_container("c")
    assert world.layers.collect() == list(reversed(chain))


def test_on_a_layer_that_is_being_removed_nothing_is_made(world: World) -> None:
    chain = world.ensure(ONE)
    claim = world.driver.claim_layer(chain[0])
    assert claim is not None
    try:
        with pytest.raises(NotFound, match="is being removed"):
            world.driver.create_container("c", chain)
    finally:
        os.close(claim)
    assert world.driver.containers() == {}
    world.driver.create_container("c", chain)


def test_layers_become_durable_by_themselves(world: World) -> None:
    world.ensure(ONE, TWO)
    deadline = time.monotonic() + 60
    while world.database.rows("SELECT 1 FROM layers WHERE boot_id IS NOT NULL"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_was_not_durable_in_an_earlier_boot_is_unpacked_again(world: World) -> None:
    chain = world.ensure(ONE, TWO, packed=True)
    world.claim("image", ONE, TWO)
    world.driver.create_container("c", chain)
    world.layers.close()
    # The lower layer was lost: what stands on it is of no use either.
    world.database.execute(
        "UPDATE layers SET boot_id = CASE chain_id WHEN ? THEN 'earlier' ELSE NULL END",
        (chain[0],),
    )
    damaged = world.driver.layer_graph(chain[:1])["UpperDir"] + "/one"
    os.truncate(damaged, 0)
    world.close()
    world.open()
    assert world.driver.layers() == []
    world.layers.restore_containers()
    assert sorted(world.driver.layers()) == sorted(chain)
    assert os.stat(damaged).st_size == 1
    assert world.driver.mounts("c")


def test_a_chain_no_image_has_cannot_be_restored(world: World) -> None:
    missing = "sha256:" + "a" * 64
    with pytest.raises(NotFound, match=f"{missing} was lost"):
        world.layers.restore(missing)


def test_rows_and_directories_agree_after_opening(world: World) -> None:
    chain = world.ensure(ONE, TWO)
    world.claim("image", ONE, TWO)
    # A kill between the rename and the commit, and a commit lost with the power.
    stray = world.driver.prepare_layer("sha256:" + "b" * 64, None)
    world.driver.commit_layer(stray)
    world.database.execute(
        "INSERT INTO layers VALUES ('overlay2', 'sha256:gone', 'x', NULL, 0, NULL)"
    )
    world.close()
    world.open()
    assert sorted(world.driver.layers()) == sorted(chain)
    rows = world.database.rows("SELECT chain_id FROM layers")
    assert sorted(row[0] for row in rows) == sorted(chain)


def test_a_data_root_is_locked_until_its_owner_lets_go(tmp_path: Path) -> None:
    fd = lock_data_root(str(tmp_path))
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()}"):
        lock_data_root(str(tmp_path))
    os.close(fd)
    os.close(lock_data_root(str(tmp_path)))
