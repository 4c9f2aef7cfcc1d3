"""What a container from a Python program costs: ``sampan.run`` against the same through dockerd.

    python bench/sdk.py [-n 300] [--threads 8] [--json FILE] [--no-peers]

Each round runs every case once, in turn, so that a machine whose speed drifts favours nobody:

* ``sampan.run("host", ["true"])`` in a session that is warm, the same with writable layers in
  memory, and the same with the limits, files in and files out of a sandbox;
* ``subprocess.run(["docker", "run", …])`` on dockerd, where that is installed, which is what
  programs without a library do; and a bare ``subprocess.run(["true"])``, which is what nobody can
  beat;

then sessions from nothing to their end, runs in threads, and what 1,000 runs leave behind: file
descriptors, processes, mounts, cgroups, files, memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sampan
from bench.peers import busybox_root, dockerd, root_tar, workspace
from sampan.kernel import cgroups
from sampan.kernel.mounts import mountinfo

Measure = Callable[[], object]


def _timed(call: Measure) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def _rounds(cases: dict[str, Measure], count: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    for _ in range(count):
        for name, call in cases.items():
            times[name].append(_timed(call))
    return times


def _row(name: str, values: list[float]) -> None:
    cuts = statistics.quantiles(values, n=100)
    print(f"{name:<44}{cuts[49]:9.2f}{cuts[98]:9.2f}{min(values):9.2f}")


def _docker(host: str, tar: Path) -> Measure:
    environment = {**os.environ, "DOCKER_HOST": host}
    subprocess.run(
        ["docker", "import", str(tar), "bench"], env=environment, check=True, capture_output=True
    )
    words = "docker run --rm --network none --ulimit nofile=1024:4096 bench /bin/true".split()
    return lambda: subprocess.run(words, env=environment, check=True)


def _sandbox(session: sampan.Session) -> Measure:
    def run() -> None:
        session.run(
            "host",
            ["sh", "-c", "cat /in/x > /out"],
            files={"/in/x": "x"},
            collect=["/out"],
            memory="128m",
            pids=64,
            cpus=1,
            timeout=10,
            user=65534,
            cap_drop=["ALL"],
            no_new_privileges=True,
        )

    return run


def _program(data_root: Path) -> Measure:
    """A program that runs one container and ends."""
    words = [sys.executable, "-c", "import sampan; sampan.run('host', ['true'], check=True)"]
    environment = {**os.environ, "SAMPAN_DATA_ROOT": str(data_root)}
    return lambda: subprocess.run(words, env=environment, check=True)


def _threads(session: sampan.Session, workers: int, count: int) -> tuple[float, list[float]]:
    """Runs per second, and each one's milliseconds."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        times = list(
            pool.map(
                lambda _: _timed(lambda: session.run("host", ["true"], check=True)), range(count)
            )
        )
    return count / (time.perf_counter() - begin), times


def _state(data_root: Path) -> dict[str, int]:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    children = _children(os.getpid())
    groups: list[Path] = []
    for mount in set(cgroups.detect().mounts.values()):
        groups += [path for path in Path(f"{mount}/sampan-sessions").glob("*/*") if path.is_dir()]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": len(children) + sum(len(_children(child)) for child in children),
        "mounts": len(mountinfo()),
        "cgroups": len(groups),
        "files": sum(1 for _ in (data_root / "sessions").glob("*/[cd]*/*")),
        "kB of memory": int(status.partition("VmRSS:")[2].split()[0]),
    }


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def _leaks(session: sampan.Session, data_root: Path, count: int) -> dict[str, tuple[int, int]]:
    run, sandbox = session.run, _sandbox(session)
    for _ in range(20):
        sandbox()
    before = _state(data_root)
    for number in range(count):
        if number % 10:
            run("host", ["true"])
        else:
            sandbox()
    time.sleep(0.5)  # monitors that have said all end a moment later
    after = _state(data_root)
    return {name: (value, after[name]) for name, value in before.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-n", type=int, default=300, help="rounds")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--leaks", type=int, default=1000, help="runs of the leak check")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true", help="without dockerd")
    options = parser.parse_args()
    with workspace() as place:
        data_root = place / "sampan"
        with (
            sampan.Session(data_root) as session,
            sampan.Session(data_root, scratch="/dev/shm") as memory,
            _peer(place, options.no_peers) as docker,
        ):
            cases: dict[str, Measure] = {
                'sampan.run("host", ["true"])': lambda: session.run("host", ["true"], check=True),
                "the same, its writes in memory": lambda: memory.run("host", ["true"], check=True),
                "the same with limits, files in and out": _sandbox(session),
                'subprocess.run(["true"])': lambda: subprocess.run(["true"], check=True),
            }
            if docker is not None:
                cases['subprocess.run(["docker", "run", …])'] = docker
            times = _rounds(cases, options.n)
            times["a program that runs one, from nothing to its end"] = [
                _timed(_program(data_root)) for _ in range(20)
            ]
            rates = {}
            for workers in (1, options.threads, 16):
                rate, each = _threads(session, workers, 200)
                rates[workers] = rate
                times[f"one of {workers} threads"] = each
            leaks = _leaks(session, data_root, options.leaks)
    print(f"{platform.uname().release}, {os.cpu_count()} CPUs, {options.n} rounds, interleaved; ms")
    print(f"{'':<44}{'p50':>9}{'p99':>9}{'min':>9}")
    for name, values in times.items():
        _row(name, values)
    for workers, rate in rates.items():
        print(f"{workers:>3} threads: {rate:.0f} containers per second")
    print(f"before and after {options.leaks} runs:")
    for name, (first, last) in leaks.items():
        print(f"  {name:<16}{first:>9}{last:>9}")
    if options.json:
        figures = {"ms": times, "per_second": rates, "leaks": leaks}
        options.json.write_text(json.dumps(figures, indent=1))


class _peer:
    """dockerd with the same root file system, while the ``with`` lasts; None without one."""

    def __init__(self, place: Path, without: bool) -> None:
        self._place = place
        self._without = without
        self._dockerd = dockerd(place)

    def __enter__(self) -> Measure | None:
        if self._without:
            return None
        host = self._dockerd.__enter__()
        if host is None:
            return None
        return _docker(host, root_tar(busybox_root(self._place), self._place))

    def __exit__(self, *error: object) -> None:
        if not self._without:
            self._dockerd.__exit__(None, None, None)


if __name__ == "__main__":
    main()
