"""What a network costs: us and dockerd, each in a network namespace of its own, in one run.

    python bench/network.py [--rounds N] [--starts N] [--seconds N]

Throughput: iperf3(1) from container to container on the default network, from a container to its
machine, and from another machine through a published port. Both engines run the same image with the
same binary; a round does each case, in an order of its own, with one engine right after the other,
and the ratio is the median of the rounds': what else the machine does then is much the same. The
last figure hardly depends on that: the processor's time for a datagram between two containers.

Latency: the request to start a container, on no network, on the default one and on a user's, each
of which has a container already; and ``docker run --rm`` on the default network with one and the
same client. The machine rests before each (``start``). Medians in milliseconds.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.namespaces import Namespace, namespaces
from bench.peers import busybox_root, dockerd, private_mounts, root_tar, sampan_daemon, workspace
from bench.start import Api, load, rest, spawn
from sampan.kernel.netns import Inside

_PATIENCE = 300.0
_RATIO = 0.98
_ADDED = 10.0
_RUN = 0.2
_BATCHES, _BATCH = 200, 20
_LIMITS = [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]


def docker_of(host: str) -> Callable[..., str]:
    """The Docker client, as a function of its words; what it says."""
    environment = {**os.environ, "DOCKER_HOST": host}

    def docker(*words: str) -> str:
        done = subprocess.run(
            ["docker", *words],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_PATIENCE,
        )
        return done.stdout.strip()

    return docker


class Engine:
    """One engine, with a server and a client in containers, and a cable to another machine."""

    def __init__(self, host: str, machine: Namespace, other: Namespace, number: int) -> None:
        self.docker = docker_of(host)
        self._machine, self._other = machine, other
        self._address = f"192.0.2.{4 * number + 2}"
        other.wire(
            f"m{number}", f"192.0.2.{4 * number + 1}/30", machine, "wire", f"{self._address}/30"
        )
        binds = [word for bind in mounts() for word in ("-v", bind)]
        flags = [*binds, "--ulimit", "nofile=1024:4096", "-d"]
        self._server = self.docker("run", *flags, "-p", "5201:5201", "bench", "iperf3", "-s")
        self._client = self.docker("run", *flags, "bench", "sleep", "1000000")
        state = json.loads(self.docker("inspect", self._server))[0]
        _await_listener(state["State"]["Pid"], 5201)
        shown = state["NetworkSettings"]
        self._inside, self._gateway = shown["IPAddress"], shown["Gateway"]

    @contextmanager
    def machines_server(self) -> Iterator[None]:
        """An iperf3 on the machine itself."""
        command = [*self._machine.enter, "iperf3", "-s", "-p", "5202"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                _await_listener(server.pid, 5202)
                yield
            finally:
                server.kill()

    def between(self, seconds: int) -> float:
        return self._from_client(self._inside, 5201, seconds)

    def to_machine(self, seconds: int) -> float:
        return self._from_client(self._gateway, 5202, seconds)

    def published(self, seconds: int) -> float:
        return _gigabits(self._other.run(*_iperf(self._address, 5201, seconds)))

    def datagrams(self) -> Callable[[], float]:
        """What measures the nanoseconds of processor time that one takes from the client to the
        server: all of its way is in the system call that sends it."""
        send, receive = self._socket(self._client), self._socket(self._server)
        receive.bind((self._inside, 0))
        receive.settimeout(60)
        send.connect(receive.getsockname())
        # What was answered once is established (conntrack), as most of what goes on is.
        send.send(b"?")
        receive.sendto(b"!", receive.recvfrom(1)[1])
        send.recv(1)

        def measure() -> float:
            begin = time.thread_time_ns()
            for _ in range(_BATCHES):
                for _ in range(_BATCH):
                    send.send(bytes(1000))
                for _ in range(_BATCH):
                    receive.recv(1000)
            return (time.thread_time_ns() - begin) / (_BATCHES * _BATCH)

        return measure

    def _socket(self, container: str) -> socket.socket:
        pid = json.loads(self.docker("inspect", container))[0]["State"]["Pid"]
        with open(f"/proc/{pid}/ns/net", encoding="ascii") as namespace, Inside(namespace.fileno()):
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _from_client(self, host: str, port: int, seconds: int) -> float:
        return _gigabits(self.docker("exec", self._client, *_iperf(host, port, seconds)))


def _await_listener(pid: int, port: int) -> None:
    """Until somebody in the process's network listens there (proc_net(5), state 0A)."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        for table in ("tcp", "tcp6"):
            rows = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            for row in rows:
                _, local, _, state, *_ = row.split()
                if state == "0A" and local.endswith(f":{port:04X}"):
                    return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens at port {port} after {_PATIENCE:.0f} s")


