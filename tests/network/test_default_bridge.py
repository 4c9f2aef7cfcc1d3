"""The default network: what a container has on it, whom it reaches, and what is left of it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.network.house import ASK, DEFAULT, ECHO, House, address

pytestmark = pytest.mark.root


def ask(house: House, container: str, host: str, port: int = 7) -> str:
    """What the server at ``host`` says to somebody in the container's namespace."""
    pid = house.daemon.state(container)["Pid"]
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "python3", "-c", ASK, host, str(port)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def listening(house: House, container: str) -> None:
    house.daemon.wait_for(lambda: "listening" in house.daemon.logs(container))


def test_a_container_has_an_address_a_route_and_a_name(house: House) -> None:
    daemon = house.daemon
    script = "ip -j address show eth0; ip -j route; cat /etc/hosts /etc/resolv.conf; hostname"
    container = daemon.run("sh", "-c", script, HostConfig=DEFAULT, Hostname="web", Domainname="lan")
    assert daemon.wait(container) == 0
    link, routes, *text = daemon.logs(container).splitlines()
    (eth,) = json.loads(link)
    (given,) = eth["addr_info"]  # and no other: nobody asked for IPv6
    assert (given["local"], given["prefixlen"]) == ("172.20.0.2", 22)
    assert eth["address"] == "02:42:ac:14:00:02"
    assert {(one["dst"], one.get("gateway")) for one in json.loads(routes)} == {
        ("default", "172.20.0.1"), ("172.20.0.0/22", None),
    }  # fmt: skip
    assert "172.20.0.2\tweb.lan web" in text
    assert any(line.startswith("nameserver ") for line in text)
    assert text[-1] == "web"


def test_the_mtu_is_the_uplinks(own_house: House) -> None:
    house = own_house
    house.run("ip", "link", "add", "wire", "mtu", "1280", "type", "veth", "peer", "name", "far")
    house.run("ip", "address", "add", "192.0.2.2/24", "dev", "wire")
    house.run("ip", "link", "set", "wire", "up")
    house.run("ip", "route", "add", "default", "via", "192.0.2.1")
    daemon = house.daemon.start()
    container = daemon.run("cat", "/sys/class/net/eth0/mtu", HostConfig=DEFAULT)
    daemon.wait(container)
    assert daemon.logs(container) == "1280\n"
    assert house.links()["sampan0"]["mtu"] == 1280


def test_neighbours_and_the_machine_reach_a_container(house: House) -> None:
    daemon = house.daemon
    server = daemon.run(*ECHO, HostConfig=DEFAULT)
    listening(house, server)
    client = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert ask(house, client, address(daemon, server)) == address(daemon, client)
    assert house.run("python3", "-c", ASK, address(daemon, server), "7").stdout == "172.20.0.1"


def test_inspect_shows_what_there_is_and_nothing_when_it_ended(house: House) -> None:
    daemon = house.daemon
    container = daemon.create("sleep", "1000", HostConfig=DEFAULT)
    before = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    assert before["IPAddress"] == before["Networks"]["bridge"]["IPAddress"] == ""
    daemon.post(f"/containers/{container}/start")
    during = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    endpoint = during["Networks"]["bridge"]
    assert endpoint["IPAddress"] == during["IPAddress"] == "172.20.0.2"
    assert (endpoint["IPPrefixLen"], endpoint["Gateway"]) == (22, "172.20.0.1")
    assert endpoint["MacAddress"] == "02:42:ac:14:00:02"
    network = daemon.get("/networks/bridge").json()
    assert endpoint["NetworkID"] == network["Id"]
    assert network["IPAM"]["Config"] == [{"Subnet": "172.20.0.0/22", "Gateway": "172.20.0.1"}]
    assert network["Containers"][container]["IPv4Address"] == "172.20.0.2/22"
    assert network["Containers"][container]["EndpointID"] == endpoint["EndpointID"]
    daemon.post(f"/containers/{container}/kill")
    daemon.wait(container)
    after = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    assert after["Networks"]["bridge"]["IPAddress"] == after["EndpointID"] == ""
    assert daemon.get("/networks/bridge").json()["Containers"] == {}


