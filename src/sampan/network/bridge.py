"""The ``bridge`` driver: the link of a network, and the plugs that go into it.

After bridge(8), veth(4). A bridge carries our mark (``ifalias``), so that what an earlier daemon
made is known again, and what somebody else made is left alone. Its MAC address is fixed: one that
follows its ports would change with them.
"""

from __future__ import annotations

import os
from errno import EEXIST, ENODEV, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError, Unavailable
from sampan.kernel import links, netns
from sampan.kernel.nlmsg import Socket
from sampan.network.host import Machine, index_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kernel.routes import LinkState
    from sampan.network.types import Endpoint, Network

__all__ = [
    "GROUP",
    "adopt",
    "alias",
    "gateways",
    "host_name",
    "link_name",
    "make",
    "open_localhost",
    "pass_on",
    "plug",
    "remove",
    "remove_those_of",
    "repair",
    "set_port",
    "unplug",
]

GROUP = 0x73616D70
"""The link group (ip-link(8)) of all engines' bridges: by it their rules know one another's."""
_MOST = 15  # characters of a link's name


def alias(identity: str, network: Network) -> str:
    """Our mark on a bridge."""
    return f"sampan {identity} {network.id}"


def host_name(endpoint_id: str) -> str:
    """The host's end of a plug: 48 bits of the endpoint."""
    return f"vsp{endpoint_id[: _MOST - 3]}"


def link_name(network_id: str) -> str:
    """A user-defined network's bridge."""
    return f"sp-{network_id[: _MOST - 3]}"


def _mac(network: Network) -> str:
    """Of the network's ID; a predefined one's begins with its engine's, so machines differ."""
    return "02:42:" + ":".join(network.id[at : at + 2] for at in range(0, 8, 2))


def make(network: Network, identity: str, mtu: int, *, forward: bool) -> int:
    """Make the bridge, up and with its gateways' addresses; its index.

    Raises Conflict when the name is somebody else's, Unavailable where bridges cannot be made.
    """
    name = network.link
    parameters = {"forwarding": 1} if forward else None
    by_hand = not network.ipv6 or network.gateway6 == "isolated"
    try:
        with Socket() as socket:
            socket.batch([links.new_bridge(name, mac=_mac(network))])
            try:
                index = index_of(name)
                socket.batch(
                    [
                        # Set, not made with it, the MTU does not follow the ports'.
                        links.set_link(name, mtu=mtu, alias=alias(identity, network), group=GROUP),
                        links.set_parameters(name, ipv4=parameters, addresses_by_hand=by_hand),
                        *(
                            links.new_address(index, subnet.gateway, subnet.prefix)
                            for subnet in network.subnets
                            if network.has_gateway(subnet)
                        ),
                        links.set_link(name, up=True),
                    ]
                )
            except KernelError:
                socket.batch([links.delete_link(name, ignore=(ENODEV,))])
                raise
    except KernelError as error:
        if error.errno == EEXIST and "RTM_NEWLINK" in error.call:
            raise Conflict(
                f"network {network.name}: the interface {name} exists and is not ours; remove it, "
                "or choose another name (com.docker.network.bridge.name, --bridge)"
            ) from error
        if error.errno in (EPERM, EOPNOTSUPP):
            raise Unavailable(
                f"network {network.name}: this machine makes no bridge: {error.message}; it needs "
                "CAP_NET_ADMIN and a kernel with bridge and veth; --network host or none do without"
            ) from error
        raise
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):
        # A container is no router of the machine's, on a network without IPv6 either
        # (CVE-2020-13401).
        netns.write_parameter(f"net/ipv6/conf/{name}/accept_ra", "0")
    return index


def adopt(link: LinkState) -> None:
    """A bridge of an earlier daemon's, which may not have known of the group."""
    with Socket() as socket:
        socket.batch([links.set_link(link.link, group=GROUP)])


def open_localhost(name: str) -> None:
    """What comes from 127.0.0.1 may leave by the bridge, and its answers come back."""
    with Socket() as socket:
        socket.batch([links.set_parameters(name, ipv4={"route_localnet": 1})])


def pass_on(name: str) -> None:
    """What a port sends to another comes to the machine, which says that it is that neighbour
    (``proxy_arp_pvlan``, RFC 3069), and goes back by its routes, if its rules say so."""
    with Socket() as socket:
        parameters = {"proxy_arp_pvlan": 1, "send_redirects": 0}
        socket.batch([links.set_parameters(name, ipv4=parameters)])


def repair(network: Network, endpoints: Sequence[Endpoint]) -> None:
    """Put the ends that live back onto a bridge that was made again."""
    index = index_of(network.link)
    messages = []
    for endpoint in endpoints:
        if index_of(endpoint.host):
            messages.append(links.set_link(endpoint.host, master=index, up=True))
            if endpoint.ports or not network.icc:
                isolated, hairpin = not network.icc, bool(endpoint.ports)
                messages.append(links.set_port(endpoint.host, isolated=isolated, hairpin=hairpin))
    with Socket() as socket:
        socket.batch(messages)


def set_port(network: Network, endpoint: Endpoint) -> None:
    """What an end is to be on its bridge, where ports are published meanwhile."""
    isolated, hairpin = not network.icc, bool(endpoint.ports)
    with Socket() as socket:
        socket.batch(
            [links.set_port(endpoint.host, isolated=isolated, hairpin=hairpin, ignore=(ENODEV,))]
        )


def remove(name: str) -> None:
    """Delete a bridge, if it is there."""
    with Socket() as socket:
        socket.batch([links.delete_link(name, ignore=(ENODEV,))])


def remove_those_of(identity: str, networks: Iterable[Network]) -> None:
    """Those of them that are there, and are this engine's."""
    left = [network for network in networks if network.link and index_of(network.link)]
    if left:
        machine = Machine()
        for network in left:
            there = machine.links.get(network.link)
            if there is not None and is_ours(there, identity, network):
                remove(network.link)


def unplug(names: Sequence[str]) -> None:
    """Delete hosts' ends, and the containers' with them. Most went with their namespace."""
    with Socket() as socket:
        socket.batch(
            [links.delete_link(name, ignore=(ENODEV,)) for name in names if index_of(name)]
        )


def is_ours(link: LinkState, identity: str, network: Network) -> bool:
    return link.alias == alias(identity, network)


def gateways(network: Network, endpoint: Endpoint) -> list[str]:
    """Where an endpoint's ways out lead: none from an internal network."""
    if network.internal:
        return []
    return [
        subnet.router
        for subnet in network.subnets
        if subnet.router and (endpoint.ipv6 if ":" in subnet.subnet else endpoint.ipv4)
    ]


def plug(network: Network, endpoint: Endpoint, index: int, mtu: int) -> dict[str, object]:
    """What the maker makes of an endpoint: ``runtime.plugs.Plug`` as JSON."""
    return {
        "host": endpoint.host,
        "name": endpoint.inside,
        "master": index,
        "mac": endpoint.mac,
        "mtu": mtu,
        "addresses": [one for one in (endpoint.ipv4, endpoint.ipv6) if one],
        "gateways": gateways(network, endpoint),
        "isolated": not network.icc,
        # With br_netfilter, what a container sends to its own published port never leaves the
        # bridge: it goes back by the port it came from.
        "hairpin": bool(endpoint.ports),
        "ipv6": bool(endpoint.ipv6),
    }
