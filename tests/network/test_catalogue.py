"""Which networks there are, while threads make and remove them."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from sampan.errors import NotFound
from sampan.network.networks import Networks
from sampan.network.types import Network, Options
from sampan.storage.database import Database

IDENTITY = "00000000-0000-4000-8000-000000000001"


def test_a_look_at_the_networks_is_whole_whoever_comes_and_goes(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "db"))
    networks = Networks(
        database, IDENTITY, str(tmp_path), Options(bridge="none", firewall="none"), 1
    )
    several = [Network(id=f"{n:064d}", name=f"net{n}", config_only=True) for n in range(30)]
    for network in several:
        networks.create(network)
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for network in several:
                networks.withdraw(network)
                networks.restore(network)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            with pytest.raises(NotFound):
                networks.find("none such")
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)
        database.close()


def test_one_that_is_being_removed_has_no_rules(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "db"))
    networks = Networks(database, IDENTITY, str(tmp_path), Options(bridge="none"), 1)
    network = Network(id="a" * 64, name="net", config_only=True)
    networks.create(network)
    networks._up[network.id] = (1, 1500)
    before = networks.has_rules
    networks.withdraw(network)
    assert (before, networks.has_rules) == (True, False)
    database.close()
