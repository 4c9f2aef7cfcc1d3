"""Beside other firewalls: what they drop of ours is named, with what to do; nothing is touched."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.network.house import DEFAULT, ECHO
from tests.network.street import MACHINE, NEIGHBOUR, Street
from tests.network.test_user_networks import make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.network.house import House

pytestmark = pytest.mark.root

PUBLISH = {**DEFAULT, "PortBindings": {"7/tcp": [{"HostPort": "8080"}]}}


@pytest.fixture
def street(shared_street: Street, house: House) -> Iterator[Street]:
    """The module's, without anybody's rules when the test ends."""
    yield shared_street
    house.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
    house.run("iptables-legacy", "-F", "FORWARD")
    house.run("nft", "flush", "ruleset")


def told(street: Street) -> list[str]:
    warnings = street.house.daemon.get("/info").json()["Warnings"] or []
    return [line for line in warnings if "drops what is forwarded" in line]


def nft(street: Street, script: str) -> None:
    subprocess.run(
        [*street.house.enter, "nft", "-f", "-"], input=script, text=True, timeout=30, check=True
    )


DROP = ["iptables -P FORWARD DROP"]
FIREWALLD = (
    "chain filter_FORWARD { type filter hook forward priority 10; ct state established accept; "
    "reject with icmpx admin-prohibited; };"
)
LAST = "chain f { type filter hook forward priority 0; ct state established accept; drop; };"
OWN = "chain f { type filter hook forward priority 0; policy drop; };"


@pytest.mark.parametrize(
    ("setup", "who", "hint"),
    [
        (DROP, "FORWARD of the firewall's table ip filter", "iptables -I"),
        (["iptables -A FORWARD -j REJECT"], "table ip filter", "iptables -I FORWARD -i sampan0"),
        (["ip6tables -P FORWARD DROP"], "table ip6 filter", "ip6tables -I FORWARD"),
        ([*DROP, "iptables -N DOCKER-USER", "iptables -A DOCKER-USER -j RETURN"],
         "table ip filter", "iptables -I DOCKER-USER"),
        ([*DROP, "iptables -N ufw-before", "iptables -A ufw-before -j RETURN"],
         "table ip filter", "ufw route allow in on sampan0"),
        (["iptables-legacy -P FORWARD DROP"], "iptables-legacy's chain FORWARD", "iptables -I"),
        ([f"nft add table inet firewalld {{ {FIREWALLD} }}"],
         "filter_FORWARD of the firewall's table inet firewalld", "--add-interface=sampan0"),
        ([f"nft add table inet own {{ {OWN} }}"],
         "chain f of the firewall's table inet own", 'iifname "sampan0" accept'),
        ([f"nft add table inet own {{ {LAST} }}"],
         "chain f of the firewall's table inet own", 'iifname "sampan0" accept'),
    ],
)  # fmt: skip
def test_who_drops_what_we_forward_is_named(
    street: Street, setup: list[str], who: str, hint: str
) -> None:
    daemon = street.house.daemon
    daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert told(street) == []
    for line in setup:
        words = line.split(maxsplit=1) if line.startswith("nft") else shlex.split(line)
        street.house.run(*words)
    (warning,) = told(street)
    assert who in warning and hint in warning and "containers on sampan0 " in warning
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": PUBLISH}
    (line,) = daemon.post("/containers/create", body).json()["Warnings"]
    assert who in line and not line.startswith("WARNING")
    plain = {"Image": "host", "Cmd": ["true"], "HostConfig": DEFAULT}
    assert daemon.post("/containers/create", plain).json()["Warnings"] == []


@pytest.mark.parametrize(
    "setup",
    [
        "iptables -P FORWARD ACCEPT",
        "iptables -P INPUT DROP",
        "iptables -A FORWARD -s 198.51.100.0/24 -j DROP",
        "iptables-legacy -A FORWARD -s 198.51.100.0/24 -j DROP",
    ],
)
def test_what_does_not_drop_ours_is_not_named(street: Street, setup: str) -> None:
    street.house.daemon.run("sleep", "1000", HostConfig=DEFAULT)
    street.house.run(*shlex.split(setup))
    try:
        assert told(street) == []
    finally:
        street.house.run("iptables", "-P", "INPUT", "ACCEPT")


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_what_is_advised_helps_and_the_warning_goes(street: Street, program: str) -> None:
    house, daemon = street.house, street.house.daemon
    container = daemon.run(*ECHO, HostConfig=PUBLISH)
    daemon.wait_for(lambda: "listening" in daemon.logs(container))
    house.run(program, "-P", "FORWARD", "DROP")
    assert street.reaches("neighbour", MACHINE, 8080) == ""  # no rule of ours is over it
    before = house.run(f"{program}-save").stdout
    (warning,) = told(street)
    assert re.sub("#.*", "", house.run(f"{program}-save").stdout) == re.sub("#.*", "", before)
    advice = re.search(r"\((iptables .*?)\):", warning)
    assert advice is not None
    for command in advice[1].split("; "):
        house.run(program, *shlex.split(command)[1:])
    assert told(street) == []
    assert street.reaches("neighbour", MACHINE, 8080) == NEIGHBOUR


def test_one_rule_is_for_all_networks_of_users(street: Street) -> None:
    daemon = street.house.daemon
    make(daemon, "mine")
    try:
        daemon.run("sleep", "1000", HostConfig={"NetworkMode": "mine"})
        street.house.run("iptables", "-P", "FORWARD", "DROP")
        (warning,) = told(street)
        assert "sp-" in warning
        for way in ("-i", "-o"):
            for link in ("sp-+", "sampan0"):
                street.house.run("iptables", "-I", "FORWARD", way, link, "-j", "ACCEPT")
        assert told(street) == []
    finally:
        daemon.remove_all()
        daemon.wait_for(lambda: not street.house.leases())
        daemon.delete("/networks/mine")


def test_a_network_that_comes_up_beside_it_says_so_in_the_log(own_house: House) -> None:
    own_house.run("iptables", "-P", "FORWARD", "DROP")
    own_house.daemon.start()
    own_house.daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert "drops what is forwarded" in own_house.daemon.log.read_text()


def test_without_a_firewall_of_ours_nothing_is_touched_and_nothing_said(own_house: House) -> None:
    own_house.daemon.options = ("--firewall", "none")
    own_house.run("iptables", "-P", "FORWARD", "DROP")
    before = own_house.run("nft", "-j", "list", "ruleset").stdout
    daemon = own_house.daemon.start()
    daemon.run("sleep", "1000", HostConfig=DEFAULT)
    make(daemon, "mine")
    daemon.run("sleep", "1000", HostConfig={"NetworkMode": "mine"})
    assert json.loads(own_house.run("nft", "-j", "list", "ruleset").stdout) == json.loads(before)
    warnings = daemon.get("/info").json()["Warnings"] or []
    assert not any("drops what is forwarded" in line for line in warnings)
