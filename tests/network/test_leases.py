"""Addresses in the rows: never two owners, whoever dies when."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, InvalidArgument, Unavailable
from sampan.network.leases import Leases
from sampan.network.store import NetworkStore
from sampan.network.types import Network, Subnet, Wish
from sampan.storage.database import Database

NETWORK = Network(
    id="a" * 64,
    name="net",
    link="sp-test",
    ipv6=True,
    subnets=(
        Subnet(subnet="10.1.0.0/28", gateway="10.1.0.1"),
        Subnet(subnet="fd00:1::/64", gateway="fd00:1::1"),
    ),
)
WISH = Wish(network=NETWORK.id, name="net")


def opened(path: Path) -> tuple[Database, Leases]:
    database = Database(str(path))
    store = NetworkStore(database)
    leases = Leases(store)
    if not store.networks():
        store.add_network(NETWORK)
    for network in store.networks():
        leases.open(network)
    leases.load()
    return database, leases


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Leases]:
    database, found = opened(tmp_path / "db")
    yield found
    database.close()


def test_an_endpoint_has_an_address_of_each_family_and_a_mac_of_them(leases: Leases) -> None:
    one = leases.add("one", NETWORK, WISH, 0)
    two = leases.add("two", NETWORK, WISH, 0)
    assert (one.ipv4, one.ipv6, one.mac) == ("10.1.0.2/28", "fd00:1::2/64", "02:42:0a:01:00:02")
    assert (two.ipv4, two.ipv6) == ("10.1.0.3/28", "fd00:1::3/64")
    assert one.host != two.host
    assert len(one.host) <= 15
    assert leases.of("one") == [one]
    assert {each.id for each in leases.on(NETWORK.id)} == {one.id, two.id}


def test_an_address_is_free_when_its_link_is_gone_and_not_before(leases: Leases) -> None:
    one = leases.add("one", NETWORK, WISH, 0)
    gone = leases.leave("one")
    assert leases.of("one") == []
    assert leases.add("two", NETWORK, WISH, 0).ipv4 == "10.1.0.3/28"
    leases.free(gone)
    assert leases.add("three", NETWORK, WISH, 0).ipv4 == one.ipv4


def test_the_next_run_takes_its_addresses_over(leases: Leases) -> None:
    one = leases.add("one", NETWORK, WISH, 0)
    gone = leases.leave("one")
    again = leases.add("one", NETWORK, WISH, 0)
    assert (again.ipv4, again.ipv6) == (one.ipv4, one.ipv6)
    assert again.host != one.host
    leases.free(gone)
    assert leases.add("two", NETWORK, WISH, 0).ipv4 == "10.1.0.3/28"


def test_a_next_run_that_asks_for_another_address_gives_the_old_one_back(leases: Leases) -> None:
    one = leases.add("one", NETWORK, WISH, 0)
    gone = leases.leave("one")
    wish = Wish(network=NETWORK.id, name="net", ipv4="10.1.0.9")
    again = leases.add("one", NETWORK, wish, 0)
    assert (again.ipv4, again.ipv6) == ("10.1.0.9/28", one.ipv6)
    assert leases.add("two", NETWORK, WISH, 0).ipv4 == one.ipv4
    leases.free(gone)
    assert leases.add("three", NETWORK, WISH, 0).ipv4 == "10.1.0.3/28"


def test_a_static_address_is_one_endpoints(leases: Leases) -> None:
    wish = Wish(network=NETWORK.id, name="net", ipv4="10.1.0.2", mac="02:00:00:00:00:01")
    assert leases.add("one", NETWORK, wish, 0).mac == "02:00:00:00:00:01"
    with pytest.raises(Conflict, match=r"Address already in use: 10.1.0.2"):
        leases.add("two", NETWORK, wish, 0)
    assert leases.add("two", NETWORK, WISH, 0).ipv6 == "fd00:1::3/64"
    with pytest.raises(InvalidArgument, match="no configured subnet"):
        leases.add("three", NETWORK, Wish(network=NETWORK.id, name="net", ipv4="10.2.0.1"), 0)


def test_an_exhausted_pool_is_told_and_costs_nothing(leases: Leases) -> None:
    for number in range(13):
        leases.add(str(number), NETWORK, WISH, 0)
    with pytest.raises(Unavailable, match=r"no available IPv4 addresses.*10.1.0.0/28"):
        leases.add("late", NETWORK, WISH, 0)
    leases.free(leases.leave("4"))
    found = leases.add("late", NETWORK, WISH, 0)
    assert (found.ipv4, found.ipv6) == ("10.1.0.6/28", "fd00:1::6/64")


def test_a_network_in_use_is_not_removed(tmp_path: Path) -> None:
    database, leases = opened(tmp_path / "db")
    store = NetworkStore(database)
    leases.add("one", NETWORK, WISH, 0)
    with pytest.raises(Conflict, match="has active endpoints"):
        store.remove_network(NETWORK.id)
    leases.free(leases.leave("one"))
    store.remove_network(NETWORK.id)
    assert store.networks() == []
    database.close()


def test_no_address_is_given_twice_by_processes_that_are_killed(tmp_path: Path) -> None:
    """Each child takes addresses and is killed in the midst of it; what it told of is kept."""
    told: set[str] = set()
    for generation in range(6):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            database, leases = opened(tmp_path / "db")
            for number in range(100):
                name = f"{generation}-{number}"
                if number % 3 == 2:
                    leases.free(leases.leave(f"{generation}-{number - 1}"))
                    os.write(write, f"-{name}\n".encode())
                    continue
                try:
                    found = leases.add(name, NETWORK, WISH, 0)
                except Unavailable:
                    break
                os.write(write, f"{found.ipv4}\n".encode())
            os._exit(0)
        os.close(write)
        with open(read, encoding="ascii") as pipe:
            lines = [pipe.readline() for _ in range(2)]
            os.kill(pid, signal.SIGKILL)
            lines += pipe.readlines()
        os.waitpid(pid, 0)
        database, leases = opened(tmp_path / "db")
        held = [endpoint.ipv4 for endpoint in leases.on(NETWORK.id)]
        assert len(held) == len(set(held))
        assert told <= set(held)
        told = set(held)
        database.close()
