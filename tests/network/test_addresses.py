"""Subnets and addresses: which goes next, and what is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import Conflict, InvalidArgument, Unavailable
from sampan.network.addresses import (
    Block,
    choose_subnet,
    local_prefix,
    mac_of,
    overlap,
    parse,
)
from sampan.network.types import Pool, Subnet

POOLS = (Pool(base="10.0.0.0/22", size=24), Pool(base="10.9.0.0/24", size=24))


def nets(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [parse(text) for text in texts]


def test_the_first_part_that_nobody_has_is_next() -> None:
    assert str(choose_subnet(POOLS, [])) == "10.0.0.0/24"
    assert str(choose_subnet(POOLS, nets("10.0.0.128/25", "10.0.1.0/24"))) == "10.0.2.0/24"
    assert str(choose_subnet(POOLS, nets("10.0.0.0/16"))) == "10.9.0.0/24"
    with pytest.raises(Unavailable, match="fully subnetted"):
        choose_subnet(POOLS, nets("10.0.0.0/8"))


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(22, 32)), max_size=12))
def test_what_is_chosen_shares_nothing_with_what_is_taken(rows: list[tuple[int, int]]) -> None:
    base = int(ipaddress.IPv4Address("10.0.0.0"))
    taken = [
        ipaddress.ip_network(f"{ipaddress.IPv4Address(base + low)}/{length}", strict=False)
        for low, length in rows
    ]
    free = [
        part
        for part in ipaddress.ip_network("10.0.0.0/22").subnets(new_prefix=24)
        if not any(part.overlaps(one) for one in taken)
    ]
    try:
        found = choose_subnet(POOLS[:1], taken)
    except Unavailable:
        assert not free
    else:
        assert found == free[0]


def test_the_lowest_free_address_goes_first_and_comes_back() -> None:
    block = Block(
        Subnet(subnet="10.1.0.0/29", gateway="10.1.0.1", auxiliary={"router": "10.1.0.3"})
    )
    given_out = []
    for _ in range(4):
        offset = block.first_free()
        block.taken.add(offset)
        given_out.append(block.text(offset))
    assert given_out == ["10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    with pytest.raises(Unavailable, match=r"10.1.0.0/29 is used up"):
        block.first_free()
    block.give_back(block.offset("10.1.0.4"))
    assert block.text(block.first_free()) == "10.1.0.4"


def test_a_range_bounds_what_is_given_and_not_what_is_asked_for() -> None:
    block = Block(Subnet(subnet="10.1.0.0/16", ip_range="10.1.5.0/30", gateway="10.1.0.1"))
    assert block.text(block.first_free()) == "10.1.5.0"
    assert block.text(block.asked("10.1.200.7")) == "10.1.200.7"
    for number in range(4):
        block.taken.add(block.offset(f"10.1.5.{number}"))
    with pytest.raises(Unavailable, match=r"10.1.5.0/30 is used up"):
        block.first_free()
    block.give_back(block.offset("10.1.200.7"))
    with pytest.raises(Unavailable):
        block.first_free()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("10.2.0.1", InvalidArgument), ("fd00::1", InvalidArgument), ("ten", InvalidArgument),
        ("10.1.0.1", Conflict), ("10.1.0.0", Conflict), ("10.1.255.255", Conflict),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_asked_for(address: str, error: type[Exception]) -> None:
    block = Block(Subnet(subnet="10.1.0.0/16", gateway="10.1.0.1"))
    with pytest.raises(error):
        block.asked(address)


def test_subnets_of_two_addresses_and_of_many_are_numbered() -> None:
    pair = Block(Subnet(subnet="10.1.0.0/31", gateway="10.1.0.0"))
    assert pair.text(pair.first_free()) == "10.1.0.1"
    six = Block(Subnet(subnet="fd00:1::/64", gateway="fd00:1::1"))
    assert six.text(six.first_free()) == "fd00:1::2"


@pytest.mark.parametrize("text", ["10.1.0.1/16", "10.1.0.0/33", "ten/8", "10.1.0.0/16/2"])
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid subnet"):
        parse(text)


def test_overlap_is_of_one_family() -> None:
    assert overlap(parse("10.0.0.0/8"), nets("10.255.0.0/16")) == parse("10.255.0.0/16")
    assert overlap(parse("::/8"), nets("0.0.0.0/8")) is None


def test_an_engine_has_a_prefix_and_an_address_a_mac() -> None:
    prefix = ipaddress.ip_network(local_prefix("a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"))
    assert prefix.prefixlen == 48
    assert prefix.subnet_of(ipaddress.ip_network("fd00::/8"))  # type: ignore[arg-type]
    assert str(prefix) == "fda1:b2c3:d4e5::/48"
    assert mac_of("172.20.0.2") == "02:42:ac:14:00:02"
    assert mac_of("fd00::1:2") == "02:42:00:01:00:02"
