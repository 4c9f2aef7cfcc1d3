"""rtnetlink in network namespaces of our own: links and addresses, by what the kernel then has."""

from __future__ import annotations

import os
import socket
import struct
from errno import EEXIST, EINVAL, ENODEV, EPERM

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import namespaces, netlink
from sampan.kernel.netlink import Address
from sampan.kernel.nlmsg import NLM_F_CREATE, NLM_F_EXCL, attribute
from tests.kernel.forked import run_forked

pytestmark = pytest.mark.root

IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 18, 1, 2, 1


def new_network() -> int:
    """Enter a new network namespace; a descriptor of it."""
    namespaces.unshare(namespaces.CLONE_NEWNET)
    return namespaces.open_namespace("self", "network")


def make_veth(name: str, peer: str) -> None:
    """A veth pair: the only virtual link every kernel here has."""
    header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    other = header + attribute(netlink.IFLA_IFNAME, peer.encode() + b"\0")
    info = attribute(IFLA_INFO_KIND, b"veth")
    info += attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other))
    body = header + attribute(netlink.IFLA_IFNAME, name.encode() + b"\0")
    body += attribute(IFLA_LINKINFO, info)
    netlink.request(netlink.RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)


def names() -> set[str]:
    return {link.name for link in netlink.links()}


def test_lo_comes_up_and_answers() -> None:
    def body() -> None:
        new_network()
        assert not netlink.find_link("lo").up
        with socket.socket() as probe, pytest.raises(OSError, match="unreachable"):
            probe.connect(("127.0.0.1", 1))
        netlink.set_link_up("lo")
        assert netlink.find_link("lo").up
        found = {(each.address, each.prefix) for each in netlink.addresses("lo")}
        assert ("127.0.0.1", 8) in found
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
        netlink.set_link_up("lo", False)
        assert not netlink.find_link("lo").up

    run_forked(body)


def test_the_index_is_the_kernels() -> None:
    for link in netlink.links():
        assert socket.if_nametoindex(link.name) == link.index == netlink.link_index(link.name)


def test_a_link_is_renamed_and_its_mtu_set() -> None:
    def body() -> None:
        new_network()
        make_veth("one", "two")
        netlink.rename_link("one", "uno")
        netlink.set_link_mtu("uno", 1400)
        assert names() >= {"uno", "two"}
        assert netlink.find_link("uno").mtu == 1400
        with pytest.raises(KernelError, match="rtnetlink RTM_NEWLINK uno to two: EEXIST") as caught:
            netlink.rename_link("uno", "two")
        assert caught.value.errno == EEXIST
        netlink.delete_link("uno")
        assert not names() & {"uno", "two"}

    run_forked(body)


def test_a_link_moves_to_another_namespace_under_a_new_name() -> None:
    def body() -> None:
        target = new_network()
        make_veth("eth0", "other")  # takes the name there
        new_network()
        make_veth("one", "two")
        netlink.move_link("one", target, "net%d")
        netlink.move_link("two", target)
        assert not names() & {"one", "two"}
        namespaces.setns(target, namespaces.CLONE_NEWNET)
        assert names() >= {"net0", "two"}

    run_forked(body)


def test_a_name_that_is_taken_there_is_told() -> None:
    def body() -> None:
        target = new_network()
        make_veth("eth0", "eth1")
        new_network()
        make_veth("eth0", "two")
        with pytest.raises(KernelError, match=r"eth0 to another namespace as eth0 .*EEXIST"):
            netlink.move_link("eth0", target)
        assert "eth0" in names()
        with pytest.raises(KernelError, match="two to another namespace as eth1: EEXIST"):
            netlink.move_link("two", target, "eth1")
        # The kernel had moved it when it found the name taken.
        assert "two" not in names()
        namespaces.setns(target, namespaces.CLONE_NEWNET)
        assert "two" in names()

    run_forked(body)


def test_addresses_of_both_families_are_added_and_listed() -> None:
    def body() -> None:
        new_network()
        make_veth("one", "two")
        wanted = [
            Address("10.1.2.3", 24, broadcast="10.1.2.255", label="one:web"),
            Address("192.0.2.1", 32, peer="192.0.2.2"),
            Address("fd00::1", 64, flags=netlink.IFA_F_PERMANENT | netlink.IFA_F_NODAD),
            Address("169.254.1.1", 16, scope=netlink.RT_SCOPE_LINK),
        ]
        for address in wanted:
            netlink.add_address("one", address)
        found = {each.address: each for each in netlink.addresses("one")}
        assert found.keys() == {each.address for each in wanted}
        assert all(each.permanent for each in found.values())
        first = found["10.1.2.3"]
        assert (first.prefix, first.broadcast, first.label) == (24, "10.1.2.255", "one:web")
        assert found["192.0.2.1"].peer == "192.0.2.2"
        assert found["fd00::1"].prefix == 64
        assert found["fd00::1"].family == socket.AF_INET6
        assert found["169.254.1.1"].scope == netlink.RT_SCOPE_LINK
        assert netlink.addresses("two") == []
        with pytest.raises(KernelError, match=r"RTM_NEWADDR 10.1.2.3/24 on one .*EEXIST") as caught:
            netlink.add_address("one", wanted[0])
        assert caught.value.errno == EEXIST

    run_forked(body)


def test_addresses_read_can_be_given_to_another_link() -> None:
    """What linux.netDevices asks for: a link that moves keeps its addresses."""

    def body() -> None:
        target = new_network()
        new_network()
        make_veth("one", "two")
        for address in (Address("10.1.2.3", 24, label="one"), Address("fd00::1", 64)):
            netlink.add_address("one", address)
        kept = netlink.addresses("one")
        netlink.move_link("one", target, "eth7")
        namespaces.setns(target, namespaces.CLONE_NEWNET)
        for address in kept:
            netlink.add_address("eth7", address)
        moved = {(each.address, each.prefix) for each in netlink.addresses("eth7")}
        assert moved == {("10.1.2.3", 24), ("fd00::1", 64)}

    run_forked(body)


def test_many_links_are_all_listed() -> None:
    def body() -> None:
        new_network()
        for number in range(40):
            make_veth(f"a{number}", f"b{number}")
        assert len(names() - {"lo"}) >= 80

    run_forked(body)


def test_errors_name_the_link() -> None:
    with pytest.raises(KernelError, match="RTM_NEWLINK nothere up: ENODEV") as caught:
        netlink.set_link_up("nothere")
    assert caught.value.errno == ENODEV
    for name in ("", "a-name-of-16-chr", "a\0b"):
        with pytest.raises(InvalidArgument, match="link name"):
            netlink.link_index(name)
    with pytest.raises(InvalidArgument, match=r"10.1.2: not an address"):
        netlink.add_address("lo", Address("10.1.2", 24))

    def body() -> None:
        new_network()
        with pytest.raises(KernelError) as caught:
            netlink.add_address("lo", Address("10.0.0.1", 33))
        assert caught.value.errno == EINVAL
        os.setresuid(1000, 1000, 1000)
        with pytest.raises(KernelError, match="lo up: EPERM") as caught:
            netlink.set_link_up("lo")
        assert caught.value.errno == EPERM

    run_forked(body)
