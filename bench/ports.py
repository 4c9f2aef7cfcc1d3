"""Many containers on one network, each with a published port: does the last cost as the first did?

    python bench/ports.py [--count N] [--rate N] [--seconds N]

Containers of busybox are created and started one after the other on a user's network, each with a
port of the machine's. The time of the last ten is held against that of the first ten, which
is to be 1.5 times as much at most. Another machine (network namespace) asks at every port and must
be answered. Then all the names are asked for in the last container, at an even rate, of which none
may be lost (``dns`` does the same with the resolver alone). Exits with 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.network.resolver.place import question

from bench.dns import even
from bench.namespaces import Namespace, namespaces
from bench.peers import busybox_root, private_mounts, root_tar, sampan_daemon, workspace
from bench.start import Api, load
from sampan.kernel.netns import Inside

_RATIO = 1.5
_SHOWN = 10
_FIRST_PORT = 10_000
_MACHINE, _OTHER = "192.0.2.2", "192.0.2.1"
_LIMITS = [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]


def _add(api: Api, number: int) -> tuple[str, float, float]:
    """A further container: its ID, and milliseconds of its creation and of its start."""
    body = {
        "Image": "bench",
        "Cmd": ["nc", "-ll", "-p", "7", "-e", "echo", str(number)],
        "HostConfig": {
            "NetworkMode": "many",
            "PortBindings": {"7/tcp": [{"HostPort": str(_FIRST_PORT + number)}]},
            "Ulimits": _LIMITS,
        },
    }
    begin = time.perf_counter()
    made = api.call("POST", f"/containers/create?name=c{number}", body)
    identity = str(json.loads(made)["Id"])
    middle = time.perf_counter()
    api.call("POST", f"/containers/{identity}/start")
    end = time.perf_counter()
    return identity, (middle - begin) * 1000, (end - middle) * 1000


def _all(api: Api, count: int) -> tuple[list[str], bool]:
    """Every container's ID, and whether the last cost what the first did."""
    api.call("POST", "/networks/create", {"Name": "many"})
    _remove(api, [_add(api, count + 1)[0]])  # what is made once: bridge, rules, resolver
    made = [_add(api, number) for number in range(count)]
    met = True
    for what, times in (("create", [one[1] for one in made]), ("start", [one[2] for one in made])):
        first, last = statistics.median(times[:_SHOWN]), statistics.median(times[-_SHOWN:])
        print(f"{what:<7} {_SHOWN} first {first:6.2f} ms, {_SHOWN} last {last:6.2f} ms")
    sums = [one[1] + one[2] for one in made]
    ratio = statistics.median(sums[-_SHOWN:]) / statistics.median(sums[:_SHOWN])
    met = ratio <= _RATIO
    word = "met" if met else "NOT met"
    print(f"added   ratio {ratio:.2f}, target {_RATIO}: {word}", flush=True)
    return [one[0] for one in made], met


def _reached(other: Namespace, count: int) -> bool:
    """Whether every port leads to the container that published it."""

    def ask(number: int) -> bool:
        with other.inside(), socket.socket() as peer:
            peer.settimeout(60)
            peer.connect((_MACHINE, _FIRST_PORT + number))
            return peer.recv(99) == f"{number}\n".encode()

    with ThreadPoolExecutor(8) as pool:
        right = sum(pool.map(ask, range(count)))
    print(f"ports   {right} of {count} reached from another machine", flush=True)
    return right == count


def _names(pid: int, count: int, rate: int, seconds: int) -> bool:
    packets = [question(f"c{number}") for number in range(count)]
    with open(f"/proc/{pid}/ns/net", encoding="ascii") as namespace, Inside(namespace.fileno()):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect(("127.0.0.11", 53))
        lost, times = even(sock, packets, rate, rate * seconds)
    found = sorted(times)
    print(
        f"names   {rate} queries/s for {seconds} s: lost {lost}, "
        f"p50 {statistics.median(found) * 1e3:.2f} ms, "
        f"p99 {found[len(found) * 99 // 100] * 1e3:.2f} ms"
    )
    return not lost


def _remove(api: Api, containers: list[str]) -> None:
    for identity in containers:
        api.call("DELETE", f"/containers/{identity}?force=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    private_mounts()
    with (
        workspace() as place,
        namespaces(2) as (mine, other),
        sampan_daemon(place, mine) as (host, _),
    ):
        mine.wire("wire", f"{_MACHINE}/24", other, "wire", f"{_OTHER}/24")
        load(host, root_tar(busybox_root(place), place))
        api = Api(host, "v1.41")
        print(
            f"{platform.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
            f"{options.count} containers on one network, a port each"
        )
        try:
            made, met = _all(api, options.count)
            met = _reached(other, options.count) and met
            pid = json.loads(api.call("GET", f"/containers/{made[-1]}/json"))["State"]["Pid"]
            met = _names(pid, options.count, options.rate, options.seconds) and met
        finally:
            listed = json.loads(api.call("GET", "/containers/json?all=1"))
            _remove(api, [one["Id"] for one in listed])
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
