"""Links on a parent (macvlan, ipvlan), in namespaces of our own; a kernel need not have them.

Where it has one the link must work, and where not the error must name the module; the lane's kernel
has them all.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sampan.errors import KernelError, Unavailable
from sampan.kernel import links, namespaces, netlink, netns
from sampan.kernel.nlmsg import Socket
from sampan.network import parents
from sampan.network.types import Endpoint, Network, Subnet, Wish
from sampan.runtime import plugs
from tests.kernel.forked import run_forked

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.v2]

IDENTITY = "00000000-1111-2222-3333-444444444444"


def network(kind: str, link: str, **more: str) -> Network:
    subnet = Subnet(subnet="10.9.0.0/24", gateway="10.9.0.1")
    one = Network(id="a1" * 32, name="net", driver=kind, subnets=(subnet,))
    return parents.begun(one) if not link else _with(parents.begun(one), link, more)


def _with(one: Network, link: str, more: dict[str, str]) -> Network:
    for name, value in {"parent": link, **more}.items():
        changed = parents.with_option(one, name, value)
        assert changed is not None
        one = changed
    return one


def endpoint(number: int) -> Endpoint:
    return Endpoint(
        id=f"{number:064x}",
        network="a1" * 32,
        container=f"c{number}",
        mac=f"02:42:0a:09:00:{number:02x}",
        ipv4=f"10.9.0.{number}/24",
        host=f"vsp{number:012x}",
        inside="eth0",
        wish=Wish(network="a1" * 32, name="net"),
    )


@contextmanager
def somewhere() -> Iterator[tuple[int, int]]:
    """A process in a network namespace of its own: (PID, namespace)."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid, netns_of(process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def netns_of(pid: int) -> int:
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def put(one: Network, each: Endpoint, pid: int, namespace: int) -> None:
    index, mtu = parents.bring_up(one, IDENTITY)
    plug = plugs.Plug.from_json(parents.plug(one, each, index, mtu))
    plugs.plug_into([plug], pid, namespace)


def reached(first: int, second: int, address: str) -> bool:
    """Whether somebody in namespace ``first`` reaches one in ``second`` by its address."""
    with netns.Inside(second):
        server = socket.create_server((address, 7))
    with netns.Inside(first):
        client = socket.socket()
    with server, client:
        client.settimeout(60)
        try:
            client.connect((address, 7))
        except OSError:
            return False
    return True


def start(*parents_there: str) -> None:
    namespaces.unshare(namespaces.CLONE_NEWNET)
    with Socket() as here:
        for name in parents_there:
            here.batch([links.new_veth(name, peer=f"{name}-far")])
            here.batch([links.set_link(one, up=True) for one in (name, f"{name}-far")])


KINDS = [
    ("macvlan", "wire", {}),
    ("ipvlan", "wire", {}),
    ("ipvlan", "wire", {"ipvlan_mode": "l3"}),
    ("ipvlan", "wire", {"ipvlan_mode": "l3s"}),
    ("macvlan", "wire.7", {}),
    ("ipvlan", "wire.8", {}),
    ("macvlan", "", {}),
]


@pytest.mark.parametrize(("kind", "link", "options"), KINDS)
def test_neighbours_on_a_parent_reach_one_another(
    kind: str, link: str, options: dict[str, str]
) -> None:
    def body() -> None:
        start("wire")
        one = network(kind, link, **options)
        before = {each.name for each in netlink.links()}
        try:
            parents.check(one, [])
            parents.bring_up(one, IDENTITY)
        except Unavailable as error:
            module = {"wire.7": "8021q", "wire.8": "8021q", "": "dummy"}.get(link, kind)
            if kind == "ipvlan" and "ipvlan" in error.message:
                module = "ipvlan"
            assert f"module {module};" in error.message, error.message
            assert {each.name for each in netlink.links()} == before
            return
        with somewhere() as (pid, first), somewhere() as (other, second):
            put(one, endpoint(2), pid, first)
            put(one, endpoint(3), other, second)
            assert reached(first, second, "10.9.0.3")
            with netns.Inside(first):
                routes = subprocess.run(
                    ["ip", "route", "show", "default"], capture_output=True, text=True, check=True
                ).stdout
            if not link:
                assert routes == ""
            elif options:
                assert "via" not in routes and "dev eth0" in routes
            else:
                assert "via 10.9.0.1 dev eth0" in routes
            parents.sweep(first, {endpoint(2).host})
            with netns.Inside(first):
                assert {each.name for each in netlink.links()} == {"lo", "eth0"}
            parents.sweep(first, set())
            with netns.Inside(first):
                assert {each.name for each in netlink.links()} == {"lo"}
            os.close(first)
            os.close(second)
        parents.remove(one, IDENTITY, [one])
        assert {each.name for each in netlink.links()} == before

    run_forked(body)


@pytest.mark.parametrize(
    ("kind", "mode"), [("macvlan", ""), ("macvlan", "passthru"), ("ipvlan", "")]
)
def test_what_an_earlier_run_still_has_is_waited_for(kind: str, mode: str) -> None:
    """A namespace's links go some time after its last process."""

    def body() -> None:
        start("wire")
        one = network(kind, "wire", **({f"{kind}_mode": mode} if mode else {}))
        try:
            parents.check(one, [])
        except Unavailable:
            return  # told above
        for _ in range(3):
            with somewhere() as (pid, namespace):
                put(one, endpoint(2), pid, namespace)
                os.close(namespace)

    run_forked(body)


def test_what_somebody_has_for_good_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> None:
        monkeypatch.setattr(plugs, "_PATIENCE", 0.05)
        start("wire")
        one = network("macvlan", "wire")
        with somewhere() as (pid, first), somewhere() as (other, second):
            put(one, endpoint(2), pid, first)
            with pytest.raises(KernelError) as caught:
                put(one, endpoint(2), other, second)
            assert caught.value.errno == errno.EADDRINUSE
            os.close(first)
            os.close(second)

    run_forked(body)


def test_a_parent_that_is_down_is_left_so() -> None:
    def body() -> None:
        start("wire")
        netlink.set_link_up("wire", False)
        with somewhere() as (pid, namespace):
            put(network("macvlan", "wire"), endpoint(2), pid, namespace)
            os.close(namespace)
        with pytest.raises(Unavailable) as refused:
            parents.bring_up(network("macvlan", "wire.7"), IDENTITY)
        assert "wire is down" in refused.value.message or "8021q" in refused.value.message
        assert {one.name for one in netlink.links()} == {"lo", "wire", "wire-far"}
        assert not netlink.find_link("wire").up

    run_forked(body)


def test_a_parent_that_two_networks_share_goes_with_the_second() -> None:
    def body() -> None:
        start("wire")
        one = network("macvlan", "wire.7")
        try:
            parents.bring_up(one, IDENTITY)
        except Unavailable:
            # A kernel without VLANs: any link will do, with our mark.
            with Socket() as here:
                here.batch([links.new_bridge("wire.7")])
                here.batch([links.set_link("wire.7", alias=f"sampan {IDENTITY} {one.id}")])
        second = Network(id="b2" * 32, name="two", driver="macvlan", link="wire.7")
        parents.remove(one, IDENTITY, [one, second])
        assert "wire.7" in {each.name for each in netlink.links()}
        parents.remove(second, IDENTITY, [second])
        assert "wire.7" not in {each.name for each in netlink.links()}

    run_forked(body)
