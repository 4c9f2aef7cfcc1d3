"""What goes wrong on networks is said, and nothing is lost: the issue's list of bad input.

Elsewhere: subnets that overlap, names, networks in use (test_user_networks), ports in use
(test_ports), name servers that lie and packets that are none (resolver/), firewalls (test_foreign).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.network.house import ECHO
from tests.network.test_connect import connect, disconnect, routes
from tests.network.test_user_networks import endpoint, inside, make, networks, on, reaches, subnet

if TYPE_CHECKING:
    from tests.network.house import House

pytestmark = pytest.mark.root

__all__ = ["networks"]


def served(house: House, network: str) -> tuple[str, str]:
    """A server on a network: (container, address)."""
    daemon = house.daemon
    server = daemon.run(*ECHO, **on(network))
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    return server, str(endpoint(daemon, server, network)["IPAddress"])


def test_a_container_that_changes_its_own_addresses_loses_nobody_anything(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine", IPAM=subnet("10.91.0.0/24"))
    _, address = served(networks, "mine")
    near = daemon.run("sleep", "1000", **on("mine"))
    changer = daemon.run("sleep", "1000", **on("mine"))
    own = endpoint(daemon, changer, "mine")["IPAddress"]
    for words in (
        "address flush dev eth0",
        f"address add {address}/24 dev eth0",
        "address add 10.91.0.200/24 dev eth0",
        "link set eth0 down",
        "link set eth0 name mine",
        "link set mine address 02:00:00:00:00:99",
        "link set mine up",
    ):
        assert inside(daemon, changer, "ip", *words.split()) == ""
    # What it was given is its, what it took is not.
    assert endpoint(daemon, changer, "mine")["IPAddress"] == own
    other = daemon.run("sleep", "1000", **on("mine", IPAMConfig={"IPv4Address": "10.91.0.200"}))
    assert networks.leases() == {address, own, "10.91.0.200", "10.91.0.3"}
    disconnect(daemon, "mine", changer)
    assert "mine" not in inside(daemon, changer, "ip", "link")
    networks.run("ip", "neighbour", "flush", "all")
    inside(daemon, near, "ip", "neighbour", "flush", "all")
    daemon.wait_for(lambda: reaches(daemon, near, address))
    daemon.wait_for(lambda: reaches(daemon, other, address))
    connect(daemon, "mine", changer)
    assert routes(daemon, changer)["default"] == "eth0"
    assert endpoint(daemon, changer, "mine")["IPAddress"] == own


def test_a_container_that_deletes_its_own_link_has_it_again_with_its_next_start(
    networks: House,
) -> None:
    daemon = networks.daemon
    make(daemon, "mine", IPAM=subnet("10.91.0.0/24"))
    container = daemon.run("sleep", "1000", **on("mine"))
    inside(daemon, container, "ip", "link", "delete", "eth0")
    daemon.kill()
    daemon.start()
    assert networks.leases() == {"10.91.0.2"}
    assert daemon.post(f"/containers/{container}/restart", t=0).status == 204
    assert routes(daemon, container)["default"] == "eth0"
    inside(daemon, container, "ip", "link", "delete", "eth0")
    disconnect(daemon, "mine", container)
    assert networks.leases() == set()


def test_a_bridge_deleted_behind_our_back_is_in_the_way_of_nothing(networks: House) -> None:
    daemon = networks.daemon
    key = make(daemon, "mine", IPAM=subnet("10.91.0.0/24"))
    link = f"sp-{key[:12]}"
    _, address = served(networks, "mine")
    leaving = daemon.run("sleep", "1000", **on("mine"))
    coming = daemon.run("sleep", "1000")
    disconnect(daemon, "none", coming)
    networks.run("ip", "link", "delete", link)
    disconnect(daemon, "mine", leaving)
    connect(daemon, "mine", coming)  # makes it again, for all who are on it
    daemon.wait_for(lambda: reaches(daemon, coming, address))
    networks.run("ip", "link", "delete", link)
    daemon.kill()
    daemon.start()  # and so does the next daemon
    assert link in networks.links()
    daemon.wait_for(lambda: reaches(daemon, coming, address))
    networks.run("ip", "link", "delete", link)
    daemon.remove_all()
    daemon.wait_for(lambda: not networks.plugs() and not networks.leases())
    assert daemon.delete("/networks/mine").status == 204
    assert link not in networks.links()


def test_a_subnet_that_is_used_up_is_told_and_the_next_address_is_waited_for_by_nobody(
    networks: House,
) -> None:
    daemon = networks.daemon
    make(daemon, "small", IPAM=subnet("10.92.0.0/30"))
    first = daemon.run("sleep", "1000", **on("small"))
    second = daemon.create("sleep", "1000", **on("small"))
    refused = daemon.post(f"/containers/{second}/start")
    assert refused.status == 503
    assert "no available IPv4 addresses" in refused.message
    assert "10.92.0.0/30 is used up" in refused.message
    assert networks.leases() == {"10.92.0.2"}
    running = daemon.run("sleep", "1000")
    disconnect(daemon, "none", running)
    refused = daemon.post("/networks/small/connect", {"Container": running})
    assert (refused.status, "is used up" in refused.message) == (503, True)
    daemon.delete(f"/containers/{first}", force=1)
    daemon.wait_for(lambda: not networks.leases())
    assert daemon.post(f"/containers/{second}/start").status == 204


def test_pools_that_are_used_up_are_told_with_what_to_do(own_house: House) -> None:
    daemon = own_house.daemon
    daemon.options = ("--default-address-pool", "base=10.88.0.0/23,size=24")
    daemon.start()  # whose default network has the first of two
    make(daemon, "second")
    refused = daemon.post("/networks/create", {"Name": "third"})
    assert refused.status == 503
    assert "all predefined address pools have been fully subnetted" in refused.message
    assert "--default-address-pool" in refused.message
    make(daemon, "third", IPAM=subnet("10.93.0.0/24"))
    daemon.delete("/networks/second")
    make(daemon, "fourth")


def test_a_start_killed_amid_a_macvlan_leaves_no_address_taken(networks: House) -> None:
    """Of a run that ended while there was no daemon, the link went with its namespace."""
    daemon = networks.daemon
    networks.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "far")
    try:
        make(
            daemon, "lan", Driver="macvlan", IPAM=subnet("10.94.0.0/24"), Options={"parent": "wire"}
        )
        container = daemon.run("sleep", "1000", **on("lan"))
        pid = daemon.state(container)["Pid"]
        daemon.kill()
        subprocess.run(["kill", "-9", str(pid)], check=True)
        daemon.wait_for((daemon.exec_root / "containers" / container / "exit.json").exists)
        daemon.start()
        daemon.wait_for(lambda: not networks.leases())
        again = daemon.run("sleep", "1000", **on("lan"))
        assert endpoint(daemon, again, "lan")["IPAddress"] == "10.94.0.2"
        # The parent itself goes: the containers go on, and a start says what is missing.
        networks.run("ip", "link", "delete", "wire")
        assert daemon.state(again)["Running"]
        refused = daemon.post(f"/containers/{container}/start")
        assert (refused.status, "wire is no interface" in refused.message) == (400, True)
    finally:
        daemon.remove_all()
        daemon.wait_for(lambda: not networks.leases())
        networks.run("ip", "link", "delete", "wire", check=False)
