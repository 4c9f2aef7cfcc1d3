"""What the administrator says of the default network, with dockerd's flags, and IPv6 on it."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import ASK, DEFAULT, ECHO

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon_fixture import Daemon
    from tests.network.house import House

pytestmark = pytest.mark.root

SLEEP = ("sleep", "1000")


def network(daemon: Daemon) -> Any:
    return daemon.get("/networks/bridge").json()


def endpoint(daemon: Daemon, container: str) -> Any:
    settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    return settings["Networks"]["bridge"]


def ask(house: House, host: str, port: int) -> str:
    return house.run("python3", "-c", ASK, host, str(port), check=False).stdout


def test_addresses_are_where_the_administrator_wants_them(own_house: House) -> None:
    house, daemon = own_house, own_house.daemon
    house.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    daemon.options = (
        *"--bip 10.77.0.1/24 --fixed-cidr 10.77.0.128/25 --default-gateway 10.77.0.254".split(),
        *"--ipv6 --fixed-cidr-v6 fd00:77::/64 --ip 127.0.0.1 --ip-forward=false".split(),
        *["--default-network-opt", "bridge=com.docker.network.driver.mtu=1234"],
    )
    daemon.start()
    shown = network(daemon)
    assert shown["EnableIPv6"] is True
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.77.0.0/24",
            "IPRange": "10.77.0.128/25",
            "Gateway": "10.77.0.1",
            "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.77.0.254"},
        },
        {"Subnet": "fd00:77::/64", "Gateway": "fd00:77::1"},
    ]
    assert shown["Options"]["com.docker.network.bridge.host_binding_ipv4"] == "127.0.0.1"
    bound = {"7/tcp": [{"HostPort": "8080"}, {"HostIp": "::", "HostPort": "8081"}]}
    server = daemon.run(
        *ECHO, HostConfig={**DEFAULT, "PortBindings": bound, "ExtraHosts": ["up:host-gateway"]}
    )
    there = endpoint(daemon, server)
    assert (there["IPAddress"], there["IPPrefixLen"]) == ("10.77.0.128", 24)
    assert (there["GlobalIPv6Address"], there["GlobalIPv6PrefixLen"]) == ("fd00:77::2", 64)
    assert (there["Gateway"], there["IPv6Gateway"]) == ("10.77.0.254", "fd00:77::1")
    pid = daemon.state(server)["Pid"]
    inside = ("nsenter", "-t", str(pid), "-n", "ip", "-j")
    ways = [
        one["gateway"]
        for family in ("-4", "-6")
        for one in json.loads(house.run(*inside, family, "route").stdout)
        if one["dst"] == "default"
    ]
    assert ways == ["10.77.0.254", "fd00:77::1"]
    with open(f"/proc/{pid}/root/etc/hosts", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert {"10.77.0.1\tup", "fd00:77::1\tup"} <= set(lines)
    assert any(line.startswith("fd00:77::2\t") for line in lines)
    # Published where it was said, else where the network says.
    ports = daemon.get(f"/containers/{server}/json").json()["NetworkSettings"]["Ports"]["7/tcp"]
    assert {(one["HostIp"], one["HostPort"]) for one in ports} == {
        ("127.0.0.1", "8080"), ("::", "8081"),
    }  # fmt: skip
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    daemon.wait_for(lambda: ask(house, "127.0.0.1", 8080) == "10.77.0.1")
    assert ask(house, "10.77.0.1", 8080) == ""
    # Nobody asked for forwarding.
    assert house.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "0\n"
    assert house.run("sysctl", "-n", "net.ipv4.conf.sampan0.forwarding").stdout == "0\n"
    made = daemon.post("/networks/create", {"Name": "mine"})
    assert made.status == 201
    options = daemon.get("/networks/mine").json()["Options"]
    assert options == {"com.docker.network.driver.mtu": "1234"}
    # With the next daemon's other decisions it is another, and with the same the same.
    daemon.remove_all()
    daemon.wait_for(lambda: not house.leases())
    daemon.stop()
    daemon.options = ("--ipv6",)
    daemon.start()
    chosen = network(daemon)["IPAM"]["Config"]
    assert [one["Subnet"].rpartition("/")[2] for one in chosen] == ["22", "64"]
    assert chosen[1]["Subnet"].startswith("fd")
    daemon.stop()
    daemon.start()
    assert network(daemon)["IPAM"]["Config"] == chosen
    # Reached by IPv6, published and from the machine; as whom it sees who asks.
    server = daemon.run(
        *SIX, name="six", HostConfig={**DEFAULT, "PortBindings": {"7/tcp": [{"HostPort": "8080"}]}}
    )
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    gateway = chosen[1]["Gateway"]
    daemon.wait_for(lambda: ask(house, gateway, 8080) == gateway)
    linked = daemon.run(*SLEEP, HostConfig={**DEFAULT, "Links": ["six:other"]})
    with open(f"/proc/{daemon.state(linked)['Pid']}/root/etc/hosts", encoding="utf-8") as file:
        names = [line.split()[0] for line in file if "other" in line.split()]
    shown = endpoint(daemon, server)
    assert names == [shown["IPAddress"], shown["GlobalIPv6Address"]]


SIX = (
    *ECHO[:-1],
    ECHO[-1].replace("('', 7)", "('::', 7), family=socket.AF_INET6"),
)


def test_decisions_wait_for_the_containers_that_are_on_it(own_house: House) -> None:
    house, daemon = own_house, own_house.daemon
    daemon.options = ("--bip=10.78.0.1/24", "--bridge=br78")
    daemon.start()
    there = daemon.run(*ECHO, name="there", HostConfig=DEFAULT)
    daemon.wait_for(lambda: "listening" in daemon.logs(there))
    as_it_was = network(daemon)
    for options, flags in (
        (("--bip=10.79.0.1/24", "--bridge=br78", "--mtu=1400"), 'flags="mtu bip'),
        (("--bridge=none",), "flags=bridge "),
    ):
        daemon.kill()
        daemon.options = options
        daemon.start()
        assert network(daemon)["IPAM"] == as_it_was["IPAM"]
        assert house.run("python3", "-c", ASK, "10.78.0.2", "7").stdout == "10.78.0.1"
        (line,) = (one for one in daemon.log.read_text().splitlines() if flags in one)
        assert "which stays as it was made" in line and "containers=there" in line
    assert endpoint(daemon, daemon.run(*SLEEP, HostConfig=DEFAULT))["IPAddress"] == "10.78.0.3"
    # What ended while there was no daemon is nobody's reason to wait; and the old bridge goes.
    daemon.remove_all()
    last = daemon.run(*SLEEP, HostConfig=DEFAULT)
    pid = daemon.state(last)["Pid"]
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for((daemon.exec_root / "containers" / last / "exit.json").exists)
    daemon.options = ("--bip=10.79.0.1/24",)
    daemon.start()
    assert "br78" not in house.links()
    assert endpoint(daemon, daemon.run(*SLEEP, HostConfig=DEFAULT))["IPAddress"] == "10.79.0.2"


def test_name_servers_are_those_behind_the_machines_stub(own_house: House, tmp_path: Path) -> None:
    """systemd-resolved(8): its stub is on the machine's loopback, which no container reaches."""
    (tmp_path / "resolv.conf").write_text("search lan\nnameserver 127.0.0.53\noptions edns0\n")
    (tmp_path / "behind").write_text("nameserver 192.0.2.53\nnameserver 127.0.0.9\n")
    script = (
        "mount -t tmpfs none /run && mkdir -p /run/systemd/resolve && "
        'cp "$0"/behind /run/systemd/resolve/resolv.conf && '
        'mount --bind "$0"/resolv.conf /etc/resolv.conf && exec "$@"'
    )
    daemon = own_house.daemon
    daemon.wrapper = (*own_house.enter, "unshare", "-m", "sh", "-ec", script, str(tmp_path))
    daemon.start()
    container = daemon.run("cat", "/etc/resolv.conf", HostConfig=DEFAULT)
    assert daemon.wait(container) == 0
    lines = {line for line in daemon.logs(container).splitlines() if not line.startswith("#")}
    assert lines == {"search lan", "options edns0", "nameserver 192.0.2.53"}
