"""How long a container's life takes: us, and every other engine installed, in one run.

    python bench/start.py [--runs N] [--chart FILE.svg] [--json FILE]

Each round runs every engine once, in an order of its own, so that a machine whose speed drifts does
not favour one; and each begins when the machine has come to rest, so that what one engine does
after it answered (podman's clean-up, a dockerd's shim) is not in the time of the next. Lives one
after the other without a rest are the last two figures. What is measured is `/bin/true` in a
busybox root file system with no network:

* bare runtimes: ``run`` of one bundle (the process's start to its end);
* engines through their HTTP API: create, start, wait, remove, on one kept connection;
* engines through one and the same Docker client: ``docker run --rm --network none``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import (
    SAMPAN,
    bundle,
    busybox_root,
    dockerd,
    private_mounts,
    root_tar,
    sampan_daemon,
    workspace,
)

Measure = Callable[[], None]
RUNTIME = SAMPAN.with_name("sampan-runtime")
_LOOK = 0.06
_PATIENCE = 300.0
"""Seconds for any one answer: a benchmark fails, and never hangs."""


class Api:
    """The Engine API on one kept connection to a Unix socket."""

    def __init__(self, host: str, version: str) -> None:
        self.version = version
        self.connection = http.client.HTTPConnection("localhost")
        self.connection.sock = socket.socket(socket.AF_UNIX)
        self.connection.sock.settimeout(_PATIENCE)
        self.connection.sock.connect(host.removeprefix("unix://"))

    def call(self, method: str, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        self.connection.request(method, f"/{self.version}{path}", data, headers)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {answer.decode()}")
        return answer

    def life(self) -> None:
        """One container from create to remove."""
        body = {
            "Image": "bench",
            "Cmd": ["/bin/true"],
            "HostConfig": {"NetworkMode": "none", "Ulimits": _ulimits()},
        }
        identity = json.loads(self.call("POST", "/containers/create", body))["Id"]
        self.call("POST", f"/containers/{identity}/start")
        self.call("POST", f"/containers/{identity}/wait")
        self.call("DELETE", f"/containers/{identity}")


def _ulimits() -> list[dict[str, object]]:
    # Without CAP_SYS_RESOURCE the default of some engines cannot be set: name one that can.
    return [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]


def spawn(*argv: str, environment: dict[str, str] | None = None) -> Measure:
    env = {**os.environ, **(environment or {})}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def measure() -> None:
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            raise SystemExit(f"{' '.join(argv)}: exit status {status}")

    return measure


def _docker_run(host: str) -> Measure:
    return spawn(
        *"docker run --rm --network none --ulimit nofile=1024:4096 bench /bin/true".split(),
        environment={"DOCKER_HOST": host},
    )


def load(host: str, tar: Path) -> None:
    environment = {**os.environ, "DOCKER_HOST": host}
    subprocess.run(
        ["docker", "import", str(tar), "bench"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=_PATIENCE,
    )


def _throughput(host: str, lives: int, workers: int) -> float:
    """Containers per second, ``workers`` at a time, through our API."""

    def work(count: int) -> None:
        api = Api(host, "v1.40")
        for _ in range(count):
            api.life()

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [lives // workers] * workers))
    return lives / (time.perf_counter() - begin)


def _bare(place: Path, root: Path) -> dict[str, Measure]:
    directory = str(bundle(root, place, ["/bin/true"]))
    found: dict[str, Measure] = {}
    for name, program in (("crun", "crun"), ("runc", "runc"), ("sampan-runtime", str(RUNTIME))):
        if shutil.which(program):
            state = str(place / f"{name}-state")
            found[f"{name} run"] = spawn(
                program, "--root", state, "run", "-b", directory, f"bench-{name}"
            )
    if shutil.which("podman"):
        found["podman run"] = spawn(
            *("podman", f"--root={place}/podman", f"--runroot={place}/podman-run"),
            *("--storage-driver=vfs", "--cgroup-manager=cgroupfs", "run", "--rm"),
            *("--network=none", "--ulimit=nofile=1024:4096"),
            *("--ulimit=nproc=1000:1000", "--rootfs", str(root), "/bin/true"),
        )
    return found


def rest() -> None:
    """Wait until the processors had nothing to do for a while; at most some seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        before = _busy()
        time.sleep(_LOOK)
        if _busy() - before <= 1:
            return


