"""nginx, an application in Python and Redis in containers: by name, published, under a light load.

``python bench/stack.py`` has the figures.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.stack import COMMANDS, bodies, requests, write
from tests.network.test_user_networks import inside, make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.network.house import House

LOAD = "wrk -t 1 -c 8 -d 2s --timeout 60s http://127.0.0.1:8080/visits"
MISSING = [name for name in ("nginx", "redis-server", "wrk") if not shutil.which(name)]

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {MISSING}"),
]


@pytest.fixture
def city(house: House) -> Iterator[House]:
    yield house
    house.daemon.remove_all()
    assert house.daemon.post("/networks/prune").status == 200


def fetched(house: House, path: str) -> str:
    """A page of the published web server, "" while there is none."""
    try:
        with house.inside():
            server = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
            server.connect()
        server.request("GET", path)
        answer = server.getresponse()
        text = answer.read().decode()
        server.close()
    except (OSError, http.client.HTTPException):
        return ""
    return text if answer.status == 200 else ""


def loaded(house: House, names: list[str]) -> None:
    """The stack of containers that are called so answers, and counts right under load."""
    house.daemon.wait_for(lambda: fetched(house, "/visits"), 60)
    assert "A page" in fetched(house, "/")
    before = int(fetched(house, "/visits").split()[1])
    answered = requests(house.run(*LOAD.split()).stdout)
    assert answered > 0
    # A visit may be counted whose answer came after the load's end, one for each connection.
    visits = int(fetched(house, "/visits").split()[1]) - before - 1
    assert answered <= visits <= answered + 8
    stored = int(house.run("redis-cli", "-p", "6379", "get", "visits").stdout)
    assert 0 <= stored - (before + visits + 1) <= 8
    benchmark = ("redis-benchmark", "-n", "2000", "-c", "8", "-t", "set,get", "--csv")
    assert house.run(*benchmark).stdout.count("\n") == 3  # a head, and each command's line
    done = house.daemon.docker("exec", names[1], *benchmark, "-h", "store", timeout=60)
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr


def test_a_stack_on_a_network_finds_itself_by_name_and_is_published(
    city: House, tmp_path: Path
) -> None:
    daemon = city.daemon
    make(daemon, "stack")
    write(tmp_path)
    for name, body in bodies("host", "stack", [f"{tmp_path}:/stack:ro"]).items():
        container = daemon.post("/containers/create", body, name=name).json()["Id"]
        assert daemon.post(f"/containers/{container}/start").status == 204
    loaded(city, list(COMMANDS))
    # A successor with another address is found by the same name.
    last = int(fetched(city, "/visits").split()[1])
    daemon.delete("/containers/store", force=1)
    daemon.run("sleep", "600", name="squatter", HostConfig={"NetworkMode": "stack"})
    body = bodies("host", "stack", [])["store"]
    assert daemon.post("/containers/create", body, name="store").status == 201
    assert daemon.post("/containers/store/start").status == 204
    daemon.wait_for(lambda: fetched(city, "/visits") != "", 60)
    assert int(fetched(city, "/visits").split()[1]) < last


PROJECT: dict[str, Any] = {
    "version": "3.8",
    "services": {
        "store": {"networks": ["back"], "ports": ["6379:6379"]},
        "app": {"networks": ["back", "front"], "depends_on": ["store"]},
        "web": {"networks": ["front"], "depends_on": ["app"], "ports": ["8080:80"]},
    },
    "networks": {"front": {}, "back": {}},
}


def test_docker_compose_brings_the_stack_up(city: House, tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("no docker-compose")
    write(tmp_path)
    services = {
        name: {
            "image": "host", "command": COMMANDS[name], "volumes": [f"{tmp_path}:/stack:ro"],
            "stop_grace_period": "1s", **more,
        }
        for name, more in PROJECT["services"].items()
    }  # fmt: skip
    file = tmp_path / "docker-compose.yml"
    file.write_text(json.dumps({**PROJECT, "services": services}))

    def compose(*words: str) -> None:
        done = subprocess.run(
            [program, "-f", str(file), "-p", "stack", "--no-ansi", *words],
            capture_output=True, text=True, timeout=120, check=False,
            env={
                "PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": city.daemon.host,
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    compose("up", "-d")
    loaded(city, [f"stack_{name}_1" for name in COMMANDS])
    # The web server is not on the store's network.
    shown = city.daemon.get("/containers/stack_store_1/json").json()["NetworkSettings"]
    store = shown["Networks"]["stack_back"]["IPAddress"]
    script = f"import socket; socket.create_connection(('{store}', 6379), %d); print('reached')"
    daemon = city.daemon
    assert "reached" in inside(daemon, "stack_app_1", "python3", "-c", script % 60)
    assert "timed out" in inside(daemon, "stack_web_1", "python3", "-c", script % 1)
    compose("down", "-t", "1")
    assert daemon.get("/networks", filters='{"type":["custom"]}').json() == []
