"""Links of the default network with ``--icc=false``: they open the ports that are linked to."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.network.house import DEFAULT, address
from tests.network.test_matrix import PROBE, SERVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.daemon_fixture import Daemon
    from tests.network.house import House

pytestmark = pytest.mark.root

SERVERS = ("python3", "-c", SERVE, "7", "9")
EXPOSED: dict[str, dict[str, str]] = {"7/tcp": {}, "8/udp": {}}


def serve(daemon: Daemon, name: str, *links: str) -> str:
    host = {**DEFAULT, "Links": list(links)}
    container = daemon.run(*SERVERS, name=name, HostConfig=host, ExposedPorts=EXPOSED)
    daemon.wait_for(lambda: "listening" in daemon.logs(container), 60)
    return container


def check(daemon: Daemon, expected: Mapping[tuple[str, str, int], bool]) -> None:
    """(who, whom, port): whether it is reached, and as who asks. All at the same time."""
    where = {name: address(daemon, name) for who, whom, _ in expected for name in (who, whom)}

    def reached(who: str) -> dict[tuple[str, str, int], bool]:
        rows = {row: answers for row, answers in expected.items() if row[0] == who}
        # What is to answer may take its time.
        asked = [(where[whom], port, 60 if rows[_, whom, port] else 1) for _, whom, port in rows]
        pid = str(daemon.state(who)["Pid"])
        done = subprocess.run(
            ["nsenter", "-t", pid, "-n", "python3", "-c", PROBE, json.dumps(asked)],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        seen = json.loads(done.stdout)
        assert set(seen.values()) <= {"", where[who]}
        return {row: bool(seen[f"{where[row[1]]} {row[2]}"]) for row in rows}

    with ThreadPoolExecutor(8) as pool:
        found = {}
        for rows in pool.map(reached, {who for who, _, _ in expected}):
            found.update(rows)
    assert found == expected


def test_a_link_opens_what_is_exposed_and_only_that(own_house: House) -> None:
    house, daemon = own_house, own_house.daemon
    daemon.options = ("--icc=false",)
    daemon.start()
    serve(daemon, "db")
    serve(daemon, "web", "db:base")
    serve(daemon, "other")
    usual = {
        ("web", "db", 7): True, ("web", "db", 9): False, ("db", "web", 7): False,
        ("other", "db", 7): False, ("web", "other", 7): False,
    }  # fmt: skip
    check(daemon, usual)
    # With the other one's next run it leads there, and no more to who has its address now.
    before = address(daemon, "db")
    assert daemon.post("/containers/db/stop", t=0).status == 204
    daemon.wait_for(lambda: before not in house.leases())
    serve(daemon, "between")
    assert daemon.post("/containers/db/start").status == 204
    assert address(daemon, "between") == before != address(daemon, "db")
    daemon.wait_for(lambda: daemon.logs("db").count("listening") == 2, 60)
    check(daemon, {**usual, ("web", "between", 7): False})
    # Somebody deletes the rules and the bridge; a daemon dies.
    house.run("nft", "flush", "ruleset")
    daemon.wait_for(lambda: "linked4" in house.run("nft", "list", "ruleset").stdout)
    some = {("web", "db", 7): True, ("other", "db", 7): False}
    check(daemon, some)
    house.run("ip", "link", "delete", "sampan0")
    daemon.kill()
    daemon.start()
    check(daemon, some)
    # It goes with the link, and with who has it.
    assert daemon.docker("rm", "--link", "web/base").returncode == 0
    serve(daemon, "again", "db")
    check(daemon, {("web", "db", 7): False, ("again", "db", 7): True})
    there = address(daemon, "again")
    daemon.delete("/containers/again", force=1)
    daemon.wait_for(lambda: there not in house.leases())
    serve(daemon, "heir")
    assert address(daemon, "heir") == there
    check(daemon, {("heir", "db", 7): False})
    assert "linked4 {" in house.run("nft", "list", "ruleset").stdout


def test_without_rules_of_ours_they_are_refused(own_house: House) -> None:
    daemon = own_house.daemon
    daemon.options = ("--icc=false", "--firewall=none")
    daemon.start()
    daemon.create("true", name="db", HostConfig=DEFAULT)
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": {**DEFAULT, "Links": ["db"]}}
    answer = daemon.post("/containers/create", body)
    assert (answer.status, "--firewall none" in answer.message) == (501, True), answer.body
