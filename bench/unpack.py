"""Unpacking a layer: ours against GNU tar with gzip, on the same file, turn by turn.

    python -m bench.unpack [LAYER.tar.gz] [--rounds N] [--directory DIR] [--profile]

Without a file a Debian minbase layer is made by debootstrap, once, and kept. Each round unpacks
into a fresh directory (below --directory, else beside the layer), ours in a fresh interpreter whose
start is counted, and removes it outside the measured time. The ratio is ours to GNU tar's, of the
medians, and also that of processor time, which a busy disk or neighbour blurs less.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

CACHED = "/var/tmp/sampan-bench-debian.tar.gz"


def debian() -> str:
    """The path of a gzipped Debian minbase root file system, made if it is missing."""
    if not os.path.exists(CACHED):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as work:
            tree = f"{work}/debian"
            subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", tree],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            subprocess.run(["tar", "-C", tree, "-czf", f"{work}/layer.tar.gz", "."], check=True)
            os.rename(f"{work}/layer.tar.gz", CACHED)
    return CACHED


def unpack(layer: str, directory: str) -> None:
    """What the measured interpreter does."""
    from sampan.storage.archive.apply import apply_layer

    source = os.open(layer, os.O_RDONLY)
    target = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    apply_layer(source, target, style="overlay")


def ours(layer: str, directory: str) -> None:
    subprocess.run([sys.executable, "-m", "bench.unpack", "--into", directory, layer], check=True)


def gnu(layer: str, directory: str) -> None:
    subprocess.run(["tar", "-C", directory, "-xzpf", layer], check=True)


def timed(work: Callable[[str, str], None], layer: str, below: str) -> tuple[float, float]:
    """Seconds of one run: by the clock, and of processor time."""
    directory = tempfile.mkdtemp(prefix="sampan-bench-", dir=below)
    try:
        os.sync()  # nobody pays for the one before
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        work(layer, directory)
        elapsed = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return elapsed, busy
    finally:
        shutil.rmtree(directory)


def profile(layer: str, below: str) -> None:
    import cProfile
    import pstats

    directory = tempfile.mkdtemp(prefix="sampan-bench-", dir=below)
    try:
        profiler = cProfile.Profile()
        profiler.runcall(unpack, layer, directory)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(15)
    finally:
        shutil.rmtree(directory)


def facts(layer: str) -> str:
    tar = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=True)
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()} {platform.machine()},"
        f" Python {platform.python_version()}, {tar.stdout.splitlines()[0]},"
        f" load {os.getloadavg()[0]:.1f}; layer of {os.path.getsize(layer) / 1e6:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layer", nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        unpack(options.layer, options.into)
        return
    layer = os.path.abspath(options.layer or debian())
    below = options.directory or os.path.dirname(layer)
    if options.profile:
        profile(layer, below)
        return
    print(facts(layer))
    runs: dict[str, list[tuple[float, float]]] = {"GNU tar": [], "sampan": []}
    for _ in range(options.rounds):
        runs["GNU tar"].append(timed(gnu, layer, below))
        runs["sampan"].append(timed(ours, layer, below))
    medians = {}
    for name, taken in runs.items():
        clock, busy = zip(*taken, strict=True)
        medians[name] = statistics.median(clock), statistics.median(busy)
        print(
            f"{name:8}  median {medians[name][0]:6.3f} s   ({min(clock):.3f} to {max(clock):.3f},"
            f" {len(taken)} runs)   processor {medians[name][1]:.3f} s"
        )
    elapsed, busy_ratio = (
        ours / theirs for ours, theirs in zip(medians["sampan"], medians["GNU tar"], strict=True)
    )
    print(f"ratio     {elapsed:.2f} by the clock, {busy_ratio:.2f} of processor time")


if __name__ == "__main__":
    main()
