"""A disk that fills: who pushes is told, nothing is half there, and it goes on where room is."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel.mounts import mount, umount
from sampan.registry.server.storage.s3 import PART
from tests.registry.registries import sha256
from tests.registry.server.buckets import Bucket
from tests.registry.server.house import House

pytestmark = pytest.mark.root

ROOM = 12 << 20


@contextlib.contextmanager
def on_a_disk(quick: Path, room: int) -> Iterator[House]:
    """A registry that is not started, on a file system of so many bytes."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    disk = place / "disk"
    disk.mkdir()
    mount("tmpfs", str(disk), "tmpfs", 0, f"size={room}")
    house = House(disk / "root", "--lease", "0", "--collect-every", "0")
    house.log = place / "log"
    try:
        yield house
    finally:
        house.close()
        umount(str(disk))
        shutil.rmtree(place)


@pytest.fixture
def small(quick: Path) -> Iterator[House]:
    with on_a_disk(quick, ROOM) as house:
        yield house.start()


def test_a_full_disk_is_told_and_survived(small: House) -> None:
    kept = os.urandom(1_000_000)
    small.push("full/box", "kept", kept)
    big = os.urandom(ROOM)
    where = small.begin("full/box")
    answer = small.request("PUT", f"{where}?digest={sha256(big)}", big)
    assert answer.status >= 500
    assert "no space left on device" in answer.json()["errors"][0]["message"]
    assert small.request("GET", where).status == 404
    assert list((small.root / "uploads").iterdir()) == []
    # To the last byte, so that the database has no room either.
    filler = small.root / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    assert small.request("GET", "/readyz").status == 503
    manifest = small.request("GET", "/v2/full/box/manifests/kept")
    assert manifest.status == 200
    refused = small.put_manifest("full/box", "other", manifest.body)
    assert refused.status >= 500
    assert "no space left on device" in refused.json()["errors"][0]["message"]
    assert small.request("GET", f"/v2/full/box/blobs/{sha256(kept)}").body == kept
    filler.unlink()
    assert small.request("GET", "/readyz").status == 200
    assert small.put_manifest("full/box", "other", manifest.body).status == 201
    small.push("full/box", "later", os.urandom(1_000_000))
    assert small.tool("gc", "--upload-age", "0").returncode == 0
    assert small.tool("fsck").stdout == "clean\n"


def test_a_server_with_no_room_for_a_part(quick: Path, bucket: Bucket) -> None:
    """What goes to a bucket is on the server's disk first."""
    with on_a_disk(quick, PART * 3 // 4) as house:
        prefix = house.root.parent.parent.name
        house.where += ("--storage", bucket.address(prefix))
        house.start()
        where, data = house.begin("full/part"), os.urandom(PART + 1)
        assert house.request("PATCH", where, data[:1000]).status == 202
        answer = house.request("PUT", f"{where}?digest={sha256(data)}", data[1000:])
        assert answer.status >= 500
        assert "no space left on device" in answer.json()["errors"][0]["message"]
        assert house.request("GET", where).codes == ["BLOB_UPLOAD_UNKNOWN"]
        assert house.request("HEAD", f"/v2/full/part/blobs/{sha256(data)}").status == 404
        house.push("full/part", "later", data[: PART // 2])
        assert len(list((bucket.folder(prefix) / "data").glob("[0-9a-f]*"))) == 2
        assert house.tool("fsck").stdout == "clean\n"
