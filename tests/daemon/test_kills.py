"""SIGKILL of the daemon, its zygote and any monitor, at any moment of a mixed load.

The moments come from a seed, which a failure prints. Afterwards: what is dead left no mount,
cgroup, process, namespace, file or row; whose own monitor was killed is ended and reported so; all
others lived on. Nothing that the daemon acknowledged is lost: the long form of these tests is
``python -m bench.kills``, with ``--all`` for monitors and zygotes.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.daemon.kill_load import Load
from tests.daemon.killing import Killer
from tests.daemon.leftovers import Before
from tests.daemon_fixture import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    root = tmp_path / "d"
    root.mkdir()
    one = Daemon(root)
    try:
        yield one.start()
    finally:
        one.close()


def test_what_a_container_is_made_of_is_seen_while_it_is_there(own: Daemon) -> None:
    """Or the tests below could not fail."""
    before = Before(own)
    try:
        settings = {"Binds": ["/data"], "IpcMode": "shareable"}
        container = own.run("sleep", "600", HostConfig=settings)
        assert before.left({container}).keys() >= {
            "rows",
            "files of the data root",
            "files of the exec root",
            "cgroups",
            "mounts",
            "processes",
            "namespaces",
            "descriptors",
            "keyrings",
        }
        assert own.delete(f"/containers/{container}", force=1, v=1).status == 204
        assert before.wait({container}) == {}
    finally:
        before.close()


@pytest.mark.parametrize(
    ("what", "kills"), [(Killer.DAEMON, 12), (Killer.ALL, 24)], ids=["daemon", "anything"]
)
def test_kills_lose_nothing_but_whose_monitor_it_was(
    own: Daemon, what: tuple[str, ...], kills: int
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    moments = random.Random(seed)
    before = Before(own)
    try:
        load = Load(own, containers=10, tickers=3, seed=seed)
        killer = Killer(load, moments, what)
        load.start()
        for _ in range(kills):
            time.sleep(moments.uniform(0.02, 0.5))
            killer.strike()
        lines = load.finish()
        assert load.ledger.wrong == []
        assert lines > 100
        assert sum(load.ledger.lives.values()) > 10
        assert before.wait(load.ledger.ids) == {}
    finally:
        before.close()


@pytest.mark.parametrize("count", [30])
def test_a_daemon_is_ready_at_once_however_many_containers_it_finds(
    own: Daemon, count: int
) -> None:
    """A second for a hundred of them where nothing else runs; tests share their machine."""
    running = [own.run("sleep", "600") for _ in range(count)]
    own.kill()
    begin = time.monotonic()
    own.start()
    seconds = time.monotonic() - begin
    assert {item["Id"] for item in own.get("/containers/json").json()} == set(running)
    assert seconds < 5
