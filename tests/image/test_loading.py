"""Archives come in whole, whatever their form, and bad ones leave nothing behind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import Corrupt, InvalidArgument, NotFound, NotSupported, SampanError
from sampan.oci import platform as platforms
from tests.image.archives import (
    BASE,
    ONE,
    configuration,
    docker_save,
    image_id,
    oci_layout,
    sha256,
    tar,
    write_layout,
)
from tests.storage.drivers.layers import layer

if TYPE_CHECKING:
    from pathlib import Path

    from sampan.image.store import ImageStore

pytestmark = pytest.mark.root

CONFIG = configuration([BASE, ONE], User="7", Labels={"k": "v"})
SAVED = docker_save([BASE, ONE], ["thing:v1", "thing:v2"], CONFIG)


def load(store: ImageStore, data: bytes) -> list[str]:
    return [name for image in store.load(io.BytesIO(data)) for name in image.references]


def is_empty(store: ImageStore) -> bool:
    """Whether nothing of an image is left in any of the places there are."""
    store.driver.collect()
    root = f"{store.data_root}/{store.driver.name}"
    tables = ("images", "image_layers", "layers", "layer_blobs", "tags")
    return (
        not any(store.database.rows(f"SELECT * FROM {table}") for table in tables)
        and store.driver.layers() == []
        and list(store.blobs.digests()) == []
        and os.listdir(f"{store.blobs.root}/ingest") == []
        and not any(os.listdir(f"{root}/{place}") for place in ("layers", "staging", "trash"))
    )


@pytest.mark.parametrize("order", [1, -1])
def test_a_docker_archive_comes_in_whatever_its_order(store: ImageStore, order: int) -> None:
    data = docker_save([BASE, ONE], ["thing:v1", "other/thing"], CONFIG, order=order)
    loaded = store.load(io.BytesIO(data))
    assert [(one.id, one.references) for one in loaded] == [
        (image_id(CONFIG), ("thing:v1", "other/thing:latest"))
    ]
    image = store.resolve("thing:v1")
    assert image.id == image_id(CONFIG)
    assert image.references == ("other/thing:latest", "thing:v1")
    assert (image.config.user, image.config.cmd) == ("7", ("sh",))
    assert image.created == pytest.approx(1704164645.123456)
    assert image.size == len("#!") + len("root") + 1
    assert all(store.driver.has_layer(chain_id) for chain_id in image.chain)
    assert image.graph["UpperDir"].endswith("/diff")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_archive_is_unpacked(store: ImageStore, pack: Any) -> None:
    assert load(store, pack(SAVED)) == ["thing:v1", "thing:v2"]


def test_a_descriptor_will_do_for_a_stream(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SAVED)
    fd = os.open(tmp_path / "a.tar", os.O_RDONLY)
    try:
        assert store.load(fd)[0].id == image_id(CONFIG)
    finally:
        os.close(fd)


def test_packed_layers_are_kept_as_they_came(store: ImageStore) -> None:
    packed = [gzip.compress(BASE), gzip.compress(ONE)]
    media = "application/vnd.oci.image.layer.v1.tar+gzip"
    data = tar(dict(oci_layout([BASE, ONE], packed, media, config=CONFIG)))
    (loaded,) = store.load(io.BytesIO(data))
    assert loaded.id == image_id(CONFIG)
    assert store.blobs.has(f"sha256:{sha256(packed[0])}")
    assert not store.blobs.has(f"sha256:{sha256(BASE)}")


def test_a_layer_listed_by_a_link_is_the_one_it_points_at(store: ImageStore) -> None:
    config = configuration([BASE, ONE, BASE])
    first, second, third = (f"{letter}/layer.tar" for letter in "abc")
    entry = {"Config": "config.json", "RepoTags": ["t:1"], "Layers": [first, second, third]}
    members = {
        third: "../a/layer.tar",
        first: BASE,
        second: ONE,
        "config.json": config,
        "manifest.json": json.dumps([entry]).encode(),
    }
    assert load(store, tar(dict(members))) == ["t:1"]
    assert store.resolve("t:1").id == image_id(config)


def test_two_images_share_their_base(store: ImageStore) -> None:
    load(store, docker_save([BASE], ["base:1"]))
    load(store, docker_save([BASE, ONE], ["thing:1"]))
    assert store.resolve("thing:1").chain[0] == store.resolve("base:1").chain[0]
    assert len(store.driver.layers()) == 2
    assert len([d for d in store.blobs.digests() if d == f"sha256:{sha256(BASE)}"]) == 1


def test_a_name_moves_to_the_image_that_came_last(store: ImageStore) -> None:
    load(store, docker_save([BASE], ["thing:1"]))
    old = store.resolve("thing:1").id
    load(store, docker_save([ONE], ["thing:1"]))
    assert store.resolve("thing:1").id != old
    assert store.resolve(old).references == ()


def test_an_oci_layout_comes_in_from_a_directory(store: ImageStore, tmp_path: Path) -> None:
    annotations = {"org.opencontainers.image.ref.name": "v9"}
    directory = write_layout(oci_layout([BASE], annotations=annotations), tmp_path / "Thing")
    (loaded,) = store.load_layout(directory)
    assert loaded.references == ("thing:v9",)
    (again,) = store.load_layout(directory, name="registry.test/other")
    assert again.references == ("registry.test/other:v9",)


def test_a_full_name_in_an_oci_layout_wins(store: ImageStore, tmp_path: Path) -> None:
    annotations = {
        "org.opencontainers.image.ref.name": "v9",
        "io.containerd.image.name": "registry.test/team/thing:v8",
    }
    members = oci_layout([BASE], annotations=annotations)
    assert load(store, tar(dict(members))) == ["registry.test/team/thing:v8"]


def test_of_an_index_the_machine_s_platform_is_taken(store: ImageStore, tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    manifests = []
    for architecture, base in (("s390x", ONE), (platforms.machine().architecture, BASE)):
        one = oci_layout([base])
        entry = json.loads(one.pop("index.json"))["manifests"][0]
        manifests.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
        members.update(one)
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    members[f"blobs/sha256/{sha256(index)}"] = index
    entry = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{sha256(index)}",
        "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    (loaded,) = store.load_layout(write_layout(members, tmp_path / "multi"))
    assert store.resolve("multi:1").diff_ids == (f"sha256:{sha256(BASE)}",)
    assert loaded.references == ("multi:1",)

    manifests.pop()
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    members[f"blobs/sha256/{sha256(index)}"] = index
    entry |= {"digest": f"sha256:{sha256(index)}", "size": len(index)}
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with pytest.raises(NotFound, match="it has linux/s390x"):
        store.load_layout(write_layout(members, tmp_path / "foreign"))


def changed(change: dict[str, Any], **config: Any) -> bytes:
    return docker_save([BASE], ["bad:1"], configuration([BASE], **config), change)


def manifest(**change: Any) -> dict[str, bytes]:
    entry = {"Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["l/layer.tar"], **change}
    return {
        "manifest.json": json.dumps([entry]).encode(),
        "c.json": configuration([BASE]),
        "l/layer.tar": BASE,
    }


LAYOUT = oci_layout([BASE])
LAYER_PLACE = f"blobs/sha256/{sha256(BASE)}"


@pytest.mark.parametrize(
    ("data", "kind", "sentence"),
    [
        (b"", Corrupt, "archive"),
        (b"not a tar, but long enough to be looked at " * 100, Corrupt, "archive"),
        (SAVED[:700], Corrupt, "truncated"),
        (SAVED[: len(SAVED) // 2], Corrupt, "truncated"),
        (gzip.compress(SAVED)[:400], Corrupt, "gzip"),
        (tar({}), Corrupt, "no members"),
        (tar({"file": b"x"}), InvalidArgument, "neither manifest.json"),
        (tar({"repositories": b"{}"}), NotSupported, r"before 1\.10"),
        (changed({"manifest.json": b"{"}), Corrupt, "manifest.json"),
        (changed({"manifest.json": b'[{"Config": "\xff"}]'}), Corrupt, "manifest.json"),
        (changed({"manifest.json": b"[]"}), InvalidArgument, "no image"),
        (changed({"manifest.json": b'[{"Config": 7}]'}), Corrupt, "manifest.json.*Config"),
        (tar(dict(manifest(Layers=["l/layer.tar"] * 2))), Corrupt, "2 layers.*1 diff ID"),
        (tar(dict(manifest(Layers=["other/layer.tar"]))), Corrupt, "other/layer.tar is missing"),
        (tar(dict(manifest(Config="other.json"))), Corrupt, "other.json is missing"),
        (tar(dict(manifest(Config="../c.json"))), InvalidArgument, "leads out"),
        (tar(dict(manifest(RepoTags=["Bad"]))), InvalidArgument, "must be lowercase"),
        (tar(dict(manifest(RepoTags=["host"]))), InvalidArgument, "host:latest is reserved"),
        (tar(manifest() | {"l/layer.tar": ONE}), Corrupt, f"{sha256(BASE)}, found"),
        (tar(manifest() | {"l/layer.tar": BASE[:700]}), Corrupt, "truncated"),
        (tar(manifest() | {"l/layer.tar": "../../../etc/passwd"}), InvalidArgument, "leads out"),
        (tar(manifest() | {"l/layer.tar": "layer.tar"}), Corrupt, "too many links"),
        (tar(manifest() | {"c.json": b"[]"}), Corrupt, "c.json: .*object"),
        (tar(manifest() | {"c.json": b'{"os": "linux"}'}), Corrupt, "c.json: architecture"),
        (
            tar(manifest() | {"c.json": configuration([BASE]).replace(b"linux", b"windows")}),
            NotSupported,
            "windows",
        ),
        (
            docker_save([BASE], ["bad:1"], change={f"{sha256(configuration([BASE]))}.json": b"{}"}),
            Corrupt,
            "json",
        ),
        (tar(LAYOUT | {LAYER_PLACE: ONE}), Corrupt, LAYER_PLACE),
        (
            tar({name: LAYOUT[name] for name in LAYOUT if name != LAYER_PLACE}),
            Corrupt,
            "is missing",
        ),
        (
            tar(dict(oci_layout([BASE], media="application/x-other"))),
            NotSupported,
            "application/x-other",
        ),
        (tar(dict(oci_layout([BASE], [ONE]))), Corrupt, "diff ID"),
        (tar({"../\udcff.json": b"{}"}), InvalidArgument, r"\.\./\\xff.json leads out"),
        (tar({"\udcff": "../.."}), InvalidArgument, r"\\xff: link: .* leads out"),
        (tar({f"{'n' * 900_000}{n}": "x" * 90_000 for n in range(80)}), InvalidArgument, "64 MiB"),
    ],
)
def test_a_bad_archive_is_named_and_leaves_nothing(
    store: ImageStore, data: bytes, kind: type[SampanError], sentence: str
) -> None:
    with pytest.raises(kind, match=f"(?s){sentence}") as raised:
        store.load(io.BytesIO(data))
    assert str(raised.value).encode()  # it goes to a client as JSON, whatever bytes a name has
    assert is_empty(store)


def test_an_archive_of_too_many_members_or_names_is_refused(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    members: dict[str, bytes | str | None] = {f"{number:0100}": b"" for number in range(50)}
    monkeypatch.setattr("sampan.image.bundle._MEMBERS_LIMIT", 40)
    with pytest.raises(InvalidArgument, match="more than 40 members"):
        store.load(io.BytesIO(tar(members)))
    monkeypatch.setattr("sampan.image.bundle._MEMBERS_LIMIT", 60)
    monkeypatch.setattr("sampan.image.bundle._KEPT_LIMIT", 4000)
    with pytest.raises(InvalidArgument, match="its names and JSON documents exceed"):
        store.load(io.BytesIO(tar(members)))
    assert is_empty(store)


def test_a_layer_whose_name_is_no_text_is_told_of_as_text(store: ImageStore) -> None:
    big = layer({"a": bytes(5 << 20)})
    heard = set()
    store.load(
        io.BytesIO(docker_save([BASE], ["x:1"], change={"\udcff/layer.tar": big})),
        advance=lambda name, at, size: heard.add(name),
    )
    assert heard == {r"\xff"}


def test_a_bad_archive_leaves_what_was_there(store: ImageStore) -> None:
    load(store, SAVED)
    before = sorted(store.blobs.digests())
    with pytest.raises(Corrupt):
        load(store, tar(manifest() | {"l/layer.tar": ONE}))
    assert sorted(store.blobs.digests()) == before
    assert store.resolve("thing:v1").id == image_id(CONFIG)


def test_a_damaged_layout_directory_is_named(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such directory"):
        store.load_layout(str(tmp_path / "missing"))
    directory = write_layout(LAYOUT | {LAYER_PLACE: ONE}, tmp_path / "bad")
    with pytest.raises(Corrupt, match=LAYER_PLACE):
        store.load_layout(directory)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgument, match=r"index\.json"):
        store.load_layout(str(tmp_path / "empty"))
    assert is_empty(store)


def test_one_image_loaded_by_many_threads_is_unpacked_once(store: ImageStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            load(store, docker_save([BASE, ONE], [f"thing:{number}"], CONFIG))
            with pytest.raises(Corrupt):
                load(store, tar(manifest() | {"l/layer.tar": ONE}))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    image = store.resolve("thing:0")
    assert len(image.references) == 6
    assert sorted(store.driver.layers()) == sorted(image.chain)
    assert len(list(store.blobs.digests())) == 3
