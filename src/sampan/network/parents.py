"""The ``macvlan`` and ``ipvlan`` drivers: containers' links on a link of the machine's, the parent.

After ip-link(8) and the kernel's Documentation/networking/ipvlan.rst. No bridge, no rules and no
translation: a container is a neighbour of the machine's own neighbours, and does not reach the
machine by this way. A parent ``eth0.10`` that is not there is made (VLAN 10 of eth0, IEEE 802.1Q),
and without a parent a dummy link is, that leads nowhere. What we made has our mark (``bridge``).
"""

from __future__ import annotations

import ipaddress
from errno import ENETDOWN, ENODEV, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument, KernelError, PermissionDenied, Unavailable
from sampan.kernel import links, routes
from sampan.kernel.netns import Inside
from sampan.kernel.nlmsg import Socket
from sampan.network.bridge import alias
from sampan.network.host import index_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sampan.kernel.nlmsg import Message
    from sampan.network.types import Endpoint, Network

__all__ = [
    "EVERYWHERE",
    "KINDS",
    "begun",
    "bring_up",
    "check",
    "gateways",
    "plug",
    "remove",
    "sweep",
    "with_option",
]

KINDS = ("macvlan", "ipvlan")
_MODES = {"macvlan": tuple(links.MACVLAN_MODES), "ipvlan": tuple(links.IPVLAN_MODES)}
_USUAL = {"macvlan": "bridge", "ipvlan": "l2"}
_MODULES = {"vlan": "8021q"}
_VLANS = range(1, 4095)
_PREFIX = "vsp"  # of our mark on a container's link: bridge.host_name
EVERYWHERE = {4: "0.0.0.0", 6: "::"}


def begun(network: Network) -> Network:
    """A network of these drivers, before its options."""
    flag = "bridge" if network.driver == "ipvlan" else ""
    return msgspec.structs.replace(
        network, link=f"dm-{network.id[:12]}", mode=_USUAL[network.driver], flag=flag
    )


def with_option(network: Network, name: str, value: str) -> Network | None:
    """None for an option that is not these drivers'. Raises InvalidArgument."""
    replace = msgspec.structs.replace
    if name == "parent":
        if value == "lo":
            raise InvalidArgument(
                f"network {network.name}: loopback interface is not a valid {network.driver} "
                "parent link"
            )
        return replace(network, link=value) if value else network
    if name == f"{network.driver}_mode":
        if value not in ("", *_MODES[network.driver]):
            raise InvalidArgument(
                f"network {network.name}: requested {network.driver} mode '{value}' is not valid: "
                f"it is one of {', '.join(_MODES[network.driver])}"
            )
        return replace(network, mode=value or network.mode)
    if name == "ipvlan_flag" and network.driver == "ipvlan":
        if value not in ("", *links.IPVLAN_FLAGS):
            raise InvalidArgument(
                f"network {network.name}: requested ipvlan flag '{value}' is not valid: it is one "
                f"of {', '.join(links.IPVLAN_FLAGS)}"
            )
        return replace(network, flag=value or network.flag)
    return None


def _is_own(network: Network) -> bool:
    """Whether it has a dummy link of its own instead of a parent."""
    return network.link == f"dm-{network.id[:12]}"


def check(network: Network, others: Iterable[Network]) -> None:
    """Whether the kernel has the driver, and the parent is to be had.

    Raises Unavailable, InvalidArgument, PermissionDenied.
    """
    for other in others:
        if other.link != network.link or other.driver not in KINDS:
            continue
        where = f"network {network.name}: network {other.name} has the parent {network.link}"
        if other.driver != network.driver:
            raise PermissionDenied(f"{where} with the driver {other.driver}")
        if "passthru" in (other.mode, network.mode):
            raise PermissionDenied(f"{where}, and in mode passthru a parent is one network's only")
        if network.driver == "ipvlan" and (other.mode, other.flag) != (network.mode, network.flag):
            raise PermissionDenied(
                f"{where} in mode {other.mode} with flag {other.flag}: of ipvlan a parent has one"
            )
    with Socket() as socket:
        try:
            socket.batch([links.probe(network.driver)])
        except KernelError as error:
            raise _refused(network, network.driver, error) from error
    if not _is_own(network) and not index_of(network.link):
        _base(network)


