"""docker-compose 1.29 brings a project up on networks of its own, and takes them down with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.network.house import ECHO, House
from tests.network.test_names import find
from tests.network.test_user_networks import endpoint, reaches

COMPOSE = shutil.which("docker-compose") or ""

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(not COMPOSE, reason="no docker-compose"),
]

PROJECT = f"""\
version: "3.8"
services:
  store:
    image: host
    command: {list(ECHO)!r}
    stop_grace_period: 1s
  web:
    image: host
    command: ["sleep", "600"]
    depends_on: [store]
    stop_grace_period: 1s
    networks:
      default: {{}}
      front: {{ipv4_address: 10.91.0.80, aliases: [www]}}
  worker:
    image: host
    command: ["sleep", "600"]
    depends_on: [store, web]
    links: ["store:db"]
    external_links: ["trio_web_1:outside"]
    stop_grace_period: 1s
networks:
  front:
    ipam: {{config: [{{subnet: 10.91.0.0/24}}]}}
    labels: {{side: front}}
"""


def test_a_project_on_its_own_networks(house: House, tmp_path: Path) -> None:
    daemon = house.daemon
    file = tmp_path / "docker-compose.yml"
    file.write_text(PROJECT)

    def compose(*words: str) -> None:
        done = subprocess.run(
            [COMPOSE, "-f", str(file), "-p", "trio", "--no-ansi", *words],
            capture_output=True, text=True, timeout=90, check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": daemon.host},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def names() -> set[str]:
        return {
            one["Name"] for one in daemon.get("/networks", filters='{"type":["custom"]}').json()
        }

    def store_that_listens() -> str:
        """Its address."""
        daemon.wait_for(lambda: "listening" in daemon.logs("trio_store_1"))
        return str(endpoint(daemon, "trio_store_1", "trio_default")["IPAddress"])

    compose("up", "-d")
    assert names() == {"trio_default", "trio_front"}
    assert daemon.get("/networks/trio_front").json()["Labels"]["side"] == "front"
    address = store_that_listens()
    assert reaches(daemon, "trio_worker_1", address)
    assert find(daemon, "trio_worker_1", "db") == address
    at = endpoint(daemon, "trio_web_1", "trio_default")["IPAddress"]
    assert find(daemon, "trio_worker_1", "outside") == at
    web = endpoint(daemon, "trio_web_1", "trio_front")
    assert web["IPAddress"] == "10.91.0.80"
    assert {"web", "www"} <= set(web["Aliases"])
    store = daemon.get("/containers/trio_store_1/json").json()["Id"]
    compose("up", "-d", "--force-recreate", "-t", "1", "web")
    assert endpoint(daemon, "trio_web_1", "trio_front")["IPAddress"] == "10.91.0.80"
    # What it depends on is made anew with it.
    assert daemon.get("/containers/trio_store_1/json").json()["Id"] != store
    assert reaches(daemon, "trio_web_1", store_that_listens())
    compose("down", "-t", "1")
    assert names() == set()
    daemon.wait_for(lambda: not house.leases())
