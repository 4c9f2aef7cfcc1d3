"""Networks that users make: what is taken, what is refused, who reaches whom, what is left."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon
from tests.network.house import ECHO, House

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def networks(house: House) -> Iterator[House]:
    """A house whose networks go with the test."""
    yield house
    house.daemon.remove_all()
    assert house.daemon.post("/networks/prune").status == 200
    custom = json.dumps({"type": ["custom"]})
    assert house.daemon.get("/networks", filters=custom).json() == []


def make(daemon: Daemon, name: str, **more: Any) -> str:
    answer = daemon.post("/networks/create", {"Name": name, **more})
    assert answer.status == 201, answer.body
    return str(answer.json()["Id"])


def subnet(text: str, **more: Any) -> dict[str, Any]:
    return {"Config": [{"Subnet": text, **more}]}


def on(name: str, **settings: Any) -> dict[str, Any]:
    """What puts a container on a network."""
    return {
        "HostConfig": {"NetworkMode": name},
        "NetworkingConfig": {"EndpointsConfig": {name: settings}},
    }


def endpoint(daemon: Daemon, container: str, network: str) -> dict[str, Any]:
    settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
    found: dict[str, Any] = settings["Networks"][network]
    return found


def inside(daemon: Daemon, container: str, *words: str) -> str:
    """A command of the machine's in a container's network namespace."""
    pid = daemon.state(container)["Pid"]
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def reaches(daemon: Daemon, container: str, address: str, seconds: float = 10) -> bool:
    """``seconds``: fewer for who is expected not to."""
    connect = f"socket.create_connection(('{address}', 7), {seconds})"
    script = f"import socket; {connect}; print('reached')"
    return "reached" in inside(daemon, container, "python3", "-c", script)


def test_a_network_is_what_was_asked_for(networks: House) -> None:
    daemon = networks.daemon
    aux = {"printer": "10.77.0.9"}
    key = make(
        daemon, "mine", Driver="bridge", CheckDuplicate=True, Internal=True, Attachable=True,
        IPAM=subnet(
            "10.77.0.0/16", Gateway="10.77.0.254", IPRange="10.77.4.0/24", AuxiliaryAddresses=aux
        ),
        Labels={"a": "b"}, Options={"com.docker.network.bridge.name": "own0"},
    )  # fmt: skip
    shown = daemon.get("/networks/mine").json()
    assert (shown["Id"], shown["Name"], shown["Driver"]) == (key, "mine", "bridge")
    assert (shown["Internal"], shown["Attachable"], shown["EnableIPv6"]) == (True, True, False)
    assert shown["Labels"] == {"a": "b"}
    assert shown["Options"] == {"com.docker.network.bridge.name": "own0"}
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.77.0.0/16", "IPRange": "10.77.4.0/24", "Gateway": "10.77.0.254",
            "AuxiliaryAddresses": aux,
        }
    ]  # fmt: skip
    assert daemon.get(f"/networks/{key[:10]}").json() == shown
    container = daemon.run("sleep", "1000", **on("mine"))
    assert endpoint(daemon, container, "mine")["IPAddress"] == "10.77.4.0"
    assert networks.links()["own0"]["linkinfo"]["info_kind"] == "bridge"
    assert "default" not in inside(daemon, container, "ip", "route")
    # And it is there after the daemon's end.
    daemon.kill()
    daemon.start()
    again = daemon.get("/networks/mine").json()
    assert list(again.pop("Containers")) == [container]
    assert again == {key: value for key, value in shown.items() if key != "Containers"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": " "}, 400, "Name"),
        ({"Name": "a\nb"}, 400, "printable"),
        ({"Name": "host"}, 403, "predefined host network"),
        ({"Name": "taken"}, 409, "network with name taken already exists"),
        ({"Name": "x", "Driver": "overlay"}, 501, "swarm"),
        ({"Name": "x", "Driver": "null"}, 403, "only one instance"),
        ({"Name": "x", "Driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
        ({"Name": "x", "Ingress": True}, 501, "Ingress"),
        ({"Name": "x", "IPAM": {"Driver": "dhcp"}}, 501, "IPAM.Driver dhcp"),
        ({"Name": "x", "IPAM": {"Nosuch": 5}}, 400, "IPAM.Nosuch"),
        ({"Name": "x", "Options": {"nosuch": "5"}}, 501, "option nosuch=5"),
        ({"Name": "x", "Options": {"com.docker.network.driver.mtu": "x"}}, 400, "MTU"),
        ({"Name": "x", "Options": {"com.docker.network.bridge.name": "a/b"}}, 400, "a/b"),
        ({"Name": "x", "Options": {"com.docker.network.bridge.name": "lo"}}, 403, "interface lo"),
        ({"Name": "x", "Options": {"com.docker.network.bridge.enable_icc": "no"}}, 400, "icc"),
        ({"Name": "x", "IPAM": subnet("10.5.0.1/16")}, 400, "it should be 10.5.0.0/16"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/33")}, 400, "10.5.0.0/33"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/32")}, 400, "10.5.0.0/32"),
        ({"Name": "x", "IPAM": subnet("127.1.0.0/16")}, 400, "127.1.0.0/16"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/16", Gateway="10.6.0.1")}, 400, "10.6.0.1"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/16", Gateway="10.5.0.0")}, 400, "10.5.0.0"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/16", IPRange="10.6.0.0/24")}, 400, "10.6.0.0/24"),
        ({"Name": "x", "IPAM": subnet("10.5.0.0/16", IPRange="10.0.0.0/8")}, 400, "10.0.0.0/8"),
        ({"Name": "x", "IPAM": {"Config": [{"Gateway": "10.5.0.1"}]}}, 400, "Subnet"),
        ({"Name": "x", "IPAM": subnet("10.99.1.0/24")}, 403, "network taken's 10.99.0.0/16"),
        ({"Name": "x", "IPAM": subnet("192.0.2.128/25")}, 403, "192.0.2.0/24 on wire"),
        ({"Name": "x", "IPAM": subnet("fd00::/64")}, 400, "IPv6"),
        ({"Name": "x", "EnableIPv4": False}, 400, "IPv4 or IPv6"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    networks: House, body: dict[str, Any], status: int, words: str
) -> None:
    daemon = networks.daemon
    if "wire" not in networks.links():
        networks.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "far")
        networks.run("ip", "address", "add", "192.0.2.2/24", "dev", "wire")
        networks.run("ip", "link", "set", "wire", "up")
    make(daemon, "taken", IPAM=subnet("10.99.0.0/16"))
    answer = daemon.post("/networks/create", body)
    assert (answer.status, words in answer.message) == (status, True), answer.body
    assert daemon.get("/networks", filters='{"type": ["custom"]}').json()[0]["Name"] == "taken"


def test_neighbours_reach_one_another_and_no_other_network(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "one")
    make(daemon, "two")
    server = daemon.run(*ECHO, **on("one"))
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    address = endpoint(daemon, server, "one")["IPAddress"]
    near = daemon.run("sleep", "1000", **on("one"))
    far = daemon.run("sleep", "1000", **on("two"))
    assert reaches(daemon, near, address)
    assert not reaches(daemon, far, address, 0.5)


def test_icc_off_and_an_mtu_are_the_networks(networks: House) -> None:
    daemon = networks.daemon
    options = {
        "com.docker.network.bridge.enable_icc": "false", "com.docker.network.driver.mtu": "1400",
    }  # fmt: skip
    make(daemon, "apart", Options=options)
    server = daemon.run(*ECHO, **on("apart"))
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    near = daemon.run("sleep", "1000", **on("apart"))
    assert not reaches(daemon, near, endpoint(daemon, server, "apart")["IPAddress"], 0.5)
    assert "mtu 1400" in inside(daemon, near, "ip", "link", "show", "eth0")


def test_static_addresses_and_aliases(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "fixed", IPAM=subnet("10.78.0.0/24"))
    make(daemon, "chosen")
    wanted = on("fixed", IPAMConfig={"IPv4Address": "10.78.0.50"}, Aliases=["db"])
    container = daemon.run("sleep", "1000", Hostname="store", **wanted)
    shown = endpoint(daemon, container, "fixed")
    assert (shown["IPAddress"], shown["Gateway"]) == ("10.78.0.50", "10.78.0.1")
    assert shown["Aliases"] == ["db"]
    second = daemon.create("sleep", "1000", **wanted)
    for _ in range(5):
        # Its successor has it at once.
        daemon.delete(f"/containers/{container}", force=1)
        container = daemon.run("sleep", "1000", **wanted)
    answer = daemon.post(f"/containers/{second}/start")
    assert (answer.status, "Address already in use" in answer.message) == (409, True)
    body = {"Image": "host", "Cmd": ["true"]}
    refused = daemon.post(
        "/containers/create", {**body, **on("chosen", IPAMConfig={"IPv4Address": "10.1.1.1"})}
    )
    assert (refused.status, "user configured subnets" in refused.message) == (400, True)


def test_ipv6_beside_ipv4_and_alone(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "both", EnableIPv6=True)
    make(daemon, "alone", EnableIPv4=False, EnableIPv6=True, IPAM=subnet("fd5a::/64"))
    server = daemon.run(
        "python3", "-u", "-c",
        "import socket\n"
        "server = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "print('listening')\n"
        "while True: server.accept()\n",
        **on("both"),
    )  # fmt: skip
    daemon.wait_for(lambda: "listening" in daemon.logs(server))
    shown = endpoint(daemon, server, "both")
    address = ipaddress.ip_address(shown["GlobalIPv6Address"])
    assert address in ipaddress.ip_network("fd00::/8")
    assert shown["GlobalIPv6PrefixLen"] == 64 and shown["IPAddress"]
    near = daemon.run("sleep", "1000", **on("both"))
    assert reaches(daemon, near, str(address))
    assert reaches(daemon, near, shown["IPAddress"])
    default = inside(daemon, near, "ip", "-6", "route", "show", "default")
    assert f"via {shown['IPv6Gateway']} dev eth0" in default
    fixed = on("alone", IPAMConfig={"IPv6Address": "fd5a::77"})
    six = daemon.run("sleep", "1000", **fixed)
    shown = endpoint(daemon, six, "alone")
    assert (shown["GlobalIPv6Address"], shown["IPAddress"]) == ("fd5a::77", "")
    assert not reaches(daemon, six, str(address), 0.5)
    path = daemon.get(f"/containers/{six}/json").json()["HostsPath"]
    with open(path, encoding="utf-8") as file:
        assert "fd5a::77\t" in file.read()
    assert daemon.post("/networks/both/connect", {"Container": six}).status == 200
    assert reaches(daemon, six, str(address))


def test_a_network_in_use_is_not_removed_and_then_leaves_nothing(networks: House) -> None:
    daemon = networks.daemon
    key = make(daemon, "used")
    container = daemon.run("sleep", "1000", **on("used"))
    assert f"sp-{key[:12]}" in networks.links()
    answer = daemon.delete("/networks/used")
    assert (answer.status, "has active endpoints" in answer.message) == (403, True)
    assert container[:12] in answer.message
    daemon.post(f"/containers/{container}/kill")
    daemon.wait(container)
    assert daemon.delete("/networks/used").status == 204
    assert f"sp-{key[:12]}" not in networks.links()
    assert key[:12] not in networks.run("nft", "list", "ruleset").stdout
    assert daemon.get("/networks/used").status == 404
    started = daemon.post(f"/containers/{container}/start")
    assert (started.status, started.message) == (404, "network used not found")


def test_lists_prunes_and_events(networks: House) -> None:
    daemon = networks.daemon
    begin = time.time()
    make(daemon, "kept", Labels={"keep": "yes"})
    make(daemon, "busy")
    make(daemon, "idle")
    daemon.run("sleep", "1000", **on("busy"))

    def names(**filters: list[str]) -> list[str]:
        found = daemon.get("/networks", filters=json.dumps(filters)).json()
        return [one["Name"] for one in found]

    assert names(type=["custom"]) == ["busy", "idle", "kept"]
    assert names(type=["builtin"]) == ["bridge", "host", "none"]
    assert names(label=["keep=yes"]) == names(label=["keep"]) == ["kept"]
    assert names(dangling=["true"]) == ["idle", "kept"]
    assert names(dangling=["false"]) == ["bridge", "busy", "host", "none"]
    assert names(name=["d"], driver=["bridge"], scope=["local"]) == ["bridge", "idle"]
    kept = json.dumps({"label!": ["keep"]})
    assert daemon.post("/networks/prune", filters=kept).json() == {"NetworksDeleted": ["idle"]}
    assert names(type=["custom"]) == ["busy", "kept"]
    only = json.dumps({"type": ["network"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=only).body
    told = [json.loads(line) for line in past.splitlines()]
    assert [(one["Action"], one["Actor"]["Attributes"].get("name")) for one in told] == [
        ("create", "kept"), ("create", "busy"), ("create", "idle"), ("connect", "busy"),
        ("destroy", "idle"), ("prune", None),
    ]  # fmt: skip


def test_the_clients_command(networks: House) -> None:
    if not DOCKER:
        pytest.skip("no docker")
    daemon = networks.daemon

    def docker(*words: str) -> str:
        done = subprocess.run(
            [DOCKER, "-H", daemon.host, "network", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    key = docker("create", "--subnet", "10.88.0.0/24", "--label", "x=y", "mine").strip()
    assert len(key) == 64
    assert docker("ls", "-q", "--no-trunc", "--filter", "label=x").split() == [key]
    shown = json.loads(docker("inspect", "mine"))[0]
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.88.0.0/24", "Gateway": "10.88.0.1"}]
    assert docker("rm", "mine") == "mine\n"
    docker("create", "mine")
    assert docker("prune", "-f").split() == ["Deleted", "Networks:", "mine"]
