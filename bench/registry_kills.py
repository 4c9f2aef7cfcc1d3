"""The registry killed again and again in the middle of pushes, deletions and collections.

    python -m bench.registry_kills [--kills N] [--seed N] [--place DIR] [--servers]

After each kill every acknowledged push must be there whole and ``fsck`` clean; at the end, all
leases over, nothing may be left that no manifest uses. The target: 100 kills without a finding.

``--servers``: two of them over one bucket and one PostgreSQL, killed in turn, while the load goes
on with whichever is there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.registry.server import test_servers
from tests.registry.server.buckets import ENVIRONMENT, Bucket
from tests.registry.server.clusters import Cluster
from tests.registry.server.test_kills import kill_under_load, nothing_is_kept_for_ever


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", default=None, help="a directory on the disk to be used")
    parser.add_argument("--servers", action="store_true", help="two, over one bucket")
    given = parser.parse_args()
    if given.servers:
        servers(given.kills, given.seed, given.place)
        return
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


def servers(kills: int, seed: int, directory: str | None) -> None:
    os.environ.update(ENVIRONMENT)
    before = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="registry-kills-", dir=directory) as name:
        place = Path(name)
        with (
            contextlib.closing(Bucket(place / "buckets")) as bucket,
            contextlib.closing(Cluster()) as cluster,
            test_servers.serving(place, bucket, cluster) as pair,
        ):
            load = test_servers.kill_servers_under_load(pair, kills, seed)
            done = pair.first.tool("fsck")
            assert (done.returncode, done.stdout) == (0, "clean\n"), done.stdout + done.stderr
            used = test_servers.nothing_is_kept_for_ever(pair)
            assert sum(path.stat().st_size for path in pair.objects.glob("*")) == used
            load.verify()
    seconds = time.monotonic() - before
    print(
        f"{kills} kills of one of two servers, {load.pushed} pushes acknowledged, none lost, fsck "
        f"clean, nothing left over: {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
