"""Containers of a user-defined network find each other by name, whatever becomes of the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.daemon_fixture import DOCKER
from tests.network.test_user_networks import make, on

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon
    from tests.network.house import House

pytestmark = pytest.mark.root


@pytest.fixture
def named(own_house: House) -> Iterator[House]:
    own_house.daemon.start()
    make(own_house.daemon, "names")
    yield own_house


def run(daemon: Daemon, name: str, *words: str, **settings: object) -> str:
    body = {"Image": "host", "Cmd": list(words or ("sleep", "1000")), **on("names", **settings)}
    container = str(daemon.post("/containers/create", body, name=name).json()["Id"])
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status == 204, answer.body
    return container


def find(daemon: Daemon, container: str, *words: str) -> str:
    """What dig(1) says in a container's network."""
    pid = daemon.state(container)["Pid"]
    return subprocess.run(
        [
            *["nsenter", "-t", str(pid), "-n"],
            *["dig", "@127.0.0.11", "+short", "+tries=1", "+time=3", *words],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.strip()


def address(daemon: Daemon, container: str) -> str:
    settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    return str(settings["Networks"]["names"]["IPAddress"])


def resolvers(house: House) -> list[int]:
    """The processes that listen below this daemon's exec root."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                text = file.read()
            inside = os.readlink(f"/proc/{entry}/ns/net")
        except OSError:
            continue
        same = f"net:[{os.stat(f'/run/netns/{house.name}').st_ino}]"
        if b"sampan.network.resolver.main" in text and inside == same:
            found.append(int(entry))
    return found


def test_a_command_finds_its_neighbours_from_its_first_moment(named: House) -> None:
    daemon = named.daemon
    web = run(daemon, "web", Aliases=["www"])
    script = "cat /etc/resolv.conf; getent hosts web; getent hosts www"
    asked = run(daemon, "asker", "sh", "-c", script)
    daemon.post(f"/containers/{asked}/wait")
    said = daemon.logs(asked)
    assert "nameserver 127.0.0.11\n" in said
    assert "ndots:0" in said
    assert said.count(address(daemon, web)) == 2


def test_names_follow_containers(named: House) -> None:
    daemon = named.daemon
    web, other = run(daemon, "web", Aliases=["www"]), run(daemon, "other")
    for name in ("web", "www", web[:12], "web.names"):
        assert find(daemon, other, name) == address(daemon, web), name
    assert find(daemon, other, "-x", address(daemon, web)) == "web.names."
    daemon.post(f"/containers/{web}/rename", name="site")
    daemon.wait_for(lambda: find(daemon, other, "site") == address(daemon, web))
    daemon.post(f"/containers/{web}/restart", t="0")
    assert find(daemon, other, "site") == address(daemon, web)
    assert find(daemon, web, "other") == address(daemon, other)
    daemon.post(f"/containers/{web}/kill")
    daemon.wait_for(lambda: not find(daemon, other, "www"))


def test_the_daemon_s_death_is_not_noticed_and_the_resolver_s_is_repaired(named: House) -> None:
    daemon = named.daemon
    web, other = run(daemon, "web"), run(daemon, "other")
    there = address(daemon, web)
    pid = daemon.state(other)["Pid"]
    (first,) = resolvers(named)
    daemon.kill()
    asked = ["nsenter", "-t", str(pid), "-n", "dig", "@127.0.0.11", "+short", "web"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == there
    daemon.start()
    assert find(daemon, other, "web") == there
    assert resolvers(named) == [first]
    third = run(daemon, "third")
    assert find(daemon, third, "web") == there
    os.kill(first, signal.SIGKILL)
    daemon.wait_for(lambda: find(daemon, third, "web") == there)
    assert first not in resolvers(named)


SERVER = (
    "import socket\n"
    "server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "server.bind(('', 53))\n"
    "print('listening', flush=True)\n"
    "while True:\n"
    "    packet, peer = server.recvfrom(512)\n"
    "    end = packet.index(0, 12) + 5\n"
    "    head = packet[:2] + bytes.fromhex('81800001000100000000')\n"
    "    record = bytes.fromhex('c00c000100010000003c0004c0000209')\n"
    "    server.sendto(head + packet[12:end] + record, peer)\n"
)
"""A name server at port 53 of every address, which says 192.0.2.9 to everything."""


def test_a_neighbour_may_be_a_name_server_at_port_53(named: House) -> None:
    """On an internal network, from where the machine's servers are not asked."""
    daemon = named.daemon
    make(daemon, "inner", Internal=True)
    body = {"Image": "host", "Cmd": ["python3", "-c", SERVER], **on("inner")}
    server = str(daemon.post("/containers/create", body, name="server").json()["Id"])
    assert daemon.post(f"/containers/{server}/start").status == 204
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    shown = daemon.get(f"/containers/{server}/json").json()["NetworkSettings"]
    where = shown["Networks"]["inner"]["IPAddress"]
    body = {"Image": "host", "Cmd": ["sleep", "1000"], **on("inner")}
    body["HostConfig"] = {"NetworkMode": "inner", "Dns": [where]}
    asker = str(daemon.post("/containers/create", body).json()["Id"])
    assert daemon.post(f"/containers/{asker}/start").status == 204
    daemon.wait_for(lambda: find(daemon, asker, "outside.example") == "192.0.2.9")
    assert find(daemon, asker, "server") == where
    assert find(daemon, server, "server") == where  # its own resolver is beside its server
    daemon.kill()
    daemon.start()
    assert find(daemon, asker, "server") == where
    daemon.wait_for(lambda: find(daemon, asker, "outside.example") == "192.0.2.9")


def test_with_the_last_container_the_resolver_ends(named: House) -> None:
    daemon = named.daemon
    run(daemon, "web")
    assert len(resolvers(named)) == 1
    daemon.remove_all()
    daemon.wait_for(lambda: not resolvers(named))
    daemon.wait_for(lambda: not named.plugs())
    assert (daemon.exec_root / "resolver.sock").exists()
    assert daemon.stop() == 0
    assert not (daemon.exec_root / "resolver.sock").exists()
    daemon.start()


def test_a_client_that_waits_for_the_output_finds_names_too(named: House) -> None:
    """Whoever attaches before the start is first; the resolver is there all the same."""
    if not DOCKER:
        pytest.skip("no docker here")
    daemon = named.daemon
    web = run(daemon, "web")
    done = daemon.docker("run", "--rm", "--network", "names", "host", "getent", "hosts", "web")
    assert (done.returncode, done.stdout.split()) == (0, [address(daemon, web), "web"]), done.stderr
