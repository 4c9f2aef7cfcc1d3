"""Who reaches whom: the machine, its containers, and another host on the same wire."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.daemon_fixture import own_root
from tests.network.house import ASK, DEFAULT, ECHO, House, address
from tests.network.street import MACHINE, NEIGHBOUR, SERVER, Street, street

__all__ = ["street"]

pytestmark = pytest.mark.root


def test_a_container_leaves_as_the_machine_and_is_not_reached_from_the_wire(street: Street) -> None:
    daemon = street.house.daemon
    container = daemon.run(*ECHO, HostConfig=DEFAULT)
    daemon.wait_for(lambda: "listening" in daemon.logs(container))
    server = street.serve("neighbour", 8)
    try:
        assert street.reaches(container, NEIGHBOUR, 8) == MACHINE
        assert street.reaches("machine", address(daemon, container)) == "172.20.0.1"
        assert street.reaches("neighbour", address(daemon, container)) == ""
    finally:
        server.kill()
        server.wait()


def test_two_engines_networks_do_not_reach_each_other(street: Street, tmp_path: Path) -> None:
    daemon = street.house.daemon
    one = daemon.run(*ECHO, HostConfig=DEFAULT)
    (tmp_path / "two").mkdir()
    other = street.house.another(tmp_path / "two").start()
    try:
        two = other.run("sleep", "1000", HostConfig=DEFAULT)
        daemon.wait_for(lambda: "listening" in daemon.logs(one))
        pid = str(other.state(two)["Pid"])
        done = subprocess.run(
            ["nsenter", "-t", pid, "-n", "python3", "-c", ASK, address(daemon, one), "7"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "timed out" in done.stderr
    finally:
        other.close()


def test_the_machines_loopback_is_not_reached_from_a_container(street: Street) -> None:
    """CVE-2020-8558, with all that a container with CAP_NET_ADMIN could do, and route_localnet."""
    daemon = street.house.daemon
    container = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    street.house.run("sysctl", "-qw", "net.ipv4.conf.sampan0.route_localnet=1")
    inside = street.place(container)
    for words in (
        "ip address delete 127.0.0.1/8 dev lo",
        "ip link set lo down",
        "ip route add 127.0.0.0/8 via 172.20.0.1 dev eth0",
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
    ):
        subprocess.run([*inside, *words.split()], check=True)
    server = street.serve("machine", 9)
    try:
        assert street.reaches(container, "172.20.0.1", 9) == address(daemon, container)
        assert street.reaches(container, "127.0.0.1", 9) == ""
        pid = daemon.state(container)["Pid"]
        daemon.kill()  # or it would mend them
        street.house.run("nft", "flush", "ruleset")
        asked = ["nsenter", "-t", str(pid), "-n", "python3", "-c", ASK, "127.0.0.1", "9"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
        assert said.stdout != ""  # so it is the rule that helps
    finally:
        server.kill()
        server.wait()


ADVERTISE = """
import socket, struct
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
source = socket.inet_pton(socket.AF_INET6, "fe80::bad")
target = socket.inet_pton(socket.AF_INET6, "ff02::1")
prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 9000, 9000, 0)
prefix += socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
def message(check):
    return struct.pack(">BBHBBHII", 134, 0, check, 64, 0, 9000, 0, 0) + prefix
pseudo = source + target + struct.pack(">II", len(message(0)), 58)
body = message(checksum(pseudo + message(0)))
head = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source + target
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind(("eth0", 0))
    mac = wire.getsockname()[4]
    wire.send(bytes.fromhex("333300000001") + mac + struct.pack(">H", 0x86DD) + head + body)
"""
"""An IPv6 router's advertisement (RFC 4861, 4.2), as CAP_NET_RAW allows it."""


def test_a_container_does_not_become_the_machines_router(house: House) -> None:
    """CVE-2020-13401: a router's advertisement, on a network without IPv6 and one with it."""
    daemon = house.daemon
    assert daemon.post("/networks/create", {"Name": "six", "EnableIPv6": True}).status == 201
    house.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    for network in ("default", "six"):
        host = {"NetworkMode": network}
        container = daemon.run("python3", "-c", ADVERTISE, HostConfig=host)
        assert daemon.wait(container) == 0, daemon.logs(container)

    def routes() -> str:
        return house.run("ip", "-6", "route", "show", "proto", "ra").stdout

    # So that they have been seen, one that is accepted comes after them, the same way; 2: by a
    # machine that forwards, too.
    house.run("sysctl", "-qw", "net.ipv6.conf.sampan0.accept_ra=2")
    assert routes() == ""
    container = daemon.run("python3", "-c", ADVERTISE, HostConfig=DEFAULT)
    assert daemon.wait(container) == 0
    daemon.wait_for(lambda: "default via fe80::bad dev sampan0" in routes())
    assert "dev sp-" not in routes()
    daemon.remove_all()
    assert daemon.post("/networks/prune").status == 200


def test_a_machine_that_did_not_forward_is_no_router_now(street: Street, quick: Path) -> None:
    """And the engine that turned forwarding on leaves another engine's networks alone."""
    daemon = street.house.daemon
    other = street.house.another(own_root(quick))
    street.house.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    far = f"{street.host}-f"
    subprocess.run(["ip", "netns", "add", far], check=True)
    try:
        street.house.run("ip", "link", "add", "wire2", "type", "veth", "peer", "eth0", "netns", far)
        street.house.run("ip", "address", "add", "198.51.100.1/24", "dev", "wire2")
        street.house.run("ip", "link", "set", "wire2", "up")
        for words in (
            "ip address add 198.51.100.2/24 dev eth0",
            "ip link set eth0 up",
            "ip route add default via 198.51.100.1",
        ):
            subprocess.run(["ip", "netns", "exec", far, *words.split()], check=True)
        container = daemon.run("sleep", "1000", HostConfig=DEFAULT)
        forwarding = street.house.run("sysctl", "-n", "net.ipv4.ip_forward").stdout
        assert forwarding == "1\n"
        server = subprocess.Popen(
            ["ip", "netns", "exec", far, "python3", "-u", "-c", SERVER, "8"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            server.stdout.readline()
            assert street.reaches(container, "198.51.100.2", 8) == "198.51.100.1"
            assert street.reaches("neighbour", "198.51.100.2", 8) == ""
            other.start()
            publish = {**DEFAULT, "PortBindings": {"7/tcp": [{"HostPort": "8080"}]}}
            theirs = other.run(*ECHO, HostConfig=publish)
            other.wait_for(lambda: "listening" in other.logs(theirs))
            place = ["nsenter", "-t", str(other.state(theirs)["Pid"]), "-n"]
            for first in (True, False):
                assert street.asks(place, "198.51.100.2", 8) == "198.51.100.1"
                assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR
                assert street.reaches("neighbour", "198.51.100.2", 8) == ""
                assert other.get("/info").json()["Warnings"] is None
                # Without the one that turned it on, the machine is no router either.
                if first:
                    daemon.remove_all()
                    assert daemon.stop() == 0
            # With the last one it is as it was.
            assert street.house.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n"
            other.remove_all()
            assert other.stop() == 0
            assert street.house.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "0\n"
        finally:
            server.kill()
            server.communicate()
    finally:
        other.close()
        subprocess.run(["ip", "netns", "delete", far], check=True)
        assert os.path.exists(f"/run/netns/{street.host}")
