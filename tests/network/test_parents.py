"""Networks on a link of the machine's: macvlan, and what the kernel may not have."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import DEFAULT, ECHO
from tests.network.street import NEIGHBOUR, Street
from tests.network.test_connect import attached, connect, disconnect, routes
from tests.network.test_user_networks import endpoint, inside, make, on, subnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon_fixture import Daemon
    from tests.network.house import House

pytestmark = pytest.mark.root

WIRE = subnet("192.0.2.0/24", Gateway=NEIGHBOUR, IPRange="192.0.2.64/26")


@pytest.fixture
def street(shared_street: Street, house: House) -> Iterator[Street]:
    """The module's; its containers and networks go with the test."""
    yield shared_street
    house.daemon.remove_all()
    house.daemon.wait_for(lambda: not house.leases())
    assert house.daemon.post("/networks/prune").status == 200


def on_wire(daemon: Daemon, name: str, **options: str) -> None:
    make(daemon, name, Driver="macvlan", IPAM=WIRE, Options={"parent": "wire", **options})


def server(daemon: Daemon, network: str) -> str:
    container = daemon.run(*ECHO, **on(network))
    daemon.wait_for(lambda: "listening" in daemon.logs(container))
    return container


def links(daemon: Daemon, container: str) -> set[str]:
    found = json.loads(inside(daemon, container, "ip", "-j", "link"))
    return {one["ifname"] for one in found} - {"lo"}


def test_containers_are_neighbours_of_the_machine_s_neighbours(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "lan")
    shown = daemon.get("/networks/lan").json()
    assert (shown["Driver"], shown["Options"]) == ("macvlan", {"parent": "wire"})
    one, two = server(daemon, "lan"), server(daemon, "lan")
    first, second = endpoint(daemon, one, "lan"), endpoint(daemon, two, "lan")
    assert [each["IPAddress"] for each in (first, second)] == ["192.0.2.64", "192.0.2.65"]
    assert (first["Gateway"], first["MacAddress"]) == (NEIGHBOUR, "02:42:c0:00:02:40")
    assert first["MacAddress"] in inside(daemon, one, "ip", "link", "show", "eth0")
    assert routes(daemon, one) == {"default": "eth0", "192.0.2.0/24": "eth0"}
    assert street.reaches(one, "192.0.2.65") == "192.0.2.64"
    assert street.reaches("neighbour", "192.0.2.64") == NEIGHBOUR
    assert street.reaches("machine", "192.0.2.64") == ""  # as the kernel has it
    # No rule of ours is needed for that, and no bridge.
    assert not street.house.plugs()
    assert not any(name.startswith(("sp-", "dm-")) for name in street.house.links())


def test_addresses_and_links_survive_restarts_and_daemons(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "lan")
    container = server(daemon, "lan")
    for _ in range(3):
        # Its last run's link, with the same MAC address, is still there when this is asked for.
        assert daemon.post(f"/containers/{container}/restart", t=0).status == 204
        assert endpoint(daemon, container, "lan")["IPAddress"] == "192.0.2.64"
    daemon.kill()
    daemon.start()
    assert endpoint(daemon, container, "lan")["IPAddress"] == "192.0.2.64"
    daemon.wait_for(lambda: street.reaches("neighbour", "192.0.2.64") == NEIGHBOUR)
    daemon.post(f"/containers/{container}/kill")
    daemon.wait(container)
    daemon.wait_for(lambda: not street.house.leases())
    daemon.delete("/networks/lan")
    assert "wire" in street.house.links()  # which was not ours


def test_what_runs_comes_onto_a_parent_and_leaves_it(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "lan")
    container = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    connect(daemon, "lan", container, GwPriority=5, IPAMConfig={"IPv4Address": "192.0.2.99"})
    assert routes(daemon, container)["default"] == "eth1"
    near = server(daemon, "lan")
    where = endpoint(daemon, near, "lan")["IPAddress"]
    assert street.reaches(container, where) == "192.0.2.99"
    # A name of its own choice hides nothing.
    inside(daemon, container, "ip", "link", "set", "eth1", "down")
    inside(daemon, container, "ip", "link", "set", "eth1", "name", "mine")
    disconnect(daemon, "lan", container)
    assert links(daemon, container) == {"eth0"}
    assert attached(daemon, container) == {"bridge"}
    assert routes(daemon, container)["default"] == "eth0"
    assert "192.0.2.99" not in street.house.leases()


def test_who_shares_the_namespace_loses_the_link_with_its_owner(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "lan")
    owner = daemon.run("sleep", "1000", **on("lan"))
    guest = daemon.run("sleep", "1000", HostConfig={"NetworkMode": f"container:{owner}"})
    assert links(daemon, guest) == {"eth0"}
    daemon.post(f"/containers/{owner}/kill")
    daemon.wait_for(lambda: links(daemon, guest) == set())
    daemon.wait_for(lambda: not street.house.leases())
    # And with an owner that ended while there was no daemon.
    daemon.post(f"/containers/{owner}/start")
    guest = daemon.run("sleep", "1000", HostConfig={"NetworkMode": f"container:{owner}"})
    pid = daemon.state(owner)["Pid"]
    daemon.kill()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    daemon.wait_for((daemon.exec_root / "containers" / owner / "exit.json").exists)
    daemon.start()
    assert links(daemon, guest) == set()


def test_the_modes_are_the_kernel_s(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "apart", macvlan_mode="private")
    server(daemon, "apart")
    near = daemon.run("sleep", "1000", **on("apart"))
    assert street.reaches("neighbour", "192.0.2.64") == NEIGHBOUR
    assert street.reaches(near, "192.0.2.64") == ""
    detailed = inside(daemon, near, "ip", "-d", "link", "show", "eth0")
    assert "macvlan mode private" in detailed


