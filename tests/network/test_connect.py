"""Containers that come onto networks and leave them, while they run and while they do not."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import pytest

from tests.daemon_fixture import Daemon
from tests.network.house import ASK, ECHO, House
from tests.network.test_names import find
from tests.network.test_user_networks import endpoint, inside, make, networks, on, reaches, subnet

pytestmark = pytest.mark.root

__all__ = ["networks"]


def connect(daemon: Daemon, network: str, container: str, **settings: Any) -> None:
    body = {"Container": container, "EndpointConfig": settings}
    answer = daemon.post(f"/networks/{network}/connect", body)
    assert answer.status == 200, answer.body


def disconnect(daemon: Daemon, network: str, container: str) -> None:
    answer = daemon.post(f"/networks/{network}/disconnect", {"Container": container})
    assert answer.status == 200, answer.body


def routes(daemon: Daemon, container: str) -> dict[str, str]:
    """Destination -> link, of a container's routing table."""
    found = json.loads(inside(daemon, container, "ip", "-j", "route"))
    return {one["dst"]: one["dev"] for one in found}


def hosts(daemon: Daemon, container: str) -> set[str]:
    path = daemon.get(f"/containers/{container}/json").json()["HostsPath"]
    with open(path, encoding="utf-8") as file:
        return {line.split()[0] for line in file if line.strip()}


def attached(daemon: Daemon, container: str) -> set[str]:
    shown = daemon.get(f"/containers/{container}/json").json()
    return set(shown["NetworkSettings"]["Networks"])


