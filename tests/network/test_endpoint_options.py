"""What is asked of one endpoint: link-local addresses, kernel parameters of its link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.street import MACHINE, NEIGHBOUR
from tests.network.test_user_networks import inside, make, networks, on

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon
    from tests.network.house import House
    from tests.network.street import Street

pytestmark = pytest.mark.root

__all__ = ["networks"]

SYSCTLS = "com.docker.network.endpoint.sysctls"
ASKED = {
    "IPAMConfig": {"LinkLocalIPs": ["169.254.34.68", "fe80::7"]},
    "DriverOpts": {
        SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.ifname.arp_notify=0"
    },
}


def addresses(daemon: Daemon, container: str, link: str) -> set[tuple[str, int]]:
    (shown,) = json.loads(inside(daemon, container, "ip", "-j", "address", "show", "dev", link))
    return {(one["local"], one["prefixlen"]) for one in shown["addr_info"]}


def values(daemon: Daemon, container: str, link: str) -> str:
    names = [f"net.ipv4.conf.{link}.{name}" for name in ("log_martians", "arp_notify")]
    return inside(daemon, container, "sysctl", "-n", *names)


def test_a_link_has_them_from_the_start_and_when_it_comes_later(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    make(daemon, "later")
    container = daemon.run("sleep", "1000", **on("mine", **ASKED))
    body = {"Container": container, "EndpointConfig": ASKED}
    assert daemon.post("/networks/later/connect", body).status == 200
    for network, link in (("mine", "eth0"), ("later", "eth1")):
        settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
        shown = settings["Networks"][network]
        assert shown["IPAMConfig"] == ASKED["IPAMConfig"]
        assert shown["DriverOpts"] == ASKED["DriverOpts"]
        assert addresses(daemon, container, link) == {
            (shown["IPAddress"], shown["IPPrefixLen"]), ("169.254.34.68", 16), ("fe80::7", 64),
        }  # fmt: skip
        assert values(daemon, container, link) == "1\n0\n"


def test_the_command_asks_for_them(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    asked = f"driver-opt={SYSCTLS}=net.ipv4.conf.IFNAME.log_martians=1"
    text = f"name=mine,link-local-ip=169.254.9.9,{asked}"
    done = daemon.docker("run", "-d", "--network", text, "host", "sleep", "1000")
    assert done.returncode == 0, done.stderr
    container = done.stdout.strip()
    assert ("169.254.9.9", 16) in addresses(daemon, container, "eth0")
    assert values(daemon, container, "eth0").startswith("1\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"IPAMConfig": {"LinkLocalIPs": ["10.0.0.1"]}}, "10.0.0.1: it is not in 169.254.0.0/16"),
        ({"IPAMConfig": {"LinkLocalIPs": ["x"]}}, "invalid link-local IP address: x"),
        ({"DriverOpts": {SYSCTLS: "net.ipv4.conf.eth0.forwarding=1"}}, "write net.X.Y.IFNAME.Z"),
        ({"DriverOpts": {SYSCTLS: "kernel.x.y.IFNAME.z=1"}}, "write net.X.Y.IFNAME.Z"),
        ({"DriverOpts": {SYSCTLS: "net.ipv4.conf.IFNAME.../../x=1"}}, "write net.X.Y.IFNAME.Z"),
        ({"DriverOpts": {SYSCTLS: "net.ipv4.conf.IFNAME.forwarding"}}, "write net.X.Y.IFNAME.Z"),
    ],
)
def test_what_cannot_be_is_refused(networks: House, settings: dict[str, Any], words: str) -> None:
    make(networks.daemon, "mine")
    body = {"Image": "host", "Cmd": ["true"], **on("mine", **settings)}
    answer = networks.daemon.post("/containers/create", body)
    assert (answer.status, words in answer.message) == (400, True), answer.body


def test_a_parameter_that_the_kernel_has_not_is_named_at_the_start(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    options = {"DriverOpts": {SYSCTLS: "net.ipv4.conf.IFNAME.unheard_of=1"}}
    container = daemon.create("true", **on("mine", **options))
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status == 500
    assert "/proc/sys/net/ipv4/conf/eth0/unheard_of: ENOENT" in answer.message
    networks.daemon.wait_for(lambda: not networks.leases())


def test_a_network_says_how_links_are_called_and_as_whom_its_containers_leave(
    shared_street: Street, networks: House
) -> None:
    daemon = networks.daemon
    networks.run("ip", "address", "add", "192.0.2.77/24", "dev", "wire")
    options = {
        "com.docker.network.container_iface_prefix": "lan",
        "com.docker.network.host_ipv4": "192.0.2.77",
    }
    make(daemon, "mine", Options=options)
    make(daemon, "usual")
    settings = on("mine")
    settings["NetworkingConfig"]["EndpointsConfig"]["usual"] = {}
    container = daemon.run("sleep", "1000", **settings)
    usual = daemon.run("sleep", "1000", **on("usual"))
    shown = json.loads(inside(daemon, container, "ip", "-j", "link"))
    assert {one["ifname"] for one in shown} == {"lo", "lan0", "eth0"}
    server = shared_street.serve("neighbour", 8)
    try:
        assert shared_street.reaches(container, NEIGHBOUR, 8) == "192.0.2.77"
        assert shared_street.reaches(usual, NEIGHBOUR, 8) == MACHINE
    finally:
        server.kill()
        server.communicate()
    for name, value in (
        ("container_iface_prefix", "no way"), ("container_iface_prefix", "a0"),
        ("host_ipv4", "fd00::1"), ("host_ipv6", "::1"),
    ):  # fmt: skip
        body = {"Name": "bad", "Options": {f"com.docker.network.{name}": value}}
        answer = daemon.post("/networks/create", body)
        assert (answer.status, name in answer.message) == (400, True), answer.body
