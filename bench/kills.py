"""SIGKILL at random moments of a mixed load: ``python -m bench.kills`` (root).

Twenty containers start, stop, write, are executed in, frozen, restarted, by their policies too, and
removed, while the daemon is killed 200 times, at times before it is ready again, and started again.
Afterwards nothing may be lost (containers that ran, exit codes, lines of logs, what execs said,
events), nothing may be left (``tests/daemon/leftovers``: mounts, cgroups, namespaces, processes,
rows, files, descriptors, keyrings), and each start must have been ready in a second.

``--all`` kills monitors, zygotes and the pair that waits as well: a container whose own monitor was
killed is ended and reported so, all others live on.

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

__all__ = ["main"]

READY = 1.0
"""Seconds from a daemon's start to its being ready."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--all", action="store_true", help="kill monitors and zygotes too")
    parser.add_argument("--containers", type=int, default=20)
    parser.add_argument("--tickers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args(arguments)
    # An installed program is compiled; a start that compiles it anew measures the compiler.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    root = Path(tempfile.mkdtemp(prefix="sampan-kills-"))
    daemon = Daemon(root)
    moments = random.Random(given.seed)
    print(f"seed {given.seed}: {given.kills} kills, {given.containers} containers", flush=True)
    begin = time.monotonic()
    try:
        daemon.start()
        before = Before(daemon)
        load = Load(daemon, given.containers, given.tickers, given.seed)
        killer = Killer(load, moments, Killer.ALL if given.all else Killer.DAEMON)
        load.start()
        ledger = load.ledger
        for number in range(1, given.kills + 1):
            time.sleep(moments.uniform(0.02, 0.6))
            killer.strike()
            if number % 20 == 0:
                lives = sum(ledger.lives.values())
                found = len(ledger.wrong)
                print(f"  {number} kills, {lives} lives, {found} findings", flush=True)
        lines = load.finish()
        left = before.wait(ledger.ids)
        late = sum(one > READY for one in killer.ready)
        wrong = bool(ledger.wrong or left or late)
        if wrong:
            shutil.copy(daemon.log, f"/tmp/kills-{given.seed}.log")
    finally:
        daemon.close()
    for what, count in sorted(killer.strikes.items()):
        print(f"  killed: {what:18} {count}")
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
