"""Links: a container knows others by names of its own, on the default network and on users'."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import DEFAULT, address
from tests.network.test_names import find
from tests.network.test_user_networks import make, networks, on

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon
    from tests.network.house import House

__all__ = ["networks"]

pytestmark = pytest.mark.root

SLEEP = ("sleep", "1000")


def linked(*links: str, **more: Any) -> dict[str, Any]:
    return {"HostConfig": {**DEFAULT, **more, "Links": list(links)}}


def hosts(daemon: Daemon, container: str) -> list[list[str]]:
    """The lines of what runs, without those that everybody has."""
    with open(f"/proc/{daemon.state(container)['Pid']}/root/etc/hosts", encoding="utf-8") as file:
        words = [line.split() for line in file]
    return [line for line in words if line[0][0].isdecimal() and line[0] != "127.0.0.1"]


def variables(daemon: Daemon, container: str) -> dict[str, str]:
    with open(f"/proc/{daemon.state(container)['Pid']}/environ", encoding="utf-8") as file:
        return dict(item.split("=", 1) for item in file.read().split("\0") if item)


def links_of(daemon: Daemon, container: str) -> Any:
    return daemon.get(f"/containers/{container}/json").json()["HostConfig"]["Links"]


def test_on_the_default_network_it_has_lines_and_variables(house: House) -> None:
    daemon = house.daemon
    exposed: dict[str, dict[str, str]] = {
        "80/tcp": {},
        "81/tcp": {},
        "82/tcp": {},
        "53/udp": {},
        "53/tcp": {},
    }
    web = daemon.run(
        *SLEEP, name="web", HostConfig=DEFAULT, Hostname="webhost", ExposedPorts=exposed,
        Env=["FOO=b r", "PATH=/bin:/usr/bin", "HOME=/x", "EMPTY"],
    )  # fmt: skip
    me = daemon.run(*SLEEP, name="me", **linked("web:al-ias", f"{web[:12]}:web"), Env=["OWN=1"])
    there = address(daemon, web)
    assert hosts(daemon, me)[:2] == [
        [there, "al-ias", "webhost", "web"], [there, "web", "webhost"],
    ]  # fmt: skip
    found = variables(daemon, me)
    assert found["OWN"] == "1"
    assert {name: value for name, value in found.items() if name.startswith("AL_IAS")} == {
        "AL_IAS_PORT": f"tcp://{there}:53",
        "AL_IAS_NAME": "/me/al-ias",
        "AL_IAS_ENV_FOO": "b r",
        "AL_IAS_PORT_80_TCP_START": f"tcp://{there}:80",
        "AL_IAS_PORT_80_TCP_PORT_START": "80",
        "AL_IAS_PORT_80_TCP_END": f"tcp://{there}:82",
        "AL_IAS_PORT_80_TCP_PORT_END": "82",
        **{
            name: value
            for port, kind in ((80, "tcp"), (81, "tcp"), (82, "tcp"), (53, "udp"), (53, "tcp"))
            for prefix in [f"AL_IAS_PORT_{port}_{kind.upper()}"]
            for name, value in {
                prefix: f"{kind}://{there}:{port}",
                f"{prefix}_ADDR": there,
                f"{prefix}_PORT": str(port),
                f"{prefix}_PROTO": kind,
            }.items()
        },
    }
    assert found["WEB_NAME"] == "/me/web"
    # Shown as Docker does, and found by these names.
    assert links_of(daemon, me) == ["/web:/me/al-ias", "/web:/me/web"]
    assert daemon.get("/containers/me/al-ias/json").json()["Id"] == web
    (shown,) = (one for one in daemon.get("/containers/json").json() if one["Id"] == web)
    assert sorted(shown["Names"]) == ["/me/al-ias", "/me/web", "/web"]
    # The other one's next run has another address.
    daemon.post(f"/containers/{web}/stop", t=0)
    house.daemon.wait_for(lambda: there not in house.leases())
    daemon.run(*SLEEP, name="between", HostConfig=DEFAULT)
    daemon.post(f"/containers/{web}/start")
    now = address(daemon, web)
    assert now != there
    assert hosts(daemon, me)[:2] == [[now, "al-ias", "webhost", "web"], [now, "web", "webhost"]]
    made = daemon.docker("exec", "me", "printenv", "AL_IAS_PORT_80_TCP_ADDR")
    assert made.stdout.strip() == now
    # A daemon that died before it had told of the new address: the next one tells.
    path = daemon.get(f"/containers/{me}/json").json()["HostsPath"]
    daemon.kill()
    with open(path, encoding="utf-8") as file:
        stale = file.read().replace(now, there)
    with open(path, "w", encoding="utf-8") as file:
        file.write(stale)
    daemon.start()
    assert hosts(daemon, me)[:2] == [[now, "al-ias", "webhost", "web"], [now, "web", "webhost"]]
    # A link is removed by its name, a daemon later too.
    assert daemon.delete("/containers/me/nobody", link=1).status == 404
    assert daemon.docker("rm", "--link", "me/al-ias").returncode == 0
    assert hosts(daemon, me)[0] == [now, "web", "webhost"]
    daemon.post("/containers/me/rename", name="other")
    assert links_of(daemon, me) == ["/web:/other/web"]
    # Whom it is linked to is to run first; a link to who is gone is none.
    for one in (web, me):
        daemon.post(f"/containers/{one}/stop", t=0)
    refused = daemon.post(f"/containers/{me}/start")
    words = "Cannot link to a non running container: /web AS /other/web"
    assert (refused.status, words in refused.message) == (500, True)
    assert daemon.delete(f"/containers/{web}").status == 204
    assert links_of(daemon, me) is None
    assert daemon.post(f"/containers/{me}/start").status == 204


def test_a_link_that_cannot_be_is_refused(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    daemon.create("true", name="web", HostConfig=DEFAULT)
    daemon.create("true", name="shared", HostConfig={"NetworkMode": "host"})
    member = daemon.run(*SLEEP, name="member", **on("mine"))
    for host, status, words in (
        ({"Links": ["nobody:x"]}, 400, "could not get container for nobody"),
        ({"Links": ["web:a:b"]}, 400, "bad format for links: 'web:a:b'"),
        ({"Links": ["web:a b"]}, 400, "bad format for links"),
        ({"Links": ["web"], "NetworkMode": "host"}, 400, "host type networking"),
        ({"Links": ["web"], "NetworkMode": "container:web"}, 400, "container type network"),
        ({"Links": ["shared"]}, 400, "host type networking"),
    ):
        body = {"Image": "host", "Cmd": ["true"], "HostConfig": {**DEFAULT, **host}}
        answer = daemon.post("/containers/create", body)
        assert (answer.status, words in answer.message) == (status, True), answer.body
    apart = daemon.create("true", **linked("member:it"))
    answer = daemon.post(f"/containers/{apart}/start")
    words = "Cannot link to /member, as it does not belong to the default network"
    assert (answer.status, words in answer.message) == (500, True), answer.body
    endpoint = {"Container": member, "EndpointConfig": {"Links": ["web:x"]}}
    answer = daemon.post("/networks/bridge/connect", endpoint)
    assert (answer.status, "HostConfig.Links" in answer.message) == (400, True), answer.body
    # Without a network they lead nowhere, as in Docker, and are shown.
    none = daemon.run("cat", "/etc/hosts", name="alone", **linked("web:x", NetworkMode="none"))
    assert daemon.wait(none) == 0
    assert "x" not in daemon.logs(none).split()
    assert links_of(daemon, none) == ["/web:/alone/x"]


def test_on_a_network_of_its_own_the_resolver_knows_them(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "mine")
    make(daemon, "second")
    settings = {"mine": {"Links": ["web:bee", "later:late"]}}
    config = on("mine", **settings["mine"])
    config["HostConfig"]["Links"] = ["web:bee", "later:late"]  # the real client sends both
    me = daemon.run(*SLEEP, name="me", **config)
    assert links_of(daemon, me) is None
    shown = daemon.get(f"/containers/{me}/json").json()["NetworkSettings"]["Networks"]["mine"]
    assert shown["Links"] == ["web:bee", "later:late"]
    web = daemon.run(*SLEEP, name="web", **on("mine"))

    def at(container: str, network: str) -> str:
        settings = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
        return str(settings["Networks"][network]["IPAddress"])

    assert find(daemon, me, "bee") == find(daemon, me, "BEE.mine") == at(web, "mine")
    assert find(daemon, web, "bee") == ""
    assert find(daemon, me, "late") == ""
    later = daemon.run(*SLEEP, name="later", **on("mine"))
    assert find(daemon, me, "late") == at(later, "mine")
    # As it runs, and for that network only.
    other = daemon.run(*SLEEP, name="other", **on("second"))
    body = {"Container": me, "EndpointConfig": {"Links": ["other:bee2", "web:no"]}}
    assert daemon.post("/networks/second/connect", body).status == 200
    assert find(daemon, me, "bee2") == at(other, "second")
    assert find(daemon, me, "no") == ""
    assert find(daemon, me, "bee") == at(web, "mine")


def test_whom_others_are_linked_to_is_started_again_first(house: House) -> None:
    """Both ended while there was no daemon, and their policies start them with the next one."""
    daemon = house.daemon
    policy = {"RestartPolicy": {"Name": "always"}}
    both = [
        daemon.run(*SLEEP, name="web", HostConfig={**DEFAULT, **policy}),
        daemon.run(*SLEEP, name="me", **linked("web:other", **policy)),
    ]
    before = [daemon.state(one)["Pid"] for one in both]
    daemon.kill()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    daemon.start()

    def again() -> bool:
        states = [daemon.state(one) for one in both]
        return all(state["Status"] == "running" and state["Pid"] not in before for state in states)

    daemon.wait_for(again)
    assert [address(daemon, "web"), "other"] in [line[:2] for line in hosts(daemon, both[1])]
