"""docker-compose 1.29 brings a project of three services up and down, on the networks there are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon_fixture import Daemon

COMPOSE = shutil.which("docker-compose") or ""

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(not COMPOSE, reason="no docker-compose"),
]

PROJECT = """\
version: "3.8"
services:
  store:
    image: host
    network_mode: none
    command: ["sh", "-c", "echo kept > /data/made; trap 'exit 0' TERM; while :; do sleep .05; done"]
    volumes: ["data:/data", "/scratch"]
    restart: unless-stopped
    stop_signal: SIGTERM
    healthcheck:
      test: ["CMD", "test", "-s", "/data/made"]
      interval: 1s
      retries: 20
  web:
    image: host
    network_mode: host
    command: ["sh", "-c", "echo web is up; trap 'exit 0' TERM; while :; do sleep 0.05; done"]
    environment: ["KIND=web"]
    labels: {tier: front}
    depends_on: [store]
  worker:
    image: host
    network_mode: none
    init: true
    stop_grace_period: 1s
    command: ["sh", "-c", "cat /data/made; exec sleep 600"]
    volumes: ["data:/data:ro"]
    depends_on: [store, web]
volumes:
  data:
"""


def test_three_services_up_and_down(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(PROJECT)

    def compose(*words: str) -> str:
        done = subprocess.run(
            [COMPOSE, "-f", str(file), "-p", "three", "--no-ansi", *words],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": daemon.host},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states() -> dict[str, str]:
        found = daemon.get("/containers/json", all=1).json()
        return {one["Names"][0].removeprefix("/"): one["State"] for one in found}

    compose("up", "-d")
    names = ("store", "web", "worker")
    assert states() == {f"three_{name}_1": "running" for name in names}
    daemon.wait_for(lambda: daemon.state("three_store_1")["Health"]["Status"] == "healthy")
    assert "(healthy)" in compose("ps")
    daemon.wait_for(lambda: "kept" in daemon.logs("three_worker_1"))
    assert "kept" in compose("logs", "worker")
    assert "web is up" in compose("logs", "--tail", "5", "web")
    assert compose("exec", "-T", "web", "sh", "-c", "echo $KIND") == "web\n"
    compose("up", "-d", "--scale", "worker=2")
    assert states()["three_worker_2"] == "running"
    before = daemon.state("three_web_1")["StartedAt"]
    compose("restart", "-t", "5", "web")
    assert daemon.state("three_web_1")["StartedAt"] != before
    compose("stop", "-t", "5", "store")
    assert states()["three_store_1"] == "exited"
    compose("start", "store")
    assert states()["three_store_1"] == "running"
    # Containers are replaced, and what volumes of their own have is kept.
    compose("exec", "-T", "store", "touch", "/scratch/kept")
    old = daemon.get("/containers/three_store_1/json").json()["Id"]
    compose("up", "-d", "-t", "5", "--force-recreate")
    assert daemon.get("/containers/three_store_1/json").json()["Id"] != old
    assert states() == {f"three_{name}": "running" for name in ("store_1", "web_1", "worker_1")}
    assert compose("exec", "-T", "store", "ls", "/scratch") == "kept\n"
    compose("rm", "-f", "-s", "-v", "worker")
    assert "three_worker_1" not in states()
    assert compose("run", "--rm", "-T", "--no-deps", "worker", "cat", "/data/made") == "kept\n"
    compose("down", "-v", "-t", "5")
    assert states() == {}
    # What was carried over by its name counts as named, here as with dockerd.
    (kept,) = [one["Name"] for one in daemon.get("/volumes").json()["Volumes"]]
    assert len(kept) == 64 and daemon.delete(f"/volumes/{kept}").status == 204
