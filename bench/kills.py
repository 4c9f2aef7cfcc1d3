"""SIGKILL at random moments of a mixed load: ``python -m bench.kills`` (root).

Twenty containers start, stop, write, are executed in, frozen, restarted, by their policies too, and
removed, while the daemon is killed 200 times, at times before it is ready again, and started again.
Afterwards nothing may be lost (containers that ran, exit codes, lines of logs, what execs said,
events), nothing may be left (``tests/daemon/leftovers``: mounts, cgroups, namespaces, processes,
rows, files, descriptors, keyrings), and each start must have been ready in a second.

``--all`` kills monitors, zygotes and the pair that waits as well: a container whose own monitor was
killed is ended and reported so, all others live on.

``--networks``: the containers come onto networks, leave them, find one another and publish ports
instead, until 300 connects, disconnects, starts and kills were acknowledged (``--acts``); no link,
namespace, address, rule or resolver may be left.

Prints what it found, and exits with 1 if anything is wrong. ``--seed`` repeats the moments, not the
machine's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.daemon.kill_load import Load
from tests.daemon.killing import Killer
from tests.daemon.leftovers import Before
from tests.daemon_fixture import Daemon
from tests.network.house import House
from tests.network.kill_load import NetworkLoad

__all__ = ["main"]

READY = 1.0
"""Seconds from a daemon's start to its being ready."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--all", action="store_true", help="kill monitors and zygotes too")
    parser.add_argument("--networks", action="store_true", help="a load of networks")
    parser.add_argument("--acts", type=int, default=300, help="with --networks: how many")
    parser.add_argument("--containers", type=int, default=20)
    parser.add_argument("--tickers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args(arguments)
    # An installed program is compiled; a start that compiles it anew measures the compiler.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    root = Path(tempfile.mkdtemp(prefix="sampan-kills-"))
    house = House(root) if given.networks else None
    daemon = house.daemon if house else Daemon(root)
    moments = random.Random(given.seed)
    aim = f"{given.acts} acts" if house else f"{given.kills} kills"
    print(f"seed {given.seed}: {aim}, {given.containers} containers", flush=True)
    begin = time.monotonic()
    try:
        daemon.start()
        places = NetworkLoad.prepare(house) if house else {}
        before = Before(daemon)
        if house:
            load: Load = NetworkLoad(house, places, given.containers, given.seed)
        else:
            load = Load(daemon, given.containers, given.tickers, given.seed)
        killer = Killer(load, moments, Killer.ALL if given.all else Killer.DAEMON)
        load.start()
        ledger = load.ledger
        number = 0
        while sum(ledger.acts.values()) < given.acts if house else number < given.kills:
            number += 1
            time.sleep(moments.uniform(0.02, 0.6))
            killer.strike()
            if number % 20 == 0:
                lives = sum(ledger.lives.values())
                found = len(ledger.wrong)
                print(f"  {number} kills, {lives} lives, {found} findings", flush=True)
        lines = load.finish()
        left = before.wait(ledger.ids)
        if isinstance(load, NetworkLoad):
            ledger.wrong += load.settle()
        late = sum(one > READY for one in killer.ready)
        wrong = bool(ledger.wrong or left or late)
        if wrong:
            shutil.copy(daemon.log, f"/tmp/kills-{given.seed}.log")
    finally:
        if house:
            house.close()
        else:
            daemon.close()
    for what, count in sorted(killer.strikes.items()):
        print(f"  killed: {what:18} {count}")
    for kind, count in sorted(ledger.acts.items()):
        print(f"  acts: {kind:20} {count}")
    for kind, count in sorted(ledger.lives.items()):
        print(f"  lives: {kind:19} {count}")
    print(f"  lines of the tickers: {lines}")
    print(f"  seconds: {time.monotonic() - begin:.0f}")
    slowest = sorted(killer.ready)
    print(
        f"  ready: median {statistics.median(slowest):.3f} s, "
        f"95 % {slowest[int(len(slowest) * 0.95)]:.3f} s, slowest {slowest[-1]:.3f} s, "
        f"over {READY:.0f} s: {late}"
    )
    for text in ledger.wrong:
        print(f"  WRONG: {text}")
    for what, which in left.items():
        print(f"  LEFT: {what}: {sorted(which)[:5]} ({len(which)})")
    print(f"  see above, and /tmp/kills-{given.seed}.log" if wrong else "  nothing lost or left")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
