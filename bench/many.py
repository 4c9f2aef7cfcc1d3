"""Many containers at once, us and dockerd: ``python -m bench.many [--count 100] [--rounds 3]``.

As root. In each round either engine, in turn: COUNT containers are started with ``docker run -d``,
8 clients at a time; listed with ``docker ps``; removed with one ``docker rm -f`` for all; then
started through the HTTP API over 8 connections, and removed. The Docker client is the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.peers import (
    busybox_root,
    dockerd,
    private_mounts,
    root_tar,
    sampan_daemon,
    workspace,
)
from bench.start import Api, load

__all__ = ["main"]

_AT_A_TIME = 8
_LIMITS = {
    "run -d, 8 at a time": 0.25,
    "ps": 1.0,
    "rm -f": 0.25,
    "API, 8 connections": 0.125,
}
_FLAGS = ("--network", "none", "--ulimit", "nofile=1024:4096")
_SLEEP = ("sleep", "100000")


def _docker(host: str, *words: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": host}
    command = ["docker", *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def _run_all(host: str, count: int) -> None:
    def one(_: int) -> None:
        _docker(host, "run", "-d", *_FLAGS, "bench", *_SLEEP)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(one, range(count)))


def _create_all(host: str, count: int) -> None:
    body = {
        "Image": "bench",
        "Cmd": list(_SLEEP),
        "HostConfig": {
            "NetworkMode": "none",
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 4096}],
        },
    }

    def some(share: int) -> None:
        api = Api(host, "v1.40")
        for _ in range(share):
            name = json.loads(api.call("POST", "/containers/create", body))["Id"]
            api.call("POST", f"/containers/{name}/start")

    shares = [count // _AT_A_TIME + (index < count % _AT_A_TIME) for index in range(_AT_A_TIME)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(some, shares))


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _round(host: str, count: int) -> dict[str, float]:
    def remove_all() -> None:
        _docker(host, "rm", "-f", *_docker(host, "ps", "-aq").split())

    times = {"run -d, 8 at a time": _timed(lambda: _run_all(host, count))}
    times["ps"] = min(_timed(lambda: _docker(host, "ps")) for _ in range(5))
    shown = len(_docker(host, "ps", "-q").split())
    if shown != count:
        raise SystemExit(f"{host}: {shown} containers run instead of {count}")
    times["rm -f"] = _timed(remove_all)
    times["API, 8 connections"] = _timed(lambda: _create_all(host, count))
    remove_all()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Many containers at once, us and dockerd.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    private_mounts()
    found: dict[str, list[dict[str, float]]] = {}
    with workspace() as place, dockerd(place) as docker, sampan_daemon(place) as (ours, _):
        tar = root_tar(busybox_root(place), place)
        hosts = {"sampan": ours} | ({"dockerd": docker} if docker is not None else {})
        for host in hosts.values():
            load(host, tar)
        for _ in range(options.rounds):
            for name, host in hosts.items():
                found.setdefault(name, []).append(_round(host, options.count))
    print(f"{options.count} containers, {options.rounds} rounds, interleaved; medians in seconds")
    for what, most in _LIMITS.items():
        medians = {
            name: statistics.median(one[what] for one in rounds) for name, rounds in found.items()
        }
        text = "  ".join(f"{name} {value:7.3f}" for name, value in medians.items())
        if "dockerd" in medians:
            quotient = medians["sampan"] / medians["dockerd"]
            word = "met" if quotient <= most else "NOT met"
            text += f"  ratio {quotient:.3f}, target {most}: {word}"
        print(f"{what:<20} {text}")


if __name__ == "__main__":
    main()
