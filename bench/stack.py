"""A stack of Debian's programs under load: us and dockerd, in one run.

    python bench/stack.py [--rounds N] [--seconds N]

nginx, an application in Python and Redis (``tests/network/stack``) on a user's network; wrk(1) asks
from another machine (network namespace) through the published port, for a page and for what
the application counts in the store; redis-benchmark(1) from within a container, by name, and from
the other machine through the port. The programs are this machine's, mounted into an image that has
none, for both engines alike. In a round each is asked for by one engine right after the other.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.network.stack import bodies, requests, write

from bench.namespaces import Namespace, namespaces
from bench.network import docker_of, mounts
from bench.peers import busybox_root, dockerd, private_mounts, root_tar, sampan_daemon, workspace
from bench.start import Api, load

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIMITS = [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]
_READY = 60.0
_REDIS = ("redis-benchmark", "-c", "16", "-t", "get", "--csv")


class Stack:
    """One engine's."""

    def __init__(
        self, host: str, machine: Namespace, other: Namespace, number: int, files: Path
    ) -> None:
        self._other = other
        self._address = f"192.0.2.{4 * number + 2}"
        here = f"192.0.2.{4 * number + 1}/30"
        other.wire(f"m{number}", here, machine, "wire", f"{self._address}/30")
        self.docker = docker_of(host)
        api = Api(host, "v1.40")
        api.call("POST", "/networks/create", {"Name": "stack"})
        binds = [*mounts(), f"{files}:/stack:ro"]
        for name, body in bodies("bench", "stack", binds, Ulimits=_LIMITS).items():
            made = api.call("POST", f"/containers/create?name={name}", {**body, "Env": [_PATH]})
            api.call("POST", f"/containers/{json.loads(made)['Id']}/start")
        deadline = time.monotonic() + _READY
        while "visit" not in self._page("/visits"):
            if time.monotonic() > deadline:
                raise SystemExit(f"{host}: the stack is not ready after {_READY:.0f} s")
            time.sleep(0.1)

    def _page(self, path: str) -> str:
        script = f"wget -q -O - http://{self._address}:8080{path} 2>/dev/null || true"
        return self._other.run("busybox", "sh", "-c", script)

    def page(self, seconds: int) -> float:
        return self._wrk("/", seconds)

    def visits(self, seconds: int) -> float:
        return self._wrk("/visits", seconds)

    def _wrk(self, path: str, seconds: int) -> float:
        words = f"wrk -t 2 -c 16 -d {seconds}s --timeout 30s http://{self._address}:8080{path}"
        return requests(self._other.run(*words.split())) / seconds

    def by_name(self, seconds: int) -> float:
        count = str(20_000 * seconds)
        return _rate(self.docker("exec", "app", *_REDIS, "-n", count, "-h", "store"))

    def through_the_port(self, seconds: int) -> float:
        return _rate(self._other.run(*_REDIS, "-n", str(20_000 * seconds), "-h", self._address))


def _rate(report: str) -> float:
    (row,) = csv.DictReader(report.splitlines())
    return float(row["rps"])


_CASES: dict[str, Callable[[Stack, int], float]] = {
    "wrk: a page": Stack.page,
    "wrk: app and store": Stack.visits,
    "redis-benchmark, by name": Stack.by_name,
    "redis-benchmark, port": Stack.through_the_port,
}


def _measure(stacks: dict[str, Stack], rounds: int, seconds: int) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    order, names = list(_CASES), list(stacks)
    for _ in range(rounds):
        random.shuffle(order)
        for case in order:
            random.shuffle(names)
            for name in names:
                found.setdefault((case, name), []).append(_CASES[case](stacks[name], seconds))
    for case in _CASES:
        text = "   ".join(
            f"{name} {statistics.median(found[case, name]):8.0f}/s" for name in stacks
        )
        if "dockerd" in stacks:
            pairs = zip(found[case, "sampan"], found[case, "dockerd"], strict=True)
            text += f"   ratio {statistics.median(mine / theirs for mine, theirs in pairs):.3f}"
        print(f"{case:<26}{text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    private_mounts()
    with workspace() as place, namespaces(3) as (mine, theirs, other), ExitStack() as stack:
        hosts = {"sampan": stack.enter_context(sampan_daemon(place, mine))[0]}
        peer = stack.enter_context(dockerd(place, theirs))
        if peer is not None:
            hosts["dockerd"] = peer
        files = place / "stack"
        files.mkdir()
        write(files)
        root = busybox_root(place)
        for name in ("passwd", "group"):  # nginx looks its user up
            (root / "etc" / name).write_text("root:x:0:0:root:/:/bin/sh\n")
        tar = root_tar(root, place)
        stacks = {}
        for number, ((name, host), machine) in enumerate(
            zip(hosts.items(), (mine, theirs), strict=False)
        ):
            load(host, tar)
            stack.callback(_remove_all, host)
            stacks[name] = Stack(host, machine, other, number, files)
        print(
            f"{platform.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
            f"{options.rounds} rounds of {options.seconds} s, interleaved",
            flush=True,
        )
        _measure(stacks, options.rounds, options.seconds)


def _remove_all(host: str) -> None:
    docker = docker_of(host)
    docker("rm", "-f", *docker("ps", "-aq").split())


if __name__ == "__main__":
    main()
