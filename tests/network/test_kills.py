"""A daemon killed in the midst of starts and ends: no link, address or rule is left or doubled."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.daemon.killing import Killer
from tests.daemon.leftovers import Before
from tests.daemon_fixture import Daemon
from tests.network.house import DEFAULT, House, address
from tests.network.kill_load import NetworkLoad

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root

ROUNDS = 6
ACTS = 20


def churn(daemon: Daemon, ending: threading.Event) -> None:
    """Start, restart and remove until the daemon is gone."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        while not ending.is_set():
            host = {**DEFAULT, "PublishAllPorts": True}
            body = {"Image": "host", "Cmd": ["sleep", "1000"], "HostConfig": host}
            body |= {"ExposedPorts": {"7/tcp": {}}}
            container = daemon.request("POST", "/containers/create", body, judge=False).json()["Id"]
            daemon.request("POST", f"/containers/{container}/start", judge=False)
            daemon.request("POST", f"/containers/{container}/restart?t=0", judge=False)
            if random.random() < 0.7:
                daemon.request("DELETE", f"/containers/{container}?force=1", judge=False)


def killed_amid(daemon: Daemon, work: list[tuple[Callable[..., None], object]]) -> None:
    """Kill the daemon at some moment of ``work``, each on a thread and told of the end, and start
    the next."""
    ending = threading.Event()
    threads = [threading.Thread(target=act, args=(on, ending)) for act, on in work]
    for thread in threads:
        thread.start()
    time.sleep(random.uniform(0.05, 0.5))
    daemon.kill()
    ending.set()
    for thread in threads:
        thread.join()
    daemon.start()


def test_nothing_is_left_or_doubled_by_a_daemon_that_is_killed(own_house: House) -> None:
    daemon = own_house.daemon.start()
    for _ in range(ROUNDS):
        killed_amid(daemon, [(churn, daemon)] * 3)

        def agree() -> bool:
            """Rows, links, published ports and what runs tell of the same."""
            listed = daemon.get("/containers/json").json()
            running = [one["Id"] for one in listed]
            public = {port["PublicPort"] for one in listed for port in one["Ports"]}
            rules = own_house.run("nft", "list", "ruleset").stdout
            elements = re.findall(r"tcp \. (\d+) : 172", rules)
            found = [address(daemon, one) for one in running]
            assert len(set(found)) == len(found)
            return (
                own_house.leases() == set(found)
                and len(own_house.plugs()) == len(found) == len(public)
                and sorted(map(int, elements)) == sorted(public)
            )

        daemon.wait_for(agree)
    daemon.remove_all()
    daemon.wait_for(lambda: not own_house.plugs() and not own_house.leases())
    assert daemon.stop() == 0
    assert own_house.links() == {}
    assert own_house.tables() == []


def test_a_kill_in_the_midst_of_connecting_leaves_no_half(own_house: House) -> None:
    daemon = own_house.daemon.start()
    for name in ("one", "two"):
        assert daemon.post("/networks/create", {"Name": name}).status == 201
    host = {"NetworkMode": "one"}
    containers = [daemon.run("sleep", "1000", HostConfig=host) for _ in range(3)]

    def shuffle(container: str, ending: threading.Event) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while not ending.is_set():
                action = random.choice(("connect", "disconnect"))
                network = random.choice(("one", "two"))
                path = f"/networks/{network}/{action}"
                daemon.request("POST", path, {"Container": container}, judge=False)

    def agree() -> bool:
        told = set()
        for container in containers:
            shown = daemon.get(f"/containers/{container}/json").json()["NetworkSettings"]
            told |= {one["IPAddress"] for one in shown["Networks"].values()}
            assert all(one["EndpointID"] for one in shown["Networks"].values())
        return own_house.leases() == told and len(own_house.plugs()) == len(told)

    for _ in range(ROUNDS):
        killed_amid(daemon, [(shuffle, one) for one in containers])
        daemon.wait_for(agree)
    daemon.remove_all()
    assert daemon.post("/networks/prune").status == 200
    assert daemon.stop() == 0
    assert own_house.links() == {}
    assert own_house.tables() == []


def test_kills_amid_connects_starts_and_kills_leave_nothing_and_lose_nothing(
    own_house: House,
) -> None:
    """The long form is ``python -m bench.kills --networks``."""
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    moments = random.Random(seed)
    daemon = own_house.daemon.start()
    places = NetworkLoad.prepare(own_house)
    before = Before(daemon)
    try:
        load = NetworkLoad(own_house, places, containers=4, seed=seed)
        killer = Killer(load, moments)
        load.start()
        while sum(load.ledger.acts.values()) < ACTS or len(killer.ready) < 4:
            time.sleep(moments.uniform(0.02, 0.5))
            killer.strike()
        load.finish()
        assert load.ledger.wrong == []
        assert before.wait(load.ledger.ids) == {}
        assert load.settle() == []
    finally:
        before.close()
