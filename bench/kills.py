"""SIGKILL of the daemon at random moments of a mixed load: ``python -m bench.kills`` (root).

Twenty containers start, stop, write, are executed in, frozen, restarted by their policies and
removed, while the daemon is killed 200 times and started again. Afterwards nothing may be lost
(containers that ran, exit codes, lines of logs, events), nothing may be left (mounts, cgroups,
processes, rows, files), and each start must have been ready in a second. Prints what it found, and
exits with 1 if anything is wrong. ``--seed`` repeats the moments, not the machine's.
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

from tests.daemon.kill_load import Load, leaks
from tests.daemon_fixture import Daemon

__all__ = ["main"]

READY = 1.0
"""Seconds from a daemon's start to its being ready."""


def kill(daemon: Daemon, load: Load, moments: random.Random) -> float:
    """One kill and the start after it; the seconds to ready."""
    time.sleep(moments.uniform(0.02, 0.6))
    daemon.kill()
    time.sleep(moments.choice((0.0, 0.0, 0.05, 0.2)))
    begin = time.monotonic()
    daemon.start()
    seconds = time.monotonic() - begin
    load.check()
    return seconds


def wait_for_nothing(daemon: Daemon, seconds: float = 10) -> dict[str, set[str]]:
    """What is still left when nothing is, or when the time is over."""
    deadline = time.monotonic() + seconds
    while (left := leaks(daemon, set())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills")
    parser.add_argument("--kills", type=int, default=200)
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
    ready: list[float] = []
    try:
        daemon.start()
        load = Load(daemon, given.containers, given.tickers, given.seed)
        load.start()
        for number in range(1, given.kills + 1):
            ready.append(kill(daemon, load, moments))
            if number % 20 == 0:
                lives = sum(load.ledger.lives.values())
                findings = len(load.ledger.wrong)
                print(f"  {number} kills, {lives} lives, {findings} findings", flush=True)
        lines = load.finish()
        left = wait_for_nothing(daemon)
        wrong = load.ledger.wrong
        if wrong or left:
            shutil.copy(daemon.log, f"/tmp/kills-{given.seed}.log")
    finally:
        daemon.close()
    for kind, count in sorted(load.ledger.lives.items()):
        print(f"  lives: {kind:16} {count}")
    print(f"  lines of the tickers: {lines}")
    print(f"  seconds: {time.monotonic() - begin:.0f}")
    slowest = sorted(ready)
    print(
        f"  ready: median {statistics.median(ready):.3f} s, "
        f"95 % {slowest[int(len(slowest) * 0.95)]:.3f} s, slowest {slowest[-1]:.3f} s, "
        f"over {READY:.0f} s: {sum(one > READY for one in ready)}"
    )
    for text in wrong:
        print(f"  WRONG: {text}")
    for what, which in left.items():
        print(f"  LEFT: {what}: {sorted(which)[:5]} ({len(which)})")
    print("  nothing lost, nothing left" if not (wrong or left) else "  see above")
    return 1 if wrong or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
