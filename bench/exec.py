"""A further process in a running container: us and dockerd in one run.

    python bench/exec.py [--runs N]

Each round does every case once, in an order of its own and on a machine at rest (``start``):
``docker exec`` of /bin/true by one and the same Docker client (which alone costs 10 to 15 ms), and
the same through the API on a kept connection: create, start (hijacked, read to its end), inspect.
Medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import SAMPAN, busybox_root, dockerd, root_tar, sampan_daemon, workspace
from bench.start import Api, rest, spawn

Measure = Callable[[], None]
_TARGET = 1 / 3


def run_directly(api: Api, host: str, container: str, command: list[str]) -> None:
    """Execute in a container, as the Docker client does, and read all that is said."""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
    identity = json.loads(api.call("POST", f"/containers/{container}/exec", body))["Id"]
    start = b'{"Detach":false,"Tty":false}'
    head = (
        f"POST /v1.40/exec/{identity}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: tcp\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(start)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(host.removeprefix("unix://"))
        sock.sendall(head.encode() + start)
        while sock.recv(65536):
            pass
    shown = json.loads(api.call("GET", f"/exec/{identity}/json"))
    if shown["Running"] or shown["ExitCode"]:
        raise SystemExit(f"exec: {shown}")


class Container:
    """A container that sleeps, in one engine."""

    def __init__(self, host: str, tar: Path) -> None:
        self._host = host
        self.environment = {**os.environ, "DOCKER_HOST": host}
        self.api = Api(host, "v1.40")
        self._run("docker", "import", str(tar), "bench")
        body = {
            "Image": "bench",
            "Cmd": ["sleep", "100000"],
            "HostConfig": {
                "NetworkMode": "none",
                "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 4096}],
            },
        }
        self.id = str(json.loads(self.api.call("POST", "/containers/create", body))["Id"])
        self.api.call("POST", f"/containers/{self.id}/start")
        command = ("exec", self.id, "/bin/true")
        self.docker = spawn("docker", *command, environment={"DOCKER_HOST": host})
        self.own = spawn(str(SAMPAN), *command, environment={"DOCKER_HOST": host})

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def direct(self) -> None:
        """The same requests without a client program."""
        run_directly(self.api, self._host, self.id, ["/bin/true"])

    def remove(self) -> None:
        self.api.call("DELETE", f"/containers/{self.id}?force=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    with workspace() as place, dockerd(place) as docker, sampan_daemon(place) as (ours, _):
        tar = root_tar(busybox_root(place), place)
        mine = Container(ours, tar)
        cases: dict[str, Measure] = {
            "sampan, docker exec": mine.docker,
            "sampan, sampan exec": mine.own,
            "sampan API": mine.direct,
        }
        containers = [mine]
        if docker is not None:
            theirs = Container(docker, tar)
            containers.append(theirs)
            cases |= {"dockerd, docker exec": theirs.docker, "dockerd API": theirs.direct}
        times: dict[str, list[float]] = {name: [] for name in cases}
        for measure in cases.values():
            measure()
        order = list(cases.items())
        for _ in range(options.runs):
            random.shuffle(order)
            for name, measure in order:
                rest()
                begin = time.perf_counter()
                measure()
                times[name].append((time.perf_counter() - begin) * 1000)
        for container in containers:
            container.remove()
    print(f"{platform.uname().release}, {os.cpu_count()} CPUs, {options.runs} rounds, interleaved")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        p90 = statistics.quantiles(times[name], n=10)[-1]
        print(f"{name:<22} median {value:7.2f} ms   p90 {p90:7.2f}   min {min(times[name]):7.2f}")
    for kind in ("docker exec", "API"):
        ours_name, their_name = (f"sampan, {kind}", f"dockerd, {kind}")
        if kind == "API":
            ours_name, their_name = "sampan API", "dockerd API"
        if their_name in medians:
            ratio = medians[ours_name] / medians[their_name]
            verdict = "met" if ratio <= _TARGET else "NOT met"
            print(f"{kind}: ratio {ratio:.2f}, target {_TARGET:.2f}: {verdict}")


if __name__ == "__main__":
    main()