def mounts() -> list[str]:
    """This machine's programs and libraries, into an image that has none: binds."""
    places = {place: os.path.realpath(place) for place in ("/usr", "/lib", "/lib64")}
    return [f"{real}:{place}:ro" for place, real in places.items() if os.path.isdir(real)]


def _iperf(host: str, port: int, seconds: int) -> tuple[str, ...]:
    return ("iperf3", "-J", "-c", host, "-p", str(port), "-t", str(seconds))


def _gigabits(text: str) -> float:
    report = json.loads(text)
    if "sum_received" not in report["end"]:
        # It measured nothing: the machine stood still for as long, or worse.
        raise SystemExit(f"iperf3: {report.get('error', 'a report without a sum')}")
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def _throughput(engines: dict[str, Engine], rounds: int, seconds: int) -> bool:
    cases: dict[str, Callable[[Engine, int], float]] = {
        "container to container": Engine.between,
        "container to machine": Engine.to_machine,
        "through a published port": Engine.published,
    }
    found: dict[tuple[str, str], list[float]] = {}
    order = list(cases)
    names = list(engines)
    for case in order:
        for name in names:
            cases[case](engines[name], 1)  # warm-up
    for _ in range(rounds):
        random.shuffle(order)
        for case in order:
            random.shuffle(names)
            for name in names:
                found.setdefault((case, name), []).append(cases[case](engines[name], seconds))
    met = True
    for case in cases:
        text = "   ".join(
            f"{name} {statistics.median(found[case, name]):6.2f} Gbit/s" for name in engines
        )
        if "dockerd" in engines:
            pairs = zip(found[case, "sampan"], found[case, "dockerd"], strict=True)
            ratio = statistics.median(mine / theirs for mine, theirs in pairs)
            text += _judged(ratio, _RATIO, least=True)
            met = met and ratio >= _RATIO
        print(f"{case:<26}{text}", flush=True)
    return met


def _datagrams(engines: dict[str, Engine], rounds: int) -> None:
    measures = {name: engine.datagrams() for name, engine in engines.items()}
    found: dict[str, list[float]] = {name: [] for name in measures}
    names = list(measures)
    for _ in range(rounds * 2):
        random.shuffle(names)
        for name in names:
            found[name].append(measures[name]())
    text = "   ".join(f"{name} {statistics.median(found[name]):6.0f} ns" for name in engines)
    if "dockerd" in engines:
        pairs = zip(found["sampan"], found["dockerd"], strict=True)
        text += f"       ratio {statistics.median(mine / theirs for mine, theirs in pairs):.3f}"
    print(f"{'a datagram, of CPU':<26}{text}", flush=True)


def _judged(value: float, target: float, *, least: bool = False) -> str:
    word = "met" if (value >= target if least else value <= target) else "NOT met"
    return f"   ratio {value:.3f}, target {target}: {word}"


