"""What layers and containers cost on disk and in time, per storage driver.

``python bench/layers.py [ARCHIVE]``: the image is an archive of ``docker save`` or an OCI layout as
tar, else one is made of this machine's ``/usr/share/doc`` in ten layers. Printed are inodes and
bytes that each driver's layers take, the time to load, and the medians of making, describing and
removing a container's root and of its row in the database.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from typing import TYPE_CHECKING

from sampan.image.store import ImageStore
from sampan.storage.drivers import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable

_LAYERS = 10
_FILES = 300
_ROUNDS = 200


def sample() -> bytes:
    """An archive of ten layers, the files of each from a part of /usr/share/doc."""
    paths = sorted(
        os.path.join(directory, name)
        for directory, _, names in os.walk("/usr/share/doc")
        for name in names
        if os.path.isfile(os.path.join(directory, name))
    )[: _LAYERS * _FILES]
    layers = []
    for number in range(_LAYERS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in paths[number::_LAYERS]:
                archive.add(path)
        layers.append(buffer.getvalue())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(one).hexdigest() for one in layers],
            },
        }
    ).encode()
    entry = {
        "Config": "c.json",
        "RepoTags": ["bench:1"],
        "Layers": [f"{n}" for n in range(_LAYERS)],
    }
    members = {str(number): one for number, one in enumerate(layers)}
    members |= {"c.json": config, "manifest.json": json.dumps([entry]).encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def median(work: Callable[[int], object]) -> float:
    """The median of many calls, in microseconds."""
    times = []
    for number in range(_ROUNDS):
        start = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - start)
    return sorted(times)[_ROUNDS // 2] * 1e6


def measure(name: str, data: bytes, directory: str) -> dict[str, float]:
    """One driver's figures."""
    store = ImageStore(os.path.join(directory, name), name)
    try:
        start = time.perf_counter()
        (loaded, *_) = store.load(io.BytesIO(data))
        figures = {"load ms": (time.perf_counter() - start) * 1e3}
        chain = store.resolve(loaded.id).chain
        driver, database = store.driver, store.database
        usages = [driver.layer_usage(chain_id) for chain_id in chain]
        figures["layers"] = len(chain)
        figures["entries"] = sum(usage.inodes for usage in usages)
        if name != "vfs":
            figures["create µs"] = median(lambda n: driver.create_container(f"c{n}", chain))
            figures["mounts µs"] = median(lambda n: driver.mounts(f"c{n}"))
            figures["remove µs"] = median(lambda n: driver.remove_container(f"c{n}"))
        row = "INSERT INTO containers VALUES (?, ?, 1.0, ?, x'')"
        blob = b"x" * 3000
        figures["row insert µs"] = median(lambda n: database.execute(row, (f"{n}", f"{n}", blob)))
        figures["row update µs"] = median(
            lambda n: database.execute(
                "UPDATE containers SET state = x'00' WHERE id = ?", (f"{n}",)
            )
        )
        figures["row delete µs"] = median(
            lambda n: database.execute("DELETE FROM containers WHERE id = ?", (f"{n}",))
        )
        driver.collect()
        figures["inodes on disk"] = inodes(os.path.join(directory, name, name, "layers"))
        return figures
    finally:
        store.close()


def inodes(directory: str) -> int:
    """Different inodes below a directory: a file linked into ten layers is one."""
    seen = set()
    for place, _, names in os.walk(directory):
        seen.add(os.lstat(place).st_ino)
        seen.update(os.lstat(os.path.join(place, name)).st_ino for name in names)
    return len(seen)


def main() -> None:
    data = sample()
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            data = file.read()
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
        results = {name: measure(name, data, directory) for name in DRIVERS}
    rows = list(dict.fromkeys(key for figures in results.values() for key in figures))
    print(f"{'':16}" + "".join(f"{name:>12}" for name in results))
    for key in rows:
        shown = (figures.get(key) for figures in results.values())
        print(f"{key:16}" + "".join(f"{'-' if v is None else f'{v:.0f}':>12}" for v in shown))


if __name__ == "__main__":
    main()
