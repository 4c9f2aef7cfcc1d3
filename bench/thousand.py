"""A thousand containers on one machine: ``python -m bench.thousand [--count 1000]`` (root).

They are started through the API over 8 connections, from the host image and without a network;
listed, by the Docker client too; executed in one by one; asked for their statistics; stopped and
removed over 8 connections. In between the daemon is killed and started again with all of them
running. Each phase has its time, the time of one operation, and what that was for the first
hundred and for the last, with the daemon's own share in processor time: where the two differ,
something is done once for each container there is.

``--peer COUNT`` does the same with dockerd, if it is installed, with that many: its image is
busybox. Nothing may be left afterwards of ours (``tests/daemon/leftovers``); exits with 1 if it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.daemon.leftovers import Before
from tests.daemon_fixture import Daemon

from bench.exec import run_directly
from bench.memory import rollup
from bench.peers import busybox_root, dockerd, root_tar, workspace
from bench.start import Api, load

__all__ = ["main"]

_AT_A_TIME = 8
_SHOWN = 100
_COMMAND = ["sh", "-c", "trap 'exit 0' TERM; echo up; sleep 100000 & wait"]


class Run:
    """The phases, with one engine."""

    def __init__(
        self, host: str, image: str, count: int, daemon: Callable[[], int] | None = None
    ) -> None:
        """``daemon`` tells the daemon's PID."""
        self._host = host
        self._daemon = daemon
        self._image = image
        self._count = count
        self.names: list[str] = []
        self._api = Api(host, "v1.41")

    def life(self, meanwhile: Callable[[list[str]], None]) -> None:
        """Everything, from the first start to the last removal."""
        self._phase("create and start", self._start, list(range(self._count)), _AT_A_TIME)
        self._once("docker ps", self._docker_ps)
        self._once("list", lambda: self._expect(self._get("/containers/json")))
        self._phase("inspect", self._inspect, self.names)
        meanwhile(self.names)
        self._api = Api(self._host, "v1.41")
        self._phase("exec", self._exec, self.names)
        self._phase("stats, one shot", self._stats, self.names)
        self._phase("logs", self._logs, self.names)
        self._phase("stop", self._stop, self.names, _AT_A_TIME)
        self._phase("remove", self._remove, self.names, _AT_A_TIME)

    def _phase(
        self, name: str, work: Callable[[Api, Any], None], items: list[Any], threads: int = 1
    ) -> None:
        times: list[float] = []
        lock = threading.Lock()
        apis = [self._api, *(Api(self._host, "v1.41") for _ in range(threads - 1))]

        shown = min(_SHOWN, len(items) // 2)
        marks = {shown: 0.0, len(items) - shown: 0.0}

        def one(item: Any) -> None:
            api = apis.pop()
            begin = time.perf_counter()
            work(api, item)
            took = time.perf_counter() - begin
            with lock:
                times.append(took)
                if len(times) in marks:
                    marks[len(times)] = self._cpu()
            apis.append(api)

        begin, before = time.perf_counter(), self._cpu()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, items))
        total = time.perf_counter() - begin
        first = statistics.median(times[:shown]) * 1000
        last = statistics.median(times[-shown:]) * 1000
        slow = sorted(times)[int(len(times) * 0.99)] * 1000
        text = (
            f"  {name:<18} {total:7.2f} s {total / len(items) * 1000:7.2f} ms each; one: "
            f"first {shown} {first:6.2f}, last {shown} {last:6.2f}, p99 {slow:7.2f} ms"
        )
        if self._daemon is not None:
            early = (marks[shown] - before) / shown * 1000
            late = (self._cpu() - marks[len(items) - shown]) / shown * 1000
            text += f"; the daemon's CPU: {early:.2f}, {late:.2f} ms"
        print(text, flush=True)

    def _cpu(self) -> float:
        """Seconds that the daemon has had of a processor."""
        if self._daemon is None:
            return 0.0
        fields = Path(f"/proc/{self._daemon()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _once(self, name: str, work: Callable[[], None]) -> None:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        print(f"  {name:<18} {statistics.median(times) * 1000:8.2f} ms", flush=True)

    def _start(self, api: Api, _: int) -> None:
        limits = [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]
        body = {
            "Image": self._image,
            "Cmd": _COMMAND,
            "HostConfig": {"NetworkMode": "none", "Ulimits": limits},
        }
        name = json.loads(api.call("POST", "/containers/create", body))["Id"]
        api.call("POST", f"/containers/{name}/start")
        self.names.append(name)

    def _docker_ps(self) -> None:
        environment = {**os.environ, "DOCKER_HOST": self._host}
        done = subprocess.run(["docker", "ps", "-q"], env=environment, check=True, stdout=-1)
        self._expect(done.stdout.split())

    def _get(self, path: str) -> Any:
        return json.loads(self._api.call("GET", path))

    def _expect(self, found: list[Any]) -> None:
        if len(found) != self._count:
            raise SystemExit(f"{len(found)} containers run instead of {self._count}")

    def _inspect(self, api: Api, name: str) -> None:
        state = json.loads(api.call("GET", f"/containers/{name}/json"))["State"]
        if not state["Running"]:
            raise SystemExit(f"{name}: {state}")

    def _exec(self, api: Api, name: str) -> None:
        run_directly(api, self._host, name, ["true"])

    def _stats(self, api: Api, name: str) -> None:
        shown = json.loads(api.call("GET", f"/containers/{name}/stats?stream=0&one-shot=1"))
        if not shown["pids_stats"]["current"]:
            raise SystemExit(f"{name}: no process: {shown['pids_stats']}")

    def _logs(self, api: Api, name: str) -> None:
        if b"up\n" not in api.call("GET", f"/containers/{name}/logs?stdout=1"):
            raise SystemExit(f"{name}: its log is empty")

    def _stop(self, api: Api, name: str) -> None:
        api.call("POST", f"/containers/{name}/stop?t=60")

    def _remove(self, api: Api, name: str) -> None:
        api.call("DELETE", f"/containers/{name}")


def memory(processes: dict[int, str]) -> None:
    """PSS of the processes of ours, by kind."""
    kinds: dict[str, list[int]] = {}
    for pid, name in processes.items():
        if name.startswith("sampan"):
            try:
                kinds.setdefault(name, []).append(rollup(pid)["Pss"])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it rests by now
    total = sum(map(sum, kinds.values())) / 1024
    each = ", ".join(
        f"{len(sizes)} {name} {sum(sizes) / 1024:.1f}" for name, sizes in sorted(kinds.items())
    )
    print(f"  memory (PSS)       {total:8.1f} MB: {each}", flush=True)


def ours(count: int) -> int:
    root = Path(tempfile.mkdtemp(prefix="sampan-thousand-", dir="/var/tmp"))
    daemon = Daemon(root, debug=False)
    daemon.exec_root = Path(tempfile.mkdtemp(prefix="sampan-thousand-", dir="/run"))

    def meanwhile(names: list[str]) -> None:
        time.sleep(2)  # it gives back what the load took
        memory(before.processes())
        print(f"  descriptors        {len(os.listdir(f'/proc/{daemon.pid}/fd')):8} of the daemon's")
        daemon.kill()
        begin = time.perf_counter()
        daemon.start()
        seconds = time.perf_counter() - begin
        running = daemon.request("GET", "/containers/json", judge=False).json()
        if len(running) != len(names):
            raise SystemExit(f"{len(running)} of {len(names)} containers were taken up")
        print(f"  daemon killed and started again: ready in {seconds:.2f} s", flush=True)

    print(f"sampan, {count} containers of the host image")
    try:
        daemon.start()
        before = Before(daemon)
        run = Run(daemon.host, "host", count, lambda: daemon.pid)
        run.life(meanwhile)
        left = before.wait(run.names, 30)
    finally:
        daemon.close()
        shutil.rmtree(daemon.exec_root, ignore_errors=True)
    for what, which in left.items():
        print(f"  LEFT: {what}: {sorted(which)[:5]} ({len(which)})")
    if not left:
        print("  nothing is left")
    return int(bool(left))


def theirs(count: int) -> None:
    with workspace() as place, dockerd(place) as host:
        if host is None:
            print("dockerd is not installed")
            return
        load(host, root_tar(busybox_root(place), place))
        print(f"dockerd, {count} containers of busybox")
        Run(host, "bench", count).life(lambda names: None)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.thousand")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--peer", type=int, default=0, metavar="COUNT", help="dockerd's share")
    given = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    load_average = os.getloadavg()[0]
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, load {load_average:.1f}", flush=True)
    status = ours(given.count)
    if given.peer:
        theirs(given.peer)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
