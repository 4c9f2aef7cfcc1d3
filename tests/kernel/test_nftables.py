"""nftables messages, with nft(8) as the oracle: what it lists is what was meant."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from errno import ENOENT
from typing import Any

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import namespaces, nft_rules, nftables
from sampan.kernel.nft_rules import Verdict
from tests.kernel.forked import run_forked

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

TABLE = "ours"


def isolated(body: Callable[[], object]) -> None:
    def inside() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        body()

    run_forked(inside)


def listed(kind: str) -> list[Any]:
    found = subprocess.run(
        ["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    return [one[kind] for one in json.loads(found.stdout)["nftables"] if kind in one]


def ruleset() -> str:
    found = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    return " ".join(found.stdout.split())


def chain(*rules: tuple[bytes, ...], hook: nftables.Hook | None = None) -> list[Any]:
    return [
        nftables.new_table("inet", TABLE),
        nftables.new_chain("inet", TABLE, "first", hook),
        *(nftables.new_rule("inet", TABLE, "first", *rule) for rule in rules),
    ]


def test_base_chains_sit_where_they_were_put() -> None:
    def body() -> None:
        nftables.commit(
            [
                nftables.new_table("inet", TABLE),
                nftables.new_chain(
                    "inet", TABLE, "raw", nftables.Hook("filter", "prerouting", -300)
                ),
                nftables.new_chain("inet", TABLE, "nat", nftables.Hook("nat", "output", -100)),
            ]
        )
        assert nftables.tables("inet") == {TABLE}
        found = {
            one["name"]: (one["type"], one["hook"], one["prio"], one["policy"])
            for one in listed("chain")
        }
        assert found == {
            "raw": ("filter", "prerouting", -300, "accept"),
            "nat": ("nat", "output", -100, "accept"),
        }

    isolated(body)


def test_rules_read_as_they_were_meant() -> None:
    def body() -> None:
        name = b"sampan0".ljust(16, b"\0")
        nftables.commit(
            chain(
                (nft_rules.load_meta("iifname"), nft_rules.compare(name), nft_rules.decide("drop")),
                (
                    nft_rules.load_meta("oifname"),
                    nft_rules.compare(name, unequal=True),
                    nft_rules.masquerade(),
                ),
                (
                    *nft_rules.ct_bits("state", nft_rules.ESTABLISHED | nft_rules.RELATED),
                    nft_rules.decide("accept"),
                ),
                (
                    *nft_rules.ct_bits("status", nft_rules.DESTINATION_TRANSLATED),
                    nft_rules.decide("accept"),
                ),
                (
                    nft_rules.load_meta("nfproto"),
                    nft_rules.compare(b"\x02"),
                    nft_rules.load_payload(nft_rules.NETWORK, 16, 1),
                    nft_rules.compare(b"\x7f"),
                    nft_rules.decide("drop"),
                ),
                (
                    nft_rules.load_fib_type(),
                    nft_rules.compare(nft_rules.local()),
                    nft_rules.reject(),
                ),
                hook=nftables.Hook("nat", "postrouting", 100),
            )[:-1]
            # reject is for the filter's hooks
        )
        text = ruleset()
        for rule in (
            'iifname "sampan0" drop',
            'oifname != "sampan0" masquerade',
            "ct state established,related accept",
            "ct status dnat accept",
            "ip daddr 127.0.0.0/8 drop",
        ):
            assert rule in text, text

    isolated(body)


def test_sets_and_maps_hold_their_elements() -> None:
    def body() -> None:
        address = socket.inet_aton
        elements: list[tuple[bytes, Any]] = [
            (
                nftables.pack_key(b"\x06", (8000 + number).to_bytes(2, "big")),
                nftables.pack_key(address(f"10.0.{number >> 8}.{number & 255}"), b"\0\x50"),
            )
            for number in range(1000)
        ]
        messages = [
            *chain((nft_rules.decide("accept"),)),
            nftables.new_set("inet", TABLE, "bridges", ["ifname"], number=1),
            nftables.new_set("inet", TABLE, "subnets", ["ipv4_addr"], interval=True, number=2),
            nftables.new_set("inet", TABLE, "to", ["ifname"], ["verdict"], number=3),
            nftables.new_set(
                "inet", TABLE, "ports", ["inet_proto", "inet_service"],
                ["ipv4_addr", "inet_service"], number=4,
            ),
            *nftables.add_elements("inet", TABLE, "bridges", [(b"br0".ljust(16, b"\0"), None)]),
            *nftables.add_elements(
                "inet", TABLE, "subnets", [(nftables.span(address("10.1.0.0"), 16), None)],
                interval=True,
            ),
            *nftables.add_elements(
                "inet", TABLE, "to", [(b"br0".ljust(16, b"\0"), Verdict("jump", "first"))]
            ),
            *nftables.add_elements("inet", TABLE, "ports", elements),
        ]  # fmt: skip
        nftables.commit(messages)
        found = {one["name"]: one for one in listed("set") + listed("map")}
        assert found["bridges"]["elem"] == ["br0"]
        assert found["subnets"]["elem"] == [{"prefix": {"addr": "10.1.0.0", "len": 16}}]
        assert found["to"]["elem"] == [["br0", {"jump": {"target": "first"}}]]
        ports = {
            tuple(key["concat"]): tuple(value["concat"]) for key, value in found["ports"]["elem"]
        }
        assert len(ports) == 1000
        assert ports["tcp", 8257] == ("10.0.1.1", 80)
        nftables.commit(nftables.delete_elements("inet", TABLE, "ports", elements[:999]))
        found = {one["name"]: one for one in listed("map")}
        assert len(found["ports"]["elem"]) == 1

    isolated(body)


def test_what_is_looked_up_decides() -> None:
    def body() -> None:
        key = (
            nft_rules.load_meta("l4proto", 8),
            nft_rules.load_payload(nft_rules.TRANSPORT, 2, 2, 9),
        )
        nftables.commit(
            [
                nftables.new_table("inet", TABLE),
                nftables.new_chain("inet", TABLE, "first", nftables.Hook("nat", "output", -100)),
                nftables.new_set(
                    "inet", TABLE, "ports", ["inet_proto", "inet_service"],
                    ["ipv4_addr", "inet_service"],
                ),
                nftables.new_rule(
                    "inet", TABLE, "first",
                    nft_rules.load_meta("nfproto"), nft_rules.compare(b"\x02"),
                    *key, nft_rules.lookup("ports", register=8, into=8), nft_rules.nat(2, 8, 9),
                ),
                *nftables.add_elements(
                    "inet", TABLE, "ports",
                    [(nftables.pack_key(b"\x06", b"\x1f\x90"),
                      nftables.pack_key(socket.inet_aton("127.0.0.1"), b"\x1f\x91"))],
                ),
            ]
        )  # fmt: skip
        assert "dnat ip to meta l4proto . th dport map @ports" in ruleset()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with socket.create_server(("127.0.0.1", 8081)):
            socket.create_connection(("127.0.0.1", 8080), 5).close()

    isolated(body)


def test_a_transaction_is_all_or_nothing() -> None:
    def body() -> None:
        nftables.commit(chain((nft_rules.decide("accept"),)))
        before = ruleset()
        with pytest.raises(KernelError, match="nftables NEWRULE ours missing") as caught:
            nftables.commit(
                [
                    nftables.delete_table("inet", TABLE),
                    nftables.new_table("inet", TABLE),
                    nftables.new_rule("inet", TABLE, "missing", nft_rules.decide("drop")),
                ]
            )
        assert caught.value.errno == ENOENT
        assert ruleset() == before
        nftables.commit([nftables.delete_table("inet", TABLE)])
        assert nftables.tables("inet") == set()

    isolated(body)


def test_a_subnet_at_the_end_of_the_addresses_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="end of the address space"):
        nftables.span(b"\xff\xff\0\0", 16)