def _base(network: Network) -> tuple[int, int]:
    """(index of the link, VLAN) of a parent like eth0.10. Raises InvalidArgument."""
    base, dot, number = network.link.rpartition(".")
    if not dot or not number.isdecimal():
        raise InvalidArgument(
            f"network {network.name}: parent {network.link} is no interface of this machine; a "
            "VLAN of one, which would be made, is written eth0.10"
        )
    if int(number) not in _VLANS:
        raise InvalidArgument(
            f"network {network.name}: parent {network.link}: a VLAN is a number from 1 to 4094"
        )
    index = index_of(base)
    if not index:
        raise InvalidArgument(
            f"network {network.name}: parent {network.link}: {base} is no interface of this machine"
        )
    return index, int(number)


def bring_up(network: Network, identity: str) -> tuple[int, int]:
    """Have the parent be there; its index and the network's MTU, 0 for the parent's. One that was
    there is left as it is: up or down.

    Raises Unavailable, InvalidArgument, KernelError.
    """
    name = network.link
    index = index_of(name)
    if index:
        return index, network.mtu
    if _is_own(network):
        kind, made = "dummy", links.new_dummy(name)
    else:
        base, vlan = _base(network)
        kind, made = "vlan", links.new_dot1q(name, base, vlan)
    with Socket() as socket:
        try:
            socket.batch([made, links.set_link(name, alias=alias(identity, network))])
            socket.batch([links.set_link(name, up=True)])
        except KernelError as error:
            if error.errno == ENETDOWN:
                socket.batch([links.delete_link(name, ignore=(ENODEV,))])
                raise Unavailable(
                    f"network {network.name}: parent {name}: {name.rpartition('.')[0]} is down; "
                    "bring it up"
                ) from error
            raise _refused(network, kind, error) from error
    return index_of(name), network.mtu


def _refused(network: Network, kind: str, error: KernelError) -> KernelError | Unavailable:
    module = _MODULES.get(kind, kind)
    if error.errno == EOPNOTSUPP:
        return Unavailable(
            f"network {network.name}: this machine's kernel has no {kind} links: they are in its "
            f"module {module}; have it loaded (modprobe {module}), or build the kernel with it"
        )
    if error.errno == EPERM:
        return Unavailable(
            f"network {network.name}: a {kind} link cannot be made: {error.message}; it needs "
            "CAP_NET_ADMIN"
        )
    return error


def remove(network: Network, identity: str, others: Iterable[Network]) -> None:
    """Delete the parent if we made it and nobody else needs it; who does has it from then on."""
    with Socket() as socket:
        there = [one for one in routes.link_states(socket) if one.name == network.link]
        if not there or there[0].alias != alias(identity, network):
            return
        heirs = [one for one in others if one.link == network.link and one.id != network.id]
        message: Message = links.delete_link(there[0].link, ignore=(ENODEV,))
        if heirs:
            message = links.set_link(there[0].link, alias=alias(identity, heirs[0]))
        socket.batch([message])


def gateways(network: Network, endpoint: Endpoint) -> list[str]:
    """Where an endpoint's ways out lead. In ipvlan's modes l3 the parent routes, and they lead to
    the link itself: any address."""
    if network.internal or _is_own(network):
        return []
    found = []
    for subnet in network.subnets:
        six = ":" in subnet.subnet
        address = endpoint.address6 if six else endpoint.address4
        if not address or ipaddress.ip_address(address) not in ipaddress.ip_network(subnet.subnet):
            continue
        if network.mode in ("l3", "l3s"):
            found.append(EVERYWHERE[6 if six else 4])
        elif subnet.gateway:
            found.append(subnet.gateway)
    return found


def plug(network: Network, endpoint: Endpoint, index: int, mtu: int) -> dict[str, object]:
    """What the maker makes of an endpoint: ``runtime.plugs.Plug`` as JSON."""
    return {
        "host": endpoint.host,
        "name": endpoint.inside,
        "kind": network.driver,
        "mode": network.mode,
        "flag": network.flag,
        "master": index,
        "mac": endpoint.mac,
        "mtu": mtu,
        "addresses": [one for one in (endpoint.ipv4, endpoint.ipv6) if one],
        "gateways": gateways(network, endpoint),
        "ipv6": bool(endpoint.ipv6),
    }


def sweep(namespace: int, keep: Collection[str]) -> None:
    """Delete the links of these kinds in a container's namespace that are ours and not among
    ``keep``, hosts' ends of endpoints: their mark, for there is no host's end to delete."""
    with Inside(namespace), Socket() as here:
        left = [
            one.link
            for one in routes.link_states(here)
            if one.kind in KINDS and one.alias.startswith(_PREFIX) and one.alias not in keep
        ]
        here.batch([links.delete_link(link, ignore=(ENODEV,)) for link in left])
