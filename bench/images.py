"""Images in and out, us against dockerd: import, save, load, push, pull, turn by turn.

    python -m bench.images [LAYER.tar.gz] [--rounds N] [--alone]

Both engines are driven by the same docker client, on the same disk, against one docker-registry on
loopback whose store is emptied before each push. A round is the life of an image: imported from the
gzipped root file system (made by debootstrap, once, and kept; see bench/unpack.py), saved to a
file, removed, loaded from that file, pushed, removed, pulled. The project's target is a ratio of
0.6 for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers import dockerd, sampan_daemon, workspace
from bench.unpack import debian, facts

OPERATIONS = ("import", "save", "load", "push", "pull")
DOCKER = shutil.which("docker", path="/usr/local/bin:/usr/bin") or "docker"


class Registry:
    """Debian's docker-registry on a loopback port."""

    def __init__(self, place: Path) -> None:
        self._data = place / "registry"
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{sock.getsockname()[1]}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._data)}},
            "http": {"addr": self.address, "secret": "bench"},
        }
        path = place / "registry.yml"
        path.write_text(json.dumps(config))
        with (place / "registry.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(path)], stdout=log, stderr=log
            )

    def empty(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


class Engine:
    """One engine through the docker client."""

    def __init__(self, host: str, archive: Path) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": host, "HOME": str(archive.parent)}
        self._archive = archive

    def docker(self, *arguments: str) -> None:
        done = subprocess.run(
            [DOCKER, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"docker {' '.join(arguments)}: {done.stderr}")

    def life(self, layer: str, registry: Registry, name: str) -> Iterator[tuple[str, float]]:
        """Each operation of a round, and its seconds."""
        saved = str(self._archive)

        def timed(operation: str, *arguments: str) -> tuple[str, float]:
            os.sync()  # nobody pays for the one before
            begin = time.perf_counter()
            self.docker(*arguments)
            return operation, time.perf_counter() - begin

        yield timed("import", "import", layer, name)
        yield timed("save", "save", "-o", saved, name)
        self.docker("rmi", name)
        yield timed("load", "load", "-i", saved)
        registry.empty()
        yield timed("push", "push", name)
        self.docker("rmi", name)
        yield timed("pull", "pull", name)
        self.docker("rmi", name)
        self._archive.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layer", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without dockerd")
    options = parser.parse_args()
    layer = os.path.abspath(options.layer or debian())
    print(facts(layer))
    with workspace() as place, contextlib.ExitStack() as stack:
        registry = Registry(place)
        stack.callback(registry.close)
        ours, _ = stack.enter_context(sampan_daemon(place))
        engines = {"sampan": Engine(ours, place / "ours.tar")}
        if not options.alone:
            theirs = stack.enter_context(dockerd(place))
            if theirs is not None:
                engines["dockerd"] = Engine(theirs, place / "theirs.tar")
        taken: dict[tuple[str, str], list[float]] = {}
        name = f"{registry.address}/bench/debian:1"
        for number in range(options.rounds):
            order = list(engines)[:: 1 if number % 2 else -1]
            lives = {one: engines[one].life(layer, registry, name) for one in order}
            for _ in OPERATIONS:
                for one in order:
                    operation, seconds = next(lives[one])
                    taken.setdefault((one, operation), []).append(seconds)
            for life in lives.values():
                next(life, None)
        report(taken, list(engines))


def report(taken: dict[tuple[str, str], list[float]], engines: list[str]) -> None:
    for operation in OPERATIONS:
        medians = {}
        parts = []
        for engine in engines:
            seconds = taken[engine, operation]
            medians[engine] = statistics.median(seconds)
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            parts.append(f"{engine} {medians[engine]:6.3f} s ({spread})")
        ratio = ""
        if len(medians) == 2:
            ratio = f"   ratio {medians['sampan'] / medians['dockerd']:.2f} [0.6]"
        print(f"{operation:8}{'   '.join(parts)}{ratio}")


if __name__ == "__main__":
    main()
