"""A million lines of 80 bytes through the json-file log, and back: us and dockerd in one run.

    python bench/logs.py [--runs N] [--lines N]

Each round does every engine once, in turn: a container prints the lines and ends (``start`` to the
end of ``wait``, through the API), then one and the same Docker client reads them back (``docker
logs``, to /dev/null). Printed are medians, and our share of dockerd's time. Lines come in two ways:
in bulk, as from a program whose output is buffered, and one write(2) a line.

What is read back is compared with what was printed, once an engine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import busybox_root, dockerd, root_tar, sampan_daemon, workspace
from bench.start import Api

_WIDTH = 80
_PRODUCERS = {
    "bulk": ["cat", "/lines"],
    "line by line": ["awk", "{ print; fflush() }", "/lines"],
}
_TARGET = 0.5


def _write_lines(path: Path, count: int) -> str:
    """Make the file of lines; its digest."""
    rest = "x" * (_WIDTH - 9)
    text = "".join(f"{number:07d} {rest}\n" for number in range(count)).encode()
    path.write_bytes(text)
    return hashlib.sha256(text).hexdigest()


class Engine:
    """One engine, by its host."""

    def __init__(self, host: str, tar: Path) -> None:
        self.environment = {**os.environ, "DOCKER_HOST": host}
        self.api = Api(host, "v1.40")
        self._client("import", str(tar), "bench")

    def _client(self, *arguments: str, out: int = subprocess.DEVNULL) -> bytes:
        done = subprocess.run(["docker", *arguments], env=self.environment, check=True, stdout=out)
        return done.stdout or b""

    def create(self, command: list[str]) -> str:
        body = {
            "Image": "bench",
            "Cmd": command,
            "HostConfig": {
                "NetworkMode": "none",
                "LogConfig": {"Type": "json-file"},
                "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 4096}],
            },
        }
        return str(json.loads(self.api.call("POST", "/containers/create", body))["Id"])

    def round(self, command: list[str]) -> tuple[float, float]:
        """Seconds to write, and to read back."""
        container = self.create(command)
        begin = time.perf_counter()
        self.api.call("POST", f"/containers/{container}/start")
        self.api.call("POST", f"/containers/{container}/wait")
        middle = time.perf_counter()
        self._client("logs", container)
        end = time.perf_counter()
        self.api.call("DELETE", f"/containers/{container}")
        return middle - begin, end - middle

    def check(self, command: list[str], digest: str) -> None:
        """What is read back is what was printed."""
        container = self.create(command)
        self.api.call("POST", f"/containers/{container}/start")
        self.api.call("POST", f"/containers/{container}/wait")
        text = self._client("logs", container, out=subprocess.PIPE)
        self.api.call("DELETE", f"/containers/{container}")
        if hashlib.sha256(text).hexdigest() != digest:
            raise SystemExit(f"{self.environment['DOCKER_HOST']}: lines were lost or changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args()
    with workspace() as place, dockerd(place) as docker, sampan_daemon(place) as (ours, _):
        root = busybox_root(place)
        digest = _write_lines(root / "lines", options.lines)
        tar = root_tar(root, place)
        engines = {"sampan": Engine(ours, tar)}
        if docker is not None:
            engines["dockerd"] = Engine(docker, tar)
        for engine in engines.values():
            engine.check(_PRODUCERS["bulk"], digest)
        times: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(options.runs):
            for kind, command in _PRODUCERS.items():
                for name, engine in engines.items():
                    written, read = engine.round(command)
                    times.setdefault((kind, "written", name), []).append(written)
                    times.setdefault((kind, "read back", name), []).append(read)
    print(f"{options.lines} lines of {_WIDTH} bytes, {options.runs} rounds, medians in seconds")
    for kind in _PRODUCERS:
        for step in ("written", "read back"):
            medians = {n: statistics.median(times[kind, step, n]) for n in engines}
            row = "".join(f"  {name} {value:6.2f}" for name, value in medians.items())
            if len(medians) > 1:
                share = medians["sampan"] / medians["dockerd"]
                verdict = "met" if share <= _TARGET else "NOT met"
                row += f"  ratio {share:.2f}, target {_TARGET}: {verdict}"
            print(f"{kind:<13} {step:<10}{row}")


if __name__ == "__main__":
    main()