def test_a_mac_address_can_be_asked_for_and_an_ip_address_cannot(house: House) -> None:
    daemon = house.daemon
    config = {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:07"}}}
    container = daemon.run(
        "cat", "/sys/class/net/eth0/address", HostConfig=DEFAULT, NetworkingConfig=config
    )
    daemon.wait(container)
    assert daemon.logs(container) == "02:00:00:00:00:07\n"
    fixed = {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.20.0.9"}}}}
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": DEFAULT, "NetworkingConfig": fixed}
    answer = daemon.post("/containers/create", body)
    assert answer.status == 400
    assert "supported on user defined networks only" in answer.message


def test_addresses_are_kept_over_a_restart_and_given_on_after_the_end(house: House) -> None:
    daemon = house.daemon
    first = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    second = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert (address(daemon, first), address(daemon, second)) == ("172.20.0.2", "172.20.0.3")
    assert daemon.post(f"/containers/{first}/restart", t=0).status == 204
    assert address(daemon, first) == "172.20.0.2"
    daemon.wait_for(lambda: len(house.plugs()) == 2)
    daemon.delete(f"/containers/{first}", force=1)
    daemon.wait_for(lambda: house.leases() == {"172.20.0.3"})
    assert len(house.plugs()) == 1
    third = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert address(daemon, third) == "172.20.0.2"


def test_another_containers_namespace_is_left_without_its_link(house: House) -> None:
    daemon = house.daemon
    owner = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    guest = daemon.run("sleep", "1000", HostConfig={"NetworkMode": f"container:{owner}"})
    pid = daemon.state(guest)["Pid"]
    seen = ["nsenter", "-t", str(pid), "-n", "ip", "-br", "link"]
    assert "eth0" in subprocess.run(seen, capture_output=True, text=True, check=True).stdout
    daemon.delete(f"/containers/{owner}", force=1)
    daemon.wait_for(lambda: not house.plugs())
    assert "eth0" not in subprocess.run(seen, capture_output=True, text=True, check=True).stdout


def test_a_daemon_that_ends_without_containers_leaves_nothing(house: House) -> None:
    daemon = house.daemon
    daemon.wait(daemon.run("true", HostConfig=DEFAULT))
    assert "sampan0" in house.links()
    assert len(house.tables()) == 3
    assert daemon.stop() == 0
    assert house.links() == {}
    assert house.tables() == []
    daemon.start()


def test_running_containers_keep_their_network_while_no_daemon_runs(house: House) -> None:
    daemon = house.daemon
    server = daemon.run(*ECHO, HostConfig=DEFAULT)
    listening(house, server)
    where = address(daemon, server)
    for number in (signal.SIGKILL, signal.SIGTERM):
        daemon.stop(number)
        assert house.run("python3", "-c", ASK, where, "7").stdout == "172.20.0.1"
        daemon.start()
        assert address(daemon, server) == where
        assert house.run("python3", "-c", ASK, where, "7").stdout == "172.20.0.1"
    assert address(daemon, daemon.run("sleep", "1000", HostConfig=DEFAULT)) == "172.20.0.3"


def test_what_ended_while_no_daemon_ran_is_freed_by_the_next(house: House) -> None:
    daemon = house.daemon
    container = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    pid = daemon.state(container)["Pid"]
    daemon.kill()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    daemon.wait_for((daemon.exec_root / "containers" / container / "exit.json").exists)
    daemon.start()
    assert daemon.state(container)["Status"] == "exited"
    assert address(daemon, daemon.run("sleep", "1000", HostConfig=DEFAULT)) in (
        "172.20.0.2", "172.20.0.3",
    )  # fmt: skip
    daemon.wait_for(lambda: len(house.plugs()) == 1)
    daemon.kill()
    daemon.start()
    daemon.remove_all()
    daemon.wait_for(lambda: not house.plugs())


def test_a_bridge_deleted_behind_our_back_is_made_again(house: House) -> None:
    daemon = house.daemon
    server = daemon.run(*ECHO, HostConfig=DEFAULT)
    listening(house, server)
    house.run("ip", "link", "delete", "sampan0")
    house.run("nft", "flush", "ruleset")
    client = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert ask(house, client, address(daemon, server)) == address(daemon, client)
    assert {one["master"] for name, one in house.links().items() if name.startswith("vsp")} == {
        "sampan0"
    }
    assert len(house.tables()) == 3


def test_a_flushed_rule_set_is_built_again_by_the_next_start(house: House) -> None:
    daemon = house.daemon
    daemon.run("sleep", "1000", HostConfig=DEFAULT)
    rules = house.run("nft", "list", "ruleset").stdout
    house.run("nft", "flush", "ruleset")
    daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert house.run("nft", "list", "ruleset").stdout == rules


def test_two_daemons_have_networks_of_their_own(house: House, tmp_path: Path) -> None:
    daemon = house.daemon
    (tmp_path / "two").mkdir()
    other = house.another(tmp_path / "two").start()
    try:
        # The second chose while the first had no bridge yet.
        one = daemon.run("sleep", "1000", HostConfig=DEFAULT)
        two = other.run("sleep", "1000", HostConfig=DEFAULT)
        assert address(daemon, one) == "172.20.0.2"
        assert address(other, two) == "172.20.4.2"
        shown = other.get("/networks/bridge").json()
        assert shown["IPAM"]["Config"][0]["Subnet"] == "172.20.4.0/22"
        assert shown["Options"]["com.docker.network.bridge.name"] == "sampan1"
        assert {"sampan0", "sampan1"} < set(house.links())
        assert len(house.tables()) == 6
        answer = subprocess.run(
            ["nsenter", "-t", str(other.state(two)["Pid"]), "-n", "python3", "-c", ASK,
             address(daemon, one), "7"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "timed out" in answer.stderr
    finally:
        other.close()
    assert "sampan1" not in house.links()
    assert "sampan0" in house.links()


def test_where_no_bridge_can_be_made_the_start_says_so(own_house: House) -> None:
    own_house.daemon.wrapper += ("setpriv", "--bounding-set", "-net_admin")
    daemon = own_house.daemon.start()
    container = daemon.create("true", HostConfig=DEFAULT)
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status == 503
    assert "network bridge: this machine makes no bridge" in answer.message
    assert "--network host or none do without" in answer.message
    assert daemon.wait(daemon.run("true", HostConfig={"NetworkMode": "host"})) == 0


def test_the_administrator_decides_name_address_and_icc(own_house: House) -> None:
    daemon = own_house.daemon
    daemon.options = ("--bridge=br7", "--bip=10.7.0.9/24", "--mtu=1300", "--icc=false")
    daemon.start()
    server = daemon.run(*ECHO, HostConfig=DEFAULT)
    listening(own_house, server)
    client = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert address(daemon, server) == "10.7.0.1"
    link = own_house.links()["br7"]
    assert link["mtu"] == 1300
    # Its time is over, or the kernel has asked three times who has the address, a second each.
    answer = ask(own_house, client, address(daemon, server))
    assert "timed out" in answer or "No route to host" in answer
    assert own_house.run("python3", "-c", ASK, "10.7.0.1", "7").stdout == "10.7.0.9"
    daemon.remove_all()
    daemon.stop()
    daemon.options = ()
    daemon.start()
    assert address(daemon, daemon.run("sleep", "9", HostConfig=DEFAULT)) == "172.20.0.2"
    daemon.remove_all()
    daemon.stop()
    daemon.options = ("--bridge=none",)
    daemon.start()
    assert daemon.get("/networks/bridge").status == 404
    isolated = daemon.run("ls", "/sys/class/net", HostConfig=DEFAULT)
    daemon.wait(isolated)
    assert daemon.logs(isolated) == "lo\n"


def test_without_a_firewall_of_ours_there_is_no_table(own_house: House) -> None:
    own_house.daemon.options = ("--firewall=none",)
    daemon = own_house.daemon.start()
    container = daemon.run("sleep", "1000", HostConfig=DEFAULT)
    assert address(daemon, container) == "172.20.0.2"
    assert own_house.tables() == []


def test_many_starts_and_ends_leave_no_link_and_no_lease(house: House) -> None:
    daemon = house.daemon
    for _ in range(10):
        daemon.post(
            f"/containers/{daemon.create('true', HostConfig={**DEFAULT, 'AutoRemove': True})}/start"
        )
    daemon.wait_for(lambda: daemon.get("/containers/json", all=1).json() == [])
    daemon.wait_for(lambda: not house.plugs() and not house.leases())


def test_the_predefined_networks_ids_differ_from_the_beginning(own_house: House) -> None:
    """And a data root that has them as they were, the engine's digits first, goes on so."""
    daemon = own_house.daemon.start()
    ids = {one["Name"]: one["Id"] for one in daemon.get("/networks").json()}
    assert len({key[:12] for key in ids.values()}) == len(ids) == 3
    assert daemon.get(f"/networks/{ids['none'][:12]}").json()["Name"] == "none"
    without = daemon.create("sleep", "1000")
    daemon.stop()
    engine = (daemon.data_root / "engine-id").read_text().strip().replace("-", "")
    former = {name: engine + name.encode().hex().ljust(32, "0") for name in ids}
    with sqlite3.connect(daemon.data_root / "sampan.db") as database:
        database.execute("UPDATE networks SET id = ?, document = replace(document, ?, ?)",
                         (former["bridge"], ids["bridge"], former["bridge"]))  # fmt: skip
        config = database.execute("SELECT config FROM containers").fetchone()[0]
        config = config.replace(ids["none"].encode(), former["none"].encode())
        database.execute("UPDATE containers SET config = ?", (config,))
    daemon.start()
    assert daemon.get("/networks/bridge").json()["Id"] == former["bridge"]
    assert daemon.post(f"/containers/{without}/start").status == 204
    assert daemon.wait(daemon.run("true", HostConfig=DEFAULT)) == 0
