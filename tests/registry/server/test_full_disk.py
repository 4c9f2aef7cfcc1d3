"""A disk that fills: who pushes is told, nothing is half there, and it goes on where room is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel.mounts import mount, umount
from tests.registry.registries import sha256
from tests.registry.server.house import House

pytestmark = pytest.mark.root

ROOM = 12 << 20


@pytest.fixture
def small(quick: Path) -> Iterator[House]:
    """On a file system of twelve megabytes."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    disk = place / "disk"
    disk.mkdir()
    mount("tmpfs", str(disk), "tmpfs", 0, f"size={ROOM}")
    house = House(disk / "root", "--lease", "0", "--collect-every", "0")
    house.log = place / "log"
    try:
        yield house.start()
    finally:
        house.close()
        umount(str(disk))
        shutil.rmtree(place)


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