def _busy() -> int:
    """Ticks of 10 ms that all processors together were not idle (proc(5), /proc/stat)."""
    with open("/proc/stat", encoding="ascii") as file:
        numbers = [int(field) for field in file.readline().split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4]


def _rounds(cases: dict[str, Measure], runs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for measure in cases.values():
        measure()  # warm-up
    order = list(cases.items())
    for _ in range(runs):
        random.shuffle(order)
        for name, measure in order:
            rest()
            begin = time.perf_counter()
            measure()
            times[name].append((time.perf_counter() - begin) * 1000)
    return times


def _chart(medians: dict[str, float], path: Path) -> None:
    """A bar each, logarithmic: a decade is 180 units wide."""
    import math

    rows = sorted(medians.items(), key=lambda item: item[1])
    low = min(medians.values()) / 1.5
    parts = []
    for i, (name, value) in enumerate(rows):
        top = 40 + i * 26
        width = 180 * math.log10(value / low)
        colour = "#0b7285" if "sampan" in name else "#adb5bd"
        parts.append(
            f'<text x="235" y="{top + 15}" text-anchor="end">{name}</text>'
            f'<rect x="245" y="{top}" width="{width:.0f}" height="20" fill="{colour}"/>'
            f'<text x="{251 + width:.0f}" y="{top + 15}">{value:.1f} ms</text>'
        )
    height = 56 + 26 * len(rows)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        '<text x="14" y="24" font-weight="bold">/bin/true in a new container, no network: '
        f"median, logarithmic scale</text>{''.join(parts)}</svg>\n"
    )


_TARGETS = (
    ("sampan API", "crun run", 1.5),
    ("sampan, docker run", "dockerd, docker run", 0.2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--chart", type=Path, help="write an SVG chart")
    parser.add_argument("--json", type=Path, help="write every figure")
    options = parser.parse_args()
    private_mounts()
    with workspace() as place, dockerd(place) as docker, sampan_daemon(place) as (ours, _):
        root = busybox_root(place)
        tar = root_tar(root, place)
        cases: dict[str, Measure] = _bare(place, root)
        load(ours, tar)
        cases["sampan API"] = Api(ours, "v1.40").life
        cases["sampan run"] = spawn(
            *(str(SAMPAN), "-H", ours, "run", "--rm", "--network", "none", "bench", "/bin/true")
        )
        cases["sampan, docker run"] = _docker_run(ours)
        if docker is not None:
            load(docker, tar)
            cases["dockerd API"] = Api(docker, "v1.40").life
            cases["dockerd, docker run"] = _docker_run(docker)
        times = _rounds(cases, options.runs)
        medians = {name: statistics.median(values) for name, values in times.items()}
        rates = {workers: _throughput(ours, 200, workers) for workers in (1, 4)}
    base = medians.get("crun run")
    print(f"{platform.uname().release}, {os.cpu_count()} CPUs, {options.runs} rounds, interleaved")
    print(f"{'':<22}{'median':>9}{'p90':>9}{'min':>9}{'x crun':>9}")
    for name, value in sorted(medians.items(), key=lambda item: item[1]):
        p90 = statistics.quantiles(times[name], n=10)[-1]
        ratio = f"{value / base:8.2f}" if base else ""
        print(f"{name:<22}{value:8.2f} {p90:8.2f} {min(times[name]):8.2f} {ratio:>8}")
    for workers, rate in rates.items():
        print(f"sampan API, {workers} at a time: {rate:.0f} containers per second")
    for ours_name, theirs, most in _TARGETS:
        if ours_name in medians and theirs in medians:
            quotient = medians[ours_name] / medians[theirs]
            word = "met" if quotient <= most else "NOT met"
            print(f"{ours_name} / {theirs}: {quotient:.2f}, target {most}: {word}")
    if options.chart:
        _chart(medians, options.chart)
    if options.json:
        options.json.write_text(json.dumps({"ms": times, "per_second": rates}, indent=1))


if __name__ == "__main__":
    main()