def test_what_runs_comes_and_goes(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one", IPAM=subnet("10.81.0.0/24"))
    make(daemon, "two", IPAM=subnet("10.82.0.0/24"))
    server = daemon.run(*ECHO, **on("two"))
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    address = endpoint(daemon, server, "two")["IPAddress"]
    script = "echo 10.9.9.9 own >> /etc/hosts; echo written; exec sleep 1000"
    container = daemon.run("sh", "-c", script, **on("one"))
    daemon.wait_for(lambda: "written" in daemon.logs(container))
    assert not reaches(daemon, container, address, 0.5)
    begin = time.time()
    connect(daemon, "two", container, IPAMConfig={"IPv4Address": "10.82.0.77"}, Aliases=["web"])
    shown = endpoint(daemon, container, "two")
    assert (shown["IPAddress"], shown["IPPrefixLen"]) == ("10.82.0.77", 24)
    assert shown["Aliases"] == ["web"]
    assert reaches(daemon, container, address)
    assert routes(daemon, container)["default"] == "eth0"
    assert {"10.81.0.2", "10.82.0.77", "10.9.9.9"} <= hosts(daemon, container)
    assert container in daemon.get("/networks/two").json()["Containers"]
    again = daemon.post("/networks/two/connect", {"Container": container})
    assert (again.status, "already exists in network two" in again.message) == (403, True)
    # Off the first one: the way out is the second's, and the first is free.
    disconnect(daemon, "one", container)
    assert routes(daemon, container) == {"default": "eth1", "10.82.0.0/24": "eth1"}
    assert hosts(daemon, container) >= {"10.82.0.77", "10.9.9.9"}
    assert "10.81.0.2" not in hosts(daemon, container)
    assert networks.leases() == {address, "10.82.0.77"}
    assert attached(daemon, container) == {"two"}
    assert daemon.delete("/networks/one").status == 204
    again = daemon.post("/networks/two/disconnect", {"Container": server})
    assert again.status == 200
    again = daemon.post("/networks/two/disconnect", {"Container": server})
    assert (again.status, "is not connected to network two" in again.message) == (403, True)
    only = json.dumps({"type": ["network"], "event": ["connect", "disconnect"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=only).body
    told = [json.loads(line) for line in past.splitlines()]
    assert [(one["Action"], one["Actor"]["Attributes"]["name"]) for one in told] == [
        ("connect", "two"), ("disconnect", "one"), ("disconnect", "two"),
    ]  # fmt: skip
    # It comes back to where it was, and to nothing where it was taken off all.
    for one in (container, server):
        assert daemon.post(f"/containers/{one}/restart", t=0).status == 204
    assert endpoint(daemon, container, "two")["IPAddress"] == "10.82.0.77"
    assert attached(daemon, server) == set()
    assert routes(daemon, server) == {}


def test_what_does_not_run_is_connected_with_its_next_start(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one", IPAM=subnet("10.81.0.0/24"))
    make(daemon, "two", IPAM=subnet("10.82.0.0/24"))
    container = daemon.create("sleep", "1000", **on("one"))
    connect(daemon, "two", container, GwPriority=5)
    assert attached(daemon, container) == {"one", "two"}
    assert networks.leases() == set()
    daemon.post(f"/containers/{container}/start")
    assert routes(daemon, container)["default"] == "eth1"
    assert networks.leases() == {"10.81.0.2", "10.82.0.2"}
    daemon.post(f"/containers/{container}/kill")
    daemon.wait(container)
    disconnect(daemon, "one", container)
    daemon.post(f"/containers/{container}/start")
    assert routes(daemon, container) == {"default": "eth0", "10.82.0.0/24": "eth0"}


def test_a_container_is_made_on_several_networks(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "inner", Internal=True, IPAM=subnet("10.83.0.0/24"))
    make(daemon, "outer", IPAM=subnet("10.84.0.0/24"))
    config: dict[str, Any] = {
        "HostConfig": {"NetworkMode": "inner"},
        "NetworkingConfig": {"EndpointsConfig": {"inner": {}, "outer": {"Aliases": ["x"]}}},
    }
    container = daemon.run("sleep", "1000", **config)
    assert routes(daemon, container) == {
        "default": "eth1", "10.83.0.0/24": "eth0", "10.84.0.0/24": "eth1",
    }  # fmt: skip
    assert {"10.83.0.2", "10.84.0.2"} <= hosts(daemon, container)
    connect(daemon, "bridge", container, GwPriority=9)
    assert routes(daemon, container)["default"] == "eth2"
    disconnect(daemon, "bridge", container)
    assert routes(daemon, container)["default"] == "eth1"


def test_modes_without_a_network_of_their_own_are_refused(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    alone = daemon.run("sleep", "1000")
    shared = daemon.create("true", HostConfig={"NetworkMode": "host"})
    guest = daemon.create("true", HostConfig={"NetworkMode": f"container:{alone}"})
    member = daemon.run("sleep", "1000", **on("mine"))
    for network, container, words in (
        ("mine", alone, "private (none) mode"),
        ("none", member, "private (none) mode"),
        ("mine", shared, "host network"),
        ("host", member, "host network"),
        ("mine", guest, "sharing network namespace"),
    ):
        answer = daemon.post(f"/networks/{network}/connect", {"Container": container})
        assert (answer.status, words in answer.message) == (400, True), answer.body
    body = {"Container": member, "EndpointConfig": {"Nosuch": 5}}
    assert "Nosuch" in daemon.post("/networks/mine/connect", body).message
    # From none to a network, as it runs.
    disconnect(daemon, "none", alone)
    connect(daemon, "mine", alone)
    assert routes(daemon, alone)["default"] == "eth0"
    connect(daemon, "mine", daemon.create("true", **on("mine")))


def test_a_daemon_killed_between_row_and_record_leaves_no_endpoint(networks: House) -> None:
    """As it is found by who starts after a kill in the midst of connect or disconnect: an endpoint
    that runs, and a record that does not know it."""
    daemon = networks.daemon
    make(daemon, "aaa", IPAM=subnet("10.81.0.0/24"))
    make(daemon, "two", IPAM=subnet("10.82.0.0/24"))
    container = daemon.run("sleep", "1000", **published_by("two", "8080"))
    connect(daemon, "aaa", container)
    assert routes(daemon, container)["default"] == "eth1"
    assert "10.81.0.2 . 7" in networks.run("nft", "list", "ruleset").stdout
    daemon.kill()
    with sqlite3.connect(f"{daemon.data_root}/sampan.db") as rows:
        ((document,),) = rows.execute("SELECT config FROM containers WHERE id = ?", (container,))
        record = json.loads(document)
        record["networks"] = [one for one in record["networks"] if one["name"] != "aaa"]
        changed = json.dumps(record).encode()
        rows.execute("UPDATE containers SET config = ? WHERE id = ?", (changed, container))
    rows.close()
    daemon.start()
    assert routes(daemon, container) == {"default": "eth0", "10.82.0.0/24": "eth0"}
    assert networks.leases() == {"10.82.0.2"}
    assert len(networks.plugs()) == 1
    assert attached(daemon, container) == {"two"}
    # So have its ports come back.
    rules = networks.run("nft", "list", "ruleset").stdout
    assert "10.82.0.2 . 7" in rules
    assert "10.81.0.2" not in rules
    shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]
    assert shown == {"7/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}


def test_names_are_those_of_the_networks_it_is_on_now(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one", IPAM=subnet("10.81.0.0/24"))
    make(daemon, "two", IPAM=subnet("10.82.0.0/24"))
    daemon.run("sleep", "1000", name="server", **on("two"))
    client = daemon.run("sleep", "1000", name="client", **on("one"))
    late = daemon.run("sleep", "1000", name="late", HostConfig={"NetworkMode": "bridge"})
    assert find(daemon, client, "server") == ""
    for container in (client, late):
        connect(daemon, "two", container, Aliases=[f"also-{container[:12]}"])
    assert find(daemon, client, "server") == "10.82.0.2"
    assert find(daemon, late, "server") == "10.82.0.2"
    path = daemon.get(f"/containers/{late}/json").json()["ResolvConfPath"]
    with open(path, encoding="utf-8") as file:
        assert "nameserver 127.0.0.11" in file.read()
    assert find(daemon, late, f"also-{client[:12]}") == endpoint(daemon, client, "two")["IPAddress"]
    disconnect(daemon, "two", client)
    assert find(daemon, client, "server") == ""
    assert find(daemon, late, "client") == ""


def test_published_ports_are_where_its_way_out_is(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "aaa", IPAM=subnet("10.81.0.0/24"))
    make(daemon, "zzz", IPAM=subnet("10.82.0.0/24"), EnableIPv6=True)
    make(daemon, "inner", Internal=True, IPAM=subnet("10.83.0.0/24"))
    config = on("inner")
    config["HostConfig"]["PortBindings"] = {
        "7/tcp": [{"HostPort": "8080"}], "9/udp": [{}], "8/tcp": [{"HostPort": "8000-8010"}],
    }  # fmt: skip
    container = daemon.run(*ECHO, **config)
    daemon.wait_for(lambda: "listening" in daemon.logs(container))

    def published() -> dict[str, list[str]]:
        shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]
        found = {
            port: [f"{one['HostIp']} {one['HostPort']}" for one in places]
            for port, places in shown.items()
            if places
        }
        # What is shown is what the kernel has.
        rules = networks.run("nft", "list", "ruleset").stdout
        for place in (place for places in found.values() for place in places):
            assert f". {place.split()[1]} :" in rules
        if not found:
            assert ". 8080 :" not in rules
        return found

    def answered() -> bool:
        return bool(networks.run("python3", "-c", ASK, "127.0.0.1", "8080", check=False).stdout)

    assert published() == {}
    connect(daemon, "zzz", container)
    first = published()
    number = first["9/udp"][0].split()[1]
    both = {
        "7/tcp": ["0.0.0.0 8080", ":: 8080"],
        "8/tcp": ["0.0.0.0 8000", ":: 8000"],
        "9/udp": [f"0.0.0.0 {number}", f":: {number}"],
    }
    assert first == both
    daemon.wait_for(answered)
    four = {port: places[:1] for port, places in both.items()}
    connect(daemon, "aaa", container, GwPriority=1)  # the way out, if without IPv6
    assert published() == four
    daemon.wait_for(answered)
    disconnect(daemon, "aaa", container)
    assert published() == both
    daemon.wait_for(answered)
    connect(daemon, "aaa", container)
    disconnect(daemon, "zzz", container)
    assert published() == four
    daemon.kill()
    daemon.start()
    assert published() == four
    daemon.wait_for(answered)
    # One that cannot have its ports there does not come onto the network.
    disconnect(daemon, "aaa", container)
    assert published() == {}
    other = daemon.run("sleep", "1000", **published_by("aaa", "8080"))
    answer = daemon.post("/networks/zzz/connect", {"Container": container})
    assert (answer.status, "port is already allocated" in answer.message) == (500, True)
    assert attached(daemon, container) == {"inner"}
    daemon.post(f"/containers/{other}/kill")
    daemon.wait(other)
    connect(daemon, "zzz", container)
    assert published()["7/tcp"] == both["7/tcp"]
    daemon.wait_for(answered)
    daemon.post(f"/containers/{container}/kill")
    daemon.wait(container)
    daemon.wait_for(lambda: not networks.leases())
    assert published() == {}


def published_by(network: str, port: str) -> dict[str, Any]:
    config = on(network)
    config["HostConfig"]["PortBindings"] = {"7/tcp": [{"HostPort": port}]}
    return config