class Starts:
    """The time of the request that starts a container, on a network."""

    def __init__(self, api: Api, network: str) -> None:
        self._api = api
        self._host = {"NetworkMode": network, "Ulimits": _LIMITS}

    def __call__(self) -> float:
        api = self._api
        body = {"Image": "bench", "Cmd": ["/bin/true"], "HostConfig": self._host}
        name = json.loads(api.call("POST", "/containers/create", body))["Id"]
        rest()
        begin = time.perf_counter()
        api.call("POST", f"/containers/{name}/start")
        took = time.perf_counter() - begin
        api.call("POST", f"/containers/{name}/wait")
        api.call("DELETE", f"/containers/{name}")
        return took * 1000


def _docker_run(host: str) -> Callable[[], float]:
    command = "docker run --rm --ulimit nofile=1024:4096 bench /bin/true"
    run = spawn(*command.split(), environment={"DOCKER_HOST": host})

    def measure() -> float:
        rest()
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) * 1000

    return measure


def _latency(hosts: dict[str, str], engines: dict[str, Engine], starts: int) -> bool:
    cases: dict[str, Callable[[], float]] = {}
    for name, host in hosts.items():
        engines[name].docker("network", "create", "own")
        flags = ("--network", "own", "--ulimit", "nofile=1024:4096")
        engines[name].docker("run", "-d", *flags, "bench", "sleep", "1000000")
        for network in ("none", "bridge", "own"):
            cases[f"{name}: start, {network}"] = Starts(Api(host, "v1.40"), network)
        cases[f"{name}: docker run --rm"] = _docker_run(host)
    times: dict[str, list[float]] = {case: [] for case in cases}
    for measure in cases.values():
        measure()
    order = list(cases)
    for _ in range(starts):
        random.shuffle(order)
        for case in order:
            times[case].append(cases[case]())
    medians = {case: statistics.median(found) for case, found in times.items()}
    for case, value in medians.items():
        p90 = statistics.quantiles(times[case], n=10)[-1]
        print(f"{case:<26}median {value:7.2f} ms   p90 {p90:7.2f}   min {min(times[case]):7.2f}")
    met = True
    for network in ("bridge", "own"):
        added = medians[f"sampan: start, {network}"] - medians["sampan: start, none"]
        met = met and added <= _ADDED
        word = "met" if added <= _ADDED else "NOT met"
        print(f"added by {network}: {added:.2f} ms, target {_ADDED:.0f}: {word}")
    if "dockerd" in hosts:
        ratio = medians["sampan: docker run --rm"] / medians["dockerd: docker run --rm"]
        met = met and ratio <= _RUN
        print(f"docker run --rm on the default network:{_judged(ratio, _RUN)}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15, help="of throughput")
    parser.add_argument("--starts", type=int, default=25, help="of latency")
    parser.add_argument("--seconds", type=int, default=2, help="of each iperf3")
    options = parser.parse_args()
    private_mounts()
    with workspace() as place, namespaces(3) as (mine, theirs, other), ExitStack() as stack:
        hosts = {"sampan": stack.enter_context(sampan_daemon(place, mine))[0]}
        peer = stack.enter_context(dockerd(place, theirs))
        if peer is not None:
            hosts["dockerd"] = peer
        tar = root_tar(busybox_root(place), place)
        engines = {}
        for number, ((name, host), machine) in enumerate(
            zip(hosts.items(), (mine, theirs), strict=False)
        ):
            load(host, tar)
            engine = engines[name] = Engine(host, machine, other, number)
            stack.callback(_remove_all, engine)
            stack.enter_context(engine.machines_server())
        print(
            f"{platform.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
            f"{options.rounds} rounds of {options.seconds} s, {options.starts} starts, interleaved",
            flush=True,
        )
        met = _throughput(engines, options.rounds, options.seconds) if options.rounds else True
        if options.rounds:
            _datagrams(engines, options.rounds)
        if options.starts:
            met = _latency(hosts, engines, options.starts) and met
    return 0 if met else 1


def _remove_all(engine: Engine) -> None:
    engine.docker("rm", "-f", *engine.docker("ps", "-aq").split())


if __name__ == "__main__":
    sys.exit(main())
