"""Flows that the kernel tracks, with its own table in /proc as the oracle."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

from sampan.kernel import conntrack, namespaces, netlink
from tests.kernel.forked import run_forked

TABLE = "/proc/self/net/nf_conntrack"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
    pytest.mark.skipif(not os.path.exists(TABLE), reason="this kernel shows no flows in /proc"),
]


def table() -> list[str]:
    with open(TABLE, encoding="ascii") as file:
        return [line for line in file if " udp " in line]


def send(family: int, host: str, *ports: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.bind((host, 4000))
        for port in ports:
            one.sendto(b"x", (host, port))


def test_flows_are_found_and_forgotten() -> None:
    def body() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        netlink.set_loopback_up()
        rules = (
            "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }"
        )
        subprocess.run(["nft", rules], check=True)
        families = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
        with conntrack.open_socket() as wire:
            for family, host in families:
                packed = socket.inet_pton(family, host)
                send(family, host, 53, 5353)
                found = conntrack.flows(wire, family, socket.IPPROTO_UDP)
                assert {(*one.original, *one.reply) for one in found} == {
                    (packed, 4000, packed, port, packed, port, packed, 4000) for port in (53, 5353)
                }
                assert conntrack.flows(wire, family, socket.IPPROTO_TCP) == []
                gone = [one for one in found if one.original.target_port == 53]
                conntrack.forget(wire, gone)
                conntrack.forget(wire, gone)  # whoever was faster
            left = table()
        assert len(left) == 2, left
        assert all("sport=4000 dport=5353" in line for line in left)

    run_forked(body)
