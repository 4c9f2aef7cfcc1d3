"""The registry killed again and again in the middle of pushes, deletions and collections.

    python -m bench.registry_kills [--kills N] [--seed N] [--place DIR]

After each kill every acknowledged push must be there whole and ``fsck`` clean; at the end, all
leases over, nothing may be left that no manifest uses. The target: 100 kills without a finding.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.registry.server.test_kills import kill_under_load, nothing_is_kept_for_ever


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", default=None, help="a directory on the disk to be used")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="registry-kills-", dir=given.place))
    before = time.monotonic()
    try:
        house, load = kill_under_load(place / "root", given.kills, given.seed)
        try:
            nothing_is_kept_for_ever(house)
            load.verify()
        finally:
            house.close()
        seconds = time.monotonic() - before
        print(
            f"{given.kills} kills, {load.pushed} pushes acknowledged, none lost, fsck clean each "
            f"time, nothing left over: {seconds:.0f} s"
        )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
