"""A load killed at any moment leaves a store that opens clean and loads the same image again."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Conflict
from sampan.image.store import ImageStore
from tests.image.archives import docker_save
from tests.image.test_loading import is_empty
from tests.storage.drivers.layers import Entry, layer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

LOADER = """
import sys
from sampan.image.store import ImageStore
store = ImageStore(sys.argv[1], sys.argv[3])
print("open", flush=True)
with open(sys.argv[2], "rb") as stream:
    store.load(stream)
print("done", flush=True)
store.remove("big:1", used_by=lambda _: ())
store.close()
"""


def consistent(store: ImageStore) -> None:
    """What the tables say, the disk has; and the other way round."""
    rows = {row[0] for row in store.database.rows("SELECT chain_id FROM layers")}
    assert set(store.driver.layers()) == rows
    base = f"{store.data_root}/{store.driver.name}"
    assert os.listdir(f"{base}/staging") == []
    assert {f"sha256:{name}" for name in os.listdir(f"{base}/layers")} == rows
    for image in store.list({"dangling": ["false"]}):
        if not image.system:
            assert all(store.driver.has_layer(chain_id) for chain_id in image.chain)
            for diff_id in image.diff_ids:
                store.blobs.verify(store.layers.blob_of(diff_id)[0])
    assert os.listdir(f"{store.blobs.root}/ingest") == []


@pytest.mark.parametrize("driver", ["overlay2", "overlay"])
def test_a_killed_load_leaves_nothing_half_true(
    data_root: str, tmp_path: Path, driver: str
) -> None:
    layers = []
    for number in range(4):
        files: dict[str, Entry] = {f"{number}/{i}": os.urandom(2000) for i in range(150)}
        layers.append(layer({**files, "shared": bytes([number])}))
    archive = tmp_path / "big.tar"
    archive.write_bytes(docker_save(layers, ["big:1"]))
    choose = random.Random(7)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", LOADER, data_root, str(archive), driver],
            stdout=subprocess.PIPE,
        ) as loader:
            assert loader.stdout is not None
            loader.stdout.readline()
            try:
                loader.wait(choose.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                os.kill(loader.pid, signal.SIGKILL)
        store = ImageStore(data_root, driver)
        store.driver.collect()
        consistent(store)
        store.close()
    store = ImageStore(data_root, driver)
    store.load(io.BytesIO(archive.read_bytes()))
    assert store.resolve("big:1").references == ("big:1",)
    consistent(store)
    store.remove("big:1", used_by=lambda _: ())
    store.layers.collect(adopted=True)
    store.driver.collect()
    store.close()


def test_a_data_root_has_one_owner_at_a_time(store: ImageStore, data_root: str) -> None:
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()}"):
        ImageStore(data_root)
    assert is_empty(store)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    # A file system of 8 MiB, in a mount namespace of the child's own.
    archive = tmp_path / "big.tar"
    small = docker_save([layer({"small": b"x"})], ["small:1"])
    archive.write_bytes(
        docker_save(
            [layer({"a": os.urandom(3 << 20)}), layer({"b": os.urandom(3 << 20)})], ["big:1"]
        )
    )
    (tmp_path / "small.tar").write_bytes(small)
    script = """
import sys
from sampan.errors import SampanError
from sampan.image.store import ImageStore
sys.path.insert(0, sys.argv[2])
from tests.image.test_loading import is_empty
store = ImageStore(sys.argv[1] + "/disk/data")
with open(sys.argv[1] + "/big.tar", "rb") as stream:
    try:
        store.load(stream)
    except SampanError as error:
        print(error)
assert is_empty(store)
with open(sys.argv[1] + "/small.tar", "rb") as stream:
    print(store.load(stream)[0].references)
"""
    command = (
        'mkdir "$1/disk"; mount -t tmpfs -o size=8m tmpfs "$1/disk"; exec "$2" -c "$3" "$1" "$4"'
    )
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    own = ("unshare", "-m", "--propagation", "private")
    done = subprocess.run(
        [*own, "sh", "-ec", command, "sh", str(tmp_path), sys.executable, script, top],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("no space left on device while")
    assert second == "('small:1',)"
