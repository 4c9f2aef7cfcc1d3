"""SIGKILL in the middle of pushes, deletions and collections (``python -m bench.registry_kills``
does so a hundred times)."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.registry.server.house import House
from tests.registry.server.load import Load

KILLS = 3


def kill_under_load(root: Path, kills: int, seed: int) -> tuple[House, Load]:
    """The house as it is after so many kills; what was acknowledged is held after each."""
    house = House(root, "--lease", "2s", "--collect-every", "30ms").start()
    load = Load(house, 3, seed)
    chance = random.Random(seed)
    for _ in range(kills):
        before = load.pushed
        load.start()
        # As long as it takes to have something to lose, and a little by chance.
        deadline = time.monotonic() + 60
        while load.pushed < before + 5:
            assert time.monotonic() < deadline, house.log.read_text()
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        house.kill()
        load.join()
        done = house.tool("fsck")
        assert (done.returncode, done.stdout) == (0, "clean\n"), done.stdout + done.stderr
        house.start()
        load.verify()
    return house, load


def nothing_is_kept_for_ever(house: House) -> None:
    """All leases over, only what manifests use is left."""
    deadline = time.monotonic() + 60
    while True:
        done = house.tool("gc", "--dry-run", "--upload-age", "0")
        used, *others = (int(line.split()[0]) for line in done.stdout.splitlines()[:6])
        if not any(others):
            break
        assert time.monotonic() < deadline, done.stdout
        assert house.tool("gc", "--upload-age", "0").returncode == 0
    there = sum(path.stat().st_size for path in (house.root / "blobs").glob("*/*/*"))
    assert there == used


def test_nothing_acknowledged_is_lost_and_nothing_else_kept(root: Path) -> None:
    house, load = kill_under_load(root, KILLS, seed=5)
    try:
        nothing_is_kept_for_ever(house)
        load.verify()
        assert house.tool("fsck").stdout == "clean\n"
    finally:
        house.close()
