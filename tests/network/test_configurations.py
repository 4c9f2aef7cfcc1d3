"""Configuration networks: nobody is on them, and others are like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.network.house import DEFAULT
from tests.network.test_user_networks import endpoint, make, networks, on, subnet

if TYPE_CHECKING:
    from tests.network.house import House

pytestmark = pytest.mark.root

__all__ = ["networks"]

BRIDGE = "com.docker.network.bridge.name"


def test_a_network_is_like_its_configuration(networks: House) -> None:
    daemon = networks.daemon
    made = daemon.docker(
        *"network create --config-only --subnet 10.88.0.0/24 --ip-range 10.88.0.64/26".split(),
        *f"--label a=b -o {BRIDGE}=like0 plan".split(),
    )
    assert made.returncode == 0, made.stderr
    plan = daemon.get("/networks/plan").json()
    assert (plan["ConfigOnly"], plan["Driver"], plan["Scope"]) == (True, "null", "local")
    config = [{"Subnet": "10.88.0.0/24", "IPRange": "10.88.0.64/26"}]
    assert plan["IPAM"]["Config"] == config
    made = daemon.docker("network", "create", "--config-from", "plan", "mine")
    assert made.returncode == 0, made.stderr
    shown = daemon.get("/networks/mine").json()
    assert (shown["ConfigFrom"], shown["ConfigOnly"]) == ({"Network": "plan"}, False)
    assert shown["IPAM"]["Config"] == [{**config[0], "Gateway": "10.88.0.1"}]
    assert (shown["Labels"], shown["Options"]) == ({"a": "b"}, {BRIDGE: "like0"})
    container = daemon.run("sleep", "1000", **on("mine"))
    assert endpoint(daemon, container, "mine")["IPAddress"] == "10.88.0.64"
    assert "like0" in networks.links()
    # It outlives a daemon, and goes only when nobody is like it; no prune takes it.
    daemon.kill()
    daemon.start()
    answer = daemon.delete("/networks/plan")
    assert (answer.status, "is in use by mine" in answer.message) == (403, True), answer.body
    daemon.remove_all()
    assert daemon.post("/networks/prune").json()["NetworksDeleted"] == ["mine"]
    assert daemon.delete("/networks/plan").status == 204


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"ConfigOnly": True, "Internal": True}, 403, "neither internal nor attachable"),
        ({"ConfigOnly": True, "ConfigFrom": {"Network": "plan"}}, 403, "nor like another"),
        ({"ConfigFrom": {"Network": "bridge"}}, 404, '"bridge" does not exist'),
        ({"ConfigFrom": {"Network": "plan"}, "IPAM": subnet("10.9.0.0/24")}, 403,
         "user specified configurations are not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    networks: House, more: dict[str, Any], status: int, words: str
) -> None:
    daemon = networks.daemon
    make(daemon, "plan", ConfigOnly=True)
    try:
        answer = daemon.post("/networks/create", {"Name": "mine", **more})
        assert (answer.status, words in answer.message) == (status, True), answer.body
    finally:
        daemon.delete("/networks/plan")


def test_nobody_is_on_one(networks: House) -> None:
    daemon = networks.daemon
    make(daemon, "plan", ConfigOnly=True)
    container = daemon.create("true", HostConfig=DEFAULT)
    body = {"Image": "host", "Cmd": ["true"], **on("plan")}
    for answer in (
        daemon.post("/containers/create", body),
        daemon.post("/networks/plan/connect", {"Container": container}),
    ):
        assert answer.status == 403, answer.body
        assert "configuration-only network" in answer.message
    assert daemon.delete("/networks/plan").status == 204
