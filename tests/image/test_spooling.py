"""Layers unpacked while their archive comes in, before anybody knows what they are."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator

import pytest

from sampan.errors import Corrupt, InvalidArgument, SampanError
from sampan.image import spooling
from sampan.image.store import ImageStore
from sampan.storage.unpacking.client import Unpackers
from tests.image.archives import BASE, ONE, configuration, docker_save, image_id, oci_layout, tar
from tests.storage.drivers.layers import DELETED, layer

pytestmark = pytest.mark.root

HIDING = layer({"etc/passwd": DELETED, "bin/": None, "bin/.wh..wh..opq": b"", "bin/new": b"n"})


@pytest.fixture(autouse=True)
def every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small."""
    monkeypatch.setattr(spooling, "_LEAST", 0)


@pytest.fixture(params=["here", "apart", "overlay", "vfs"])
def store(request: pytest.FixtureRequest, data_root: str) -> Iterator[ImageStore]:
    unpackers = Unpackers() if request.param == "apart" else None
    driver = request.param if request.param in ("overlay", "vfs") else "overlay2"
    one = ImageStore(data_root, driver, unpackers)
    yield one
    one.driver.collect()
    assert os.listdir(f"{data_root}/{driver}/staging") == []
    one.close()
    if unpackers is not None:
        unpackers.close()


def trees(store: ImageStore, name: str) -> list[set[str]]:
    """What each layer's own directory holds, the lowest first."""
    found = []
    for chain_id in store.resolve(name).chain:
        root = f"{store.driver.root}/layers/{chain_id[7:]}/diff"  # type: ignore[attr-defined]
        found.append(
            {
                os.path.relpath(f"{directory}/{name}", root)
                for directory, names, files in os.walk(root)
                for name in (*names, *files)
            }
        )
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_layers_find_their_places_whatever_their_order(store: ImageStore, order: int) -> None:
    store.load(io.BytesIO(docker_save([BASE, ONE, HIDING], ["a:1"], order=order)))
    spooled = trees(store, "a:1")
    store.remove("a:1", used_by=lambda _: [])
    assert spooled[0] == {"bin", "bin/sh", "etc", "etc/passwd"}
    assert {"bin/new"} <= spooled[2]
    assert list(store.blobs.digests()) == []


def test_a_layer_that_is_twice_in_an_image_is_unpacked_for_both_places(store: ImageStore) -> None:
    store.load(io.BytesIO(docker_save([BASE, ONE, ONE], ["a:1"])))
    assert len(store.resolve("a:1").chain) == 3
    packed = gzip.compress(ONE)
    members = oci_layout([BASE, ONE, ONE], [BASE, packed, packed])
    store.load(io.BytesIO(tar(members)))


def test_layers_that_are_here_already_are_held_against_what_comes(store: ImageStore) -> None:
    store.load(io.BytesIO(docker_save([BASE, ONE], ["a:1"])))
    before = trees(store, "a:1")
    store.load(io.BytesIO(docker_save([BASE, ONE, HIDING], ["b:1"])))
    assert trees(store, "a:1") == before
    assert trees(store, "b:1")[:2] == before


@pytest.mark.parametrize("order", [1, -1])
def test_a_layer_that_is_another_is_refused(store: ImageStore, order: int) -> None:
    config = configuration([BASE, HIDING])
    with pytest.raises(Corrupt, match="expected a layer with diff ID"):
        store.load(io.BytesIO(docker_save([BASE, ONE], ["a:1"], config, order=order)))
    assert store.driver.layers() == []
    assert list(store.blobs.digests()) == []


def test_a_layer_that_cannot_be_unpacked_is_refused_in_its_own_words(store: ImageStore) -> None:
    climbing = layer({"../x": b"1"})
    with pytest.raises(InvalidArgument, match=r"\.\./x"):
        store.load(io.BytesIO(docker_save([BASE, climbing], ["a:1"])))
    assert store.driver.layers() == []


def test_what_belongs_to_no_image_leaves_nothing(store: ImageStore) -> None:
    data = docker_save([BASE], ["a:1"], change={"stray/layer.tar": HIDING})
    store.load(io.BytesIO(data))
    assert len(store.driver.layers()) == 1
    assert len(list(store.blobs.digests())) == 2


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6])
def test_an_archive_that_ends_early_leaves_nothing(store: ImageStore, part: float) -> None:
    data = docker_save([BASE, ONE, HIDING], ["a:1"])
    with pytest.raises(SampanError):
        store.load(io.BytesIO(data[: int(len(data) * part)]))
    assert store.driver.layers() == []
    assert list(store.blobs.digests()) == []


def test_an_import_is_unpacked_while_it_comes(store: ImageStore) -> None:
    for data in (BASE, gzip.compress(BASE)):
        image = store.import_archive(io.BytesIO(data), "root:1")
        assert trees(store, image) == [{"bin", "bin/sh", "etc", "etc/passwd"}]
        store.remove("root:1", used_by=lambda _: [])
    for data, words in ((BASE[:700], "truncated"), (b"", "empty"), (layer({"/x": b""}), "/x")):
        with pytest.raises(SampanError, match=words):
            store.import_archive(io.BytesIO(data), "root:1")
    assert store.driver.layers() == []


def test_an_images_id_is_the_same_either_way(store: ImageStore) -> None:
    config = configuration([BASE, ONE])
    store.load(io.BytesIO(docker_save([BASE, ONE], ["a:1"], config)))
    assert store.resolve("a:1").id == image_id(config)
