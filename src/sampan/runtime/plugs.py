"""A container's links: veth pairs from a bridge of the host's into its network namespace.

After veth(4), rtnetlink(7). The pair is made with its peer in the namespace, so nothing has to be
moved, and what is configured inside goes in one batch. It dies with the namespace: whoever is
killed in between leaves nothing. Which bridge and which addresses is the caller's to know.
"""

from __future__ import annotations

import os
from _socket import if_nametoindex
from errno import ESRCH
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import links
from sampan.kernel.netns import Inside
from sampan.kernel.nlmsg import Socket
from sampan.oci.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.kernel.nlmsg import Message

__all__ = ["Plug", "inside", "outside", "plug", "plug_into", "reroute"]


class Plug(Record):
    """One pair: ``host`` becomes a port of the bridge with index ``master``, ``name`` is inside.

    ``addresses`` as address/prefix; ``gateways`` are those of the default routes; ``isolated``
    ports do not reach one another, ``hairpin`` ones reach themselves; without ``ipv6`` the link has
    no IPv6 at all.
    """

    host: str
    name: str
    master: int
    mac: str = ""
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    isolated: bool = False
    hairpin: bool = False
    ipv6: bool = False


def outside(one: Plug, pid: int) -> list[Message]:
    """To be sent in the host's namespace; ``pid`` is in the container's."""
    # The host's end has no addresses; but for that it would take one of IPv6 by itself.
    messages = [
        links.new_veth(
            one.host,
            peer=one.name,
            peer_netns_pid=pid,
            peer_mac=one.mac,
            mtu=one.mtu,
            master=one.master,
        ),
        links.set_parameters(one.host, addresses_by_hand=True),
    ]
    if one.isolated or one.hairpin:
        messages.append(links.set_port(one.host, isolated=one.isolated, hairpin=one.hairpin))
    messages.append(links.set_link(one.host, up=True))
    return messages


def inside(one: Plug, index: int) -> list[Message]:
    """To be sent in the container's namespace, where the link has this index."""
    # arp_notify: whoever remembers another MAC address for this one hears of it.
    messages = [links.set_parameters(index, ipv4={"arp_notify": 1}, addresses_by_hand=not one.ipv6)]
    for text in one.addresses:
        address, _, prefix = text.partition("/")
        messages.append(links.new_address(index, address, int(prefix)))
    messages.append(links.set_link(index, up=True))
    for gateway in one.gateways:
        messages.append(links.new_route("", gateway=gateway, link=index))
    return messages


def plug(plugs: Sequence[Plug], host: Socket) -> None:
    """Make the pairs; the caller is in the container's namespace, and ``host`` was opened in the
    host's. Raises KernelError."""
    pid = os.getpid()
    host.batch([message for one in plugs for message in outside(one, pid)])
    _dress(plugs)


def plug_into(plugs: Sequence[Plug], pid: int, namespace: int) -> None:
    """The same by somebody in the host's namespace, for process ``pid`` in ``namespace``."""
    with Socket() as host:
        host.batch([message for one in plugs for message in outside(one, pid)])
    with Inside(namespace):
        _dress(plugs)


def reroute(namespace: int, name: str, gateways: Sequence[str], others: Sequence[str]) -> None:
    """Have the default routes in ``namespace`` lead by link ``name``, not by ``others``."""
    with Inside(namespace), Socket() as here:
        index = if_nametoindex(name)
        gone = [
            links.delete_route("", gateway=gateway, ignore=(ESRCH,))
            for gateway in (*others, *gateways)
        ]
        here.batch([*gone, *(links.new_route("", gateway=one, link=index) for one in gateways)])


def _dress(plugs: Sequence[Plug]) -> None:
    with Socket() as here:
        messages: list[Message] = []
        for one in plugs:
            try:
                index = if_nametoindex(one.name)
            except OSError as error:
                raise KernelError("if_nametoindex", error.errno or 0, one.name) from None
            messages += inside(one, index)
        here.batch(messages)
