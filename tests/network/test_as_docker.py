"""What dockerd 20.10 and ours were seen to do differently, side by side, and what is right now.

Found by driving both with the same client; what stays different, and why, is in docs/network.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import DEFAULT, House
from tests.network.test_connect import connect, disconnect
from tests.network.test_names import find
from tests.network.test_user_networks import endpoint, inside, make, networks, on, subnet

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon

__all__ = ["networks"]

pytestmark = pytest.mark.root

SLEEP = ("sleep", "1000")
ETC = ("hosts", "hostname", "resolv.conf")


def etc(daemon: Daemon, container: str) -> dict[str, str]:
    """The three files as a running container has them."""
    root = f"/proc/{daemon.state(container)['Pid']}/root/etc"
    found = {}
    for name in ETC:
        with open(f"{root}/{name}", encoding="utf-8") as file:
            found[name] = file.read()
    return found


def beside(container: str, **host: Any) -> dict[str, Any]:
    return {"HostConfig": {"NetworkMode": f"container:{container}", **host}}


def test_who_is_in_the_network_of_another_has_its_files(networks: House) -> None:
    daemon = networks.daemon
    for name in ("one", "two"):
        make(daemon, name)
    owner = daemon.run(*SLEEP, name="owner", Hostname="first", Domainname="a.b", **on("one"))
    daemon.run(*SLEEP, name="neighbour", **on("one"))
    guest = daemon.run(*SLEEP, **beside("owner"))
    second = daemon.run(*SLEEP, **beside(guest))
    assert "127.0.0.11" in etc(daemon, owner)["resolv.conf"]
    # What comes later comes to all.
    connect(daemon, "two", owner)
    assert endpoint(daemon, owner, "two")["IPAddress"] in etc(daemon, owner)["hosts"]
    shown = daemon.get(f"/containers/{owner}/json").json()
    for one in (guest, second):
        assert etc(daemon, one) == etc(daemon, owner)
        other = daemon.get(f"/containers/{one}/json").json()
        assert other["HostsPath"] == shown["HostsPath"]
        config = other["Config"]
        assert (config["Hostname"], config["Domainname"]) == ("first", "a.b")
    done = daemon.run("sh", "-c", "hostname; getent hosts neighbour", **beside("owner"))
    assert daemon.wait(done) == 0
    words = daemon.logs(done).split()
    assert (words[0], words[2]) == ("first", "neighbour")
    # They come back with it.
    for one in (owner, guest):
        assert daemon.post(f"/containers/{one}/restart", t=0).status == 204
    assert etc(daemon, guest) == etc(daemon, owner)


def test_what_is_the_other_containers_is_not_asked_of_its_guest(house: House) -> None:
    daemon = house.daemon
    owner = daemon.run(*SLEEP, HostConfig=DEFAULT)
    host = {"NetworkMode": f"container:{owner}"}
    for body, said in (
        ({"Hostname": "x"}, "conflicting options: hostname and the network mode"),
        ({"MacAddress": "02:42:ac:00:00:01"}, "conflicting options: mac-address and the"),
        ({"ExposedPorts": {"80/tcp": {}}}, "conflicting options: port exposing and the container"),
        ({"HostConfig": {"Dns": ["1.2.3.4"]}}, "conflicting options: dns and the network mode"),
        (
            {"HostConfig": {"ExtraHosts": ["a:1.2.3.4"]}},
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
    ):
        given: dict[str, Any] = {"Image": "host", "Cmd": ["true"], **body}
        given["HostConfig"] = {**host, **given.get("HostConfig", {})}
        answer = daemon.post("/containers/create", given)
        assert (answer.status, answer.message.startswith(said)) == (400, True), answer.body


def test_a_name_has_the_addresses_of_every_network(networks: House) -> None:
    """That it has none of IPv6 on the first says nothing of the next."""
    daemon = networks.daemon
    make(daemon, "aaa")
    make(daemon, "zzz", EnableIPv6=True, IPAM=subnet("fd62::/64"))
    client = daemon.run(*SLEEP, **on("aaa"))
    server = daemon.run(*SLEEP, name="server", **on("aaa"))
    for one in (client, server):
        connect(daemon, "zzz", one)
    six = endpoint(daemon, server, "zzz")["GlobalIPv6Address"]
    assert find(daemon, client, "server", "AAAA") == six
    assert find(daemon, client, "server", "A") == endpoint(daemon, server, "aaa")["IPAddress"]


def defaults(daemon: Daemon, container: str) -> tuple[str, str]:
    """The links of the default routes of IPv4 and IPv6."""
    found = []
    for family in ("-4", "-6"):
        listed = json.loads(inside(daemon, container, "ip", "-j", family, "route") or "[]")
        found.append("".join(one["dev"] for one in listed if one["dst"] == "default"))
    return found[0], found[1]


def test_ways_out_are_who_has_both_versions_and_each_version_s_best(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "aaa")
    make(daemon, "both", EnableIPv6=True)
    container = daemon.run(*SLEEP, **on("aaa"))
    assert defaults(daemon, container) == ("eth0", "")
    connect(daemon, "both", container)
    assert defaults(daemon, container) == ("eth1", "eth1")
    disconnect(daemon, "aaa", container)
    connect(daemon, "aaa", container, GwPriority=7)
    assert defaults(daemon, container) == ("eth0", "eth1")
    disconnect(daemon, "both", container)
    assert defaults(daemon, container) == ("eth0", "")
    connect(daemon, "both", container)
    assert defaults(daemon, container) == ("eth0", "eth1")
    # And a start does what the connects did.
    assert daemon.post(f"/containers/{container}/restart", t=0).status == 204
    names = {endpoint(daemon, container, one)["MacAddress"]: one for one in ("aaa", "both")}
    links = json.loads(inside(daemon, container, "ip", "-j", "link"))
    of = {one["ifname"]: names.get(one["address"], "") for one in links}
    four, six = defaults(daemon, container)
    assert (of[four], of[six]) == ("aaa", "both")


def test_networks_are_listed_by_regular_expression(networks: House) -> None:
    daemon = networks.daemon
    for name in ("web", "web-2", "other"):
        make(daemon, name)

    def listed(**filters: list[str]) -> list[str]:
        found = daemon.get("/networks", filters=json.dumps(filters)).json()
        return sorted(one["Name"] for one in found)

    assert listed(name=["web"]) == ["web", "web-2"]
    assert listed(name=["^web$"]) == ["web"]
    assert listed(name=["^web$", "oth"]) == ["other", "web"]
    assert listed(name=["(web"]) == []
    for filters, said in (
        ({"type": ["abc"]}, "invalid filter: 'type'='abc'"),
        ({"dangling": ["x"]}, "invalid filter 'dangling=[x]'"),
    ):
        answer = daemon.get("/networks", filters=json.dumps(filters))
        assert (answer.status, answer.message) == (400, said)


def test_a_network_is_shown_as_it_was_asked_for(networks: House) -> None:
    daemon = networks.daemon
    config = [{"Subnet": "fd71::/64"}, {"Subnet": "10.71.0.0/24"}]
    make(daemon, "given", EnableIPv6=True, IPAM={"Options": {}, "Config": config})
    shown = daemon.get("/networks/given").json()["IPAM"]
    assert [one["Subnet"] for one in shown["Config"]] == ["10.71.0.0/24", "fd71::/64"]
    assert shown["Options"] == {}
    make(daemon, "bare")
    assert daemon.get("/networks/bare").json()["IPAM"]["Options"] is None
    for text in ("10.72.0.0", "10.72.0.0/33"):
        body = {"Name": "bad", "IPAM": {"Config": [{"Subnet": text}]}}
        answer = daemon.post("/networks/create", body)
        said = f"invalid subnet {text}: invalid CIDR address"
        assert (answer.status, answer.message.startswith(said)) == (400, True)


def test_a_network_that_was_made_again_is_the_one_that_is_meant(networks: House) -> None:
    daemon = networks.daemon
    for started in (False, True):
        make(daemon, "again")
        container = daemon.create(*SLEEP, **on("again"))
        if started:
            assert daemon.post(f"/containers/{container}/start").status == 204
            assert daemon.post(f"/containers/{container}/stop", t=0).status == 204
        shown = endpoint(daemon, container, "again")["NetworkID"]
        assert bool(shown) == started
        assert daemon.delete("/networks/again").status == 204
        answer = daemon.post(f"/containers/{container}/start")
        assert (answer.status, answer.message) == (404, "network again not found")
        key = make(daemon, "again")
        assert daemon.post(f"/containers/{container}/start").status == 204
        assert endpoint(daemon, container, "again")["NetworkID"] == key
        daemon.delete(f"/containers/{container}", force=1)
        assert daemon.delete("/networks/again").status == 204


def test_containers_are_found_by_the_machine_s_port(house: House) -> None:
    daemon = house.daemon
    bindings = {"80/tcp": [{"HostPort": "8080"}], "53/udp": [{"HostPort": "5353"}]}
    container = daemon.run(*SLEEP, HostConfig={**DEFAULT, "PortBindings": bindings})
    daemon.create(*SLEEP, HostConfig={**DEFAULT, "PortBindings": bindings})

    def listed(*ports: str) -> list[str]:
        filters = json.dumps({"publish": list(ports)})
        return [one["Id"] for one in daemon.get("/containers/json", all=1, filters=filters).json()]

    for found in ("8080", "8080/tcp", "5353/udp", "8000-8100"):
        assert listed(found) == [container]
    for none in ("80", "8080/udp", "5353"):
        assert listed(none) == []
    assert listed("80", "8080") == [container]


def test_old_clients_see_a_container_s_own_names_among_its_aliases(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one")
    settings = on("one", Aliases=["web"])
    container = daemon.create(*SLEEP, name="server", Hostname="host", **settings)
    for version, shown in (
        ("v1.44", ["web", container[:12], "host"]),
        ("v1.45", ["web"]),
    ):
        found = daemon.get(f"/{version}/containers/{container}/json").json()
        assert found["NetworkSettings"]["Networks"]["one"]["Aliases"] == shown


def test_a_full_name_is_in_hosts_with_its_first_word(house: House) -> None:
    daemon = house.daemon
    for hostname, domain, names in (
        ("foo.bar.baz", "", "foo.bar.baz foo"),
        ("foo", "bar.baz", "foo.bar.baz foo"),
        ("foo.bar", "baz", "foo.bar.baz foo"),
        ("foo", "", "foo"),
    ):
        container = daemon.run(*SLEEP, Hostname=hostname, Domainname=domain, HostConfig=DEFAULT)
        last = etc(daemon, container)["hosts"].splitlines()[-1]
        assert last.partition("\t")[2] == names


def test_what_is_not_there_is_named(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one")
    for path, body, said in (
        ("/networks/nope/connect", {"Container": "nix"}, "No such container: nix"),
        ("/networks/one/disconnect", {"Container": "nix"}, "No such container: nix"),
        ("/networks/one/disconnect", {"Container": "nix", "Force": True}, "endpoint nix not found"),
    ):
        answer = daemon.post(path, body)
        assert (answer.status, answer.message) == (404, said)
    make(daemon, "like", ConfigOnly=True, IPAM=subnet("10.75.0.0/24"))
    make(daemon, "made", ConfigFrom={"Network": "like"})
    answer = daemon.delete("/networks/like")
    said = 'error while removing network: configuration network "like" is in use by made'
    assert (answer.status, answer.message) == (403, said)
    assert daemon.delete("/networks/made").status == 204
    assert daemon.delete("/networks/like").status == 204
