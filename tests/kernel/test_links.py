"""Links, addresses, routes and neighbours as iproute2 then reads them, in namespaces of our own."""

from __future__ import annotations

import json
import os
import subprocess
from errno import EEXIST, ENODEV
from typing import Any

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import links, namespaces, netlink, netns, routes
from sampan.kernel.nlmsg import Socket
from tests.kernel.forked import run_forked

pytestmark = pytest.mark.root


def ip(*words: str) -> Any:
    found = subprocess.run(["ip", "-j", "-d", *words], capture_output=True, text=True, check=True)
    return json.loads(found.stdout or "[]")


def new_namespace() -> int:
    """A descriptor of a new one; this process stays where it is."""
    home = netns.own()
    namespaces.unshare(namespaces.CLONE_NEWNET)
    other = netns.own()
    namespaces.setns(home, namespaces.CLONE_NEWNET)
    os.close(home)
    return other


def start() -> Socket:
    namespaces.unshare(namespaces.CLONE_NEWNET)
    return Socket()


def test_a_pair_is_made_into_another_namespace_and_onto_a_bridge_in_one_message() -> None:
    def body() -> None:
        here = start()
        here.batch(
            [
                links.new_bridge("br", mtu=1400, mac="02:00:00:00:00:01", up=True),
                links.set_link("br", alias="ours"),
            ]
        )
        bridge = netlink.link_index("br")
        there = new_namespace()
        here.batch(
            [
                links.new_veth(
                    "host", peer="eth0", peer_netns_fd=there, peer_mac="02:42:0a:00:00:02",
                    mtu=1400, master=bridge, up=True,
                )
            ]
        )  # fmt: skip
        (host,) = ip("link", "show", "host")
        assert (host["master"], host["mtu"], "UP" in host["flags"]) == ("br", 1400, True)
        (state,) = [one for one in routes.link_states(here) if one.name == "br"]
        assert (state.kind, state.alias, state.mtu, state.up) == ("bridge", "ours", 1400, True)
        with netns.Inside(there), Socket() as inside:
            index = netlink.link_index("eth0")
            inside.batch(
                [
                    links.set_parameters(index, ipv4={"arp_notify": 1}, addresses_by_hand=True),
                    links.new_address(index, "10.0.0.2", 16),
                    links.new_address(index, "fd00:1::2", 64),
                    links.set_link(index, up=True),
                    links.new_route("", gateway="10.0.0.1"),
                    links.new_route("10.9.0.0/16", gateway="10.0.0.3", metric=7),
                    links.new_route("", gateway="fd00:1::1", link=index),
                    links.new_neighbour(index, "10.0.0.9", "02:00:00:00:00:09"),
                ]
            )
            (eth,) = ip("address", "show", "eth0")
            assert (eth["address"], eth["mtu"]) == ("02:42:0a:00:00:02", 1400)
            found = {(one["local"], one["prefixlen"], one["scope"]) for one in eth["addr_info"]}
            assert found == {("10.0.0.2", 16, "global"), ("fd00:1::2", 64, "global")}
            assert eth["addr_info"][0]["broadcast"] == "10.0.255.255"
            shown = {(one["dst"], one.get("gateway")) for one in ip("route")}
            assert shown == {
                ("default", "10.0.0.1"),
                ("10.0.0.0/16", None),
                ("10.9.0.0/16", "10.0.0.3"),
            }
            assert ("default", "fd00:1::1") in {
                (one["dst"], one.get("gateway")) for one in ip("-6", "route")
            }
            assert netns.read_parameter("net/ipv4/conf/eth0/arp_notify") == "1"
            mine = {(one.destination, one.gateway) for one in routes.routes(inside)}
            assert mine == {
                ("0.0.0.0/0", "10.0.0.1"),
                ("10.0.0.0/16", ""),
                ("10.9.0.0/16", "10.0.0.3"),
            }
            assert ip("neigh")[0]["lladdr"] == "02:00:00:00:00:09"
            inside.batch([links.delete_address(index, "fd00:1::2", 64)])
            assert len(ip("address", "show", "eth0")[0]["addr_info"]) == 1
        os.close(there)

    run_forked(body)