def test_passthru_is_one_network_s_and_one_container_s(street: Street) -> None:
    daemon = street.house.daemon
    street.house.run("ip", "link", "add", "own", "type", "veth", "peer", "name", "far")
    try:
        options = {"parent": "own", "macvlan_mode": "passthru"}
        pair = subnet("10.66.0.0/24")
        make(daemon, "whole", Driver="macvlan", IPAM=pair, Options=options)
        again = {"Name": "second", "Driver": "macvlan", "Options": {"parent": "own"}}
        refused = daemon.post("/networks/create", again)
        assert (refused.status, "passthru" in refused.message) == (403, True), refused.body
        wanted = on("whole", MacAddress="02:00:00:00:00:09")
        refused = daemon.post(f"/containers/{daemon.create('true', **wanted)}/start")
        assert (refused.status, "mac address" in refused.message) == (400, True), refused.body
        container = daemon.run("sleep", "1000", **on("whole"))
        assert daemon.post(f"/containers/{container}/restart", t=0).status == 204
        own = street.house.links()["own"]["address"]
        assert own in inside(daemon, container, "ip", "link", "show", "eth0")
        second = daemon.create("true", **on("whole"))
        refused = daemon.post(f"/containers/{second}/start")
        assert (refused.status, "in mode passthru" in refused.message) == (409, True), refused.body
    finally:
        daemon.remove_all()
        daemon.wait_for(lambda: not street.house.leases())
        street.house.run("ip", "link", "delete", "own")


def test_several_subnets_of_a_family_and_internal_ones(street: Street) -> None:
    daemon = street.house.daemon
    two = {
        "Config": [
            {"Subnet": "10.61.0.0/30", "Gateway": "10.61.0.1"},
            {"Subnet": "10.62.0.0/24", "Gateway": "10.62.0.9"},
        ]
    }
    make(daemon, "two", Driver="macvlan", IPAM=two, Options={"parent": "wire"})
    first = daemon.run("sleep", "1000", **on("two"))
    second = daemon.run("sleep", "1000", **on("two"))
    assert endpoint(daemon, first, "two")["IPAddress"] == "10.61.0.2"
    shown = endpoint(daemon, second, "two")  # the first is used up
    assert (shown["IPAddress"], shown["Gateway"]) == ("10.62.0.1", "10.62.0.9")
    make(
        daemon, "inner", Driver="macvlan", Internal=True, IPAM=subnet("10.63.0.0/24"),
        Options={"parent": "wire"},
    )  # fmt: skip
    assert routes(daemon, daemon.run("sleep", "1000", **on("inner"))) == {"10.63.0.0/24": "eth0"}


def test_published_ports_are_the_bridges(street: Street) -> None:
    daemon = street.house.daemon
    on_wire(daemon, "lan")
    publish = {"PortBindings": {"7/tcp": [{"HostPort": "8077"}]}}
    container = daemon.run("sleep", "1000", HostConfig={"NetworkMode": "lan", **publish})
    shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]
    assert not any(shown.values())
    assert "published ports are not" in daemon.log.read_text()
    config: dict[str, Any] = {"EndpointsConfig": {"bridge": {}, "lan": {"GwPriority": 9}}}
    container = daemon.run(
        "sleep", "1000", HostConfig={**DEFAULT, **publish}, NetworkingConfig=config
    )
    shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]["Ports"]
    assert shown["7/tcp"][0]["HostPort"] == "8077"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Options": {"parent": "lo"}}, 400, "loopback interface is not a valid macvlan parent"),
        ({"Options": {"parent": "nosuch0"}}, 400, "nosuch0 is no interface of this machine"),
        ({"Options": {"parent": "wire.0"}}, 400, "from 1 to 4094"),
        ({"Options": {"parent": "wire.4095"}}, 400, "from 1 to 4094"),
        ({"Options": {"parent": "nosuch0.7"}}, 400, "nosuch0 is no interface"),
        ({"Options": {"parent": "wire", "macvlan_mode": "l2"}}, 400, "macvlan mode 'l2' is not"),
        ({"Options": {"parent": "wire", "ipvlan_mode": "l2"}}, 501, "ipvlan_mode=l2"),
        ({"Driver": "ipvlan", "Options": {"ipvlan_flag": "x"}}, 400, "ipvlan flag 'x' is not"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    street: Street, body: dict[str, Any], status: int, words: str
) -> None:
    answer = street.house.daemon.post(
        "/networks/create", {"Name": "x", "Driver": "macvlan", **body}
    )
    assert (answer.status, words in answer.message) == (status, True), answer.body
    assert street.house.daemon.get("/networks/x").status == 404


@pytest.mark.parametrize(
    ("body", "module"),
    [
        ({"Driver": "ipvlan", "Options": {"parent": "wire"}}, "ipvlan"),
        ({"Driver": "macvlan", "Options": {"parent": "wire.7"}}, "8021q"),
        ({"Driver": "macvlan"}, "dummy"),
    ],
)
def test_a_kernel_without_it_is_told_by_its_module(
    street: Street, body: dict[str, Any], module: str
) -> None:
    """Which kernels have is theirs; tests/runtime/test_plugs.py has what these do there."""
    daemon = street.house.daemon
    answer = daemon.post("/networks/create", {"Name": "x", **body})
    if answer.status == 503:
        assert f"module {module};" in answer.message
        assert daemon.get("/networks/x").status == 404
    else:
        assert answer.status == 201, answer.body
        assert daemon.run("sleep", "1000", **on("x"))