def test_a_pair_ends_with_the_namespace_of_its_peer() -> None:
    def body() -> None:
        here = start()
        there = new_namespace()
        here.batch([links.new_veth("host", peer="eth0", peer_netns_fd=there)])
        os.close(there)
        while any(link.name == "host" for link in netlink.links()):
            os.sched_yield()  # the kernel cleans namespaces up behind our back

    run_forked(body)


def test_a_batch_says_which_message_failed_and_why() -> None:
    def body() -> None:
        here = start()
        with pytest.raises(KernelError, match="RTM_NEWLINK bridge br") as caught:
            here.batch([links.new_bridge("br"), links.new_bridge("br"), links.new_bridge("next")])
        assert caught.value.errno == EEXIST
        assert netlink.link_index("next")
        with pytest.raises(KernelError, match="RTM_DELLINK nobody") as caught:
            here.batch([links.delete_link("nobody")])
        assert caught.value.errno == ENODEV
        here.batch([links.delete_link("nobody", ignore=(ENODEV,)), links.delete_link("br")])
        assert "br" not in {link.name for link in netlink.links()}

    run_forked(body)


def test_ports_are_isolated_and_leave_their_bridge() -> None:
    def body() -> None:
        here = start()
        here.batch([links.new_bridge("br"), links.new_veth("one", peer="two")])
        bridge = netlink.link_index("br")
        here.batch(
            [
                links.set_link("one", master=bridge),
                links.set_port("one", isolated=True, hairpin=True),
                links.set_parameters("br", ipv4={"route_localnet": 1, "rp_filter": 2}),
            ]
        )
        data = ip("link", "show", "one")[0]["linkinfo"]["info_slave_data"]
        assert data["isolated"] and data["hairpin"]
        assert netns.read_parameter("net/ipv4/conf/br/route_localnet") == "1"
        assert netns.read_parameter("net/ipv4/conf/br/rp_filter") == "2"
        here.batch([links.set_link("one", master=0, mac="02:00:00:00:00:07", mtu=1300)])
        (one,) = ip("link", "show", "one")
        assert "master" not in one
        assert (one["address"], one["mtu"]) == ("02:00:00:00:00:07", 1300)

    run_forked(body)


def test_a_macvlan_is_made_on_its_parent_in_another_namespace() -> None:
    def body() -> None:
        here = start()
        here.batch([links.new_veth("parent", peer="wire")])
        there = new_namespace()
        index = netlink.link_index("parent")
        here.batch(
            [
                links.new_macvlan(
                    "eth0", index, mode="bridge", netns_fd=there, mac="02:42:00:00:00:05"
                )
            ]
        )
        with netns.Inside(there):
            (eth,) = ip("link", "show", "eth0")
            assert eth["linkinfo"]["info_kind"] == "macvlan"
            assert eth["linkinfo"]["info_data"]["mode"] == "bridge"
            assert eth["address"] == "02:42:00:00:00:05"

    run_forked(body)


def test_kernel_parameters_are_those_of_the_namespace_one_is_in() -> None:
    def body() -> None:
        start().close()
        netns.write_parameter("net/ipv4/ip_forward", "0")
        there = new_namespace()
        with netns.Inside(there):
            netns.write_parameter("net/ipv4/ip_forward", "1")
            assert netns.read_parameter("net/ipv4/ip_forward") == "1"
        assert netns.read_parameter("net/ipv4/ip_forward") == "0"
        for wrong in ("kernel/hostname", "net/../kernel/hostname", "net//x"):
            with pytest.raises(InvalidArgument, match="not a parameter of a network"):
                netns.write_parameter(wrong, "1")

    run_forked(body)


@pytest.mark.parametrize("text", ["", "02:42", "02:42:ac:11:00:zz", "02:42:ac:11:00:02:03"])
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a MAC address"):
        links.mac_bytes(text)
