"""A container's links: veth pairs from a bridge of the host's into its network namespace, or
macvlan and ipvlan links there, on a link of the host's.

After veth(4), ip-link(8), rtnetlink(7). What is inside is made there, so nothing has to be moved,
and what is configured inside goes in one batch. It dies with the namespace: whoever is killed in
between leaves nothing. Which bridge and which addresses is the caller's to know.
"""

from __future__ import annotations

import os
import select
import time
from _socket import if_nametoindex
from errno import EADDRINUSE, EEXIST, EINVAL, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import links
from sampan.kernel.netns import Inside, write_parameter
from sampan.kernel.nlmsg import Socket
from sampan.oci.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.kernel.nlmsg import Message

__all__ = ["Plug", "inside", "outside", "plug", "plug_into", "reroute"]


_PATIENCE = 5.0
_RTNLGRP_LINK = 1
_ANY = ("0.0.0.0", "::")


class Plug(Record):
    """One pair: ``host`` becomes a port of the bridge with index ``master``, ``name`` is inside.
    Of the ``kind`` macvlan or ipvlan, ``master`` is the parent, and ``host`` a mark on ``name``.

    ``addresses`` as address/prefix; ``gateways`` are those of the default routes, any address for
    the link itself; ``isolated`` ports do not reach one another, ``hairpin`` ones reach themselves;
    without ``ipv6`` the link has no IPv6 at all. ``local`` are link-local addresses, and
    ``parameters`` the link's own, ``net/ipv4/conf/NAME/…=value``.
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
    kind: str = ""
    mode: str = ""
    flag: str = ""
    local: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


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
    messages = [] if one.parameters else [_usual(one, index)]
    # Of the kinds that share a parent this may be done again (``_patiently``).
    again = (EEXIST,) if one.kind else ()
    if one.kind:
        messages.append(links.set_link(index, alias=one.host))
    for text in (*one.addresses, *one.local):
        address, _, prefix = text.partition("/")
        messages.append(links.new_address(index, address, int(prefix), ignore=again))
    messages.append(links.set_link(index, up=True))
    for gateway in one.gateways:
        message = _way_out(gateway, index)
        message.ignore = again
        messages.append(message)
    return messages


def _usual(one: Plug, index: int) -> Message:
    # arp_notify: whoever remembers another MAC address for this one hears of it.
    return links.set_parameters(index, ipv4={"arp_notify": 1}, addresses_by_hand=not one.ipv6)


def _set(one: Plug, index: int, here: Socket) -> None:
    """A link's own parameters: over the usual ones, and before it has addresses or is up."""
    if one.parameters:
        here.batch([_usual(one, index)])
    for text in one.parameters:
        name, _, value = text.partition("=")
        write_parameter(name, value)


def _way_out(gateway: str, index: int) -> Message:
    """A default route: by an address, or by the link itself."""
    if gateway in _ANY:
        return links.new_route(f"{gateway}/0", link=index)
    return links.new_route("", gateway=gateway, link=index)


def _no_way_out(gateway: str) -> Message:
    if gateway in _ANY:
        return links.delete_route(f"{gateway}/0", ignore=(ESRCH,))
    return links.delete_route("", gateway=gateway, ignore=(ESRCH,))


def _on_parent(one: Plug, pid: int, host: Socket) -> None:
    """Make and dress a link on a parent; the caller is in the namespace that is ``pid``'s too."""
    if one.kind == "macvlan":
        made = links.new_macvlan(
            one.name, one.master, mode=one.mode, netns_pid=pid, mac=one.mac, mtu=one.mtu
        )
    else:
        made = links.new_ipvlan(
            one.name, one.master, mode=one.mode, flag=one.flag, netns_pid=pid, mtu=one.mtu
        )
    # One passthru link has its parent to itself.
    _patiently(host, [made], host, (EINVAL,) if one.mode == "passthru" else ())
    with Socket() as here:
        index = if_nametoindex(one.name)
        _set(one, index, here)
        _patiently(here, inside(one, index), host, (EADDRINUSE,))


def _patiently(
    socket: Socket, messages: list[Message], host: Socket, until: tuple[int, ...]
) -> None:
    """Send; where the answer is that a link of an earlier run is still there, with its addresses,
    wait for the kernel to delete it, which it does in the background, and tells of the parent."""
    deadline = time.monotonic() + _PATIENCE
    told = False
    while True:
        try:
            socket.batch(messages)
            return
        except KernelError as error:
            if error.errno not in until or time.monotonic() > deadline:
                raise
        if not told:
            host.subscribe(_RTNLGRP_LINK)  # and what happened before this is seen now
            told = True
            continue
        waiting = select.poll()
        waiting.register(host, select.POLLIN)
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
        host.skip()


def plug(plugs: Sequence[Plug], host: Socket) -> None:
    """Make the pairs; the caller is in the container's namespace, and ``host`` was opened in the
    host's. Raises KernelError."""
    _make(plugs, os.getpid(), host)
    _dress(plugs, os.getpid(), host)


def plug_into(plugs: Sequence[Plug], pid: int, namespace: int) -> None:
    """The same by somebody in the host's namespace, for process ``pid`` in ``namespace``."""
    with Socket() as host:
        _make(plugs, pid, host)
        with Inside(namespace):
            _dress(plugs, pid, host)


def reroute(
    namespace: int, ways: Sequence[tuple[str, Sequence[str]]], before: Sequence[str]
) -> None:
    """Have the default routes in ``namespace`` lead by these links to these gateways, whichever of
    those ``before`` they lead to now."""
    with Inside(namespace), Socket() as here:
        made = [
            _way_out(gateway, if_nametoindex(name))
            for name, gateways in ways
            for gateway in gateways
        ]
        here.batch([*(_no_way_out(gateway) for gateway in before), *made])


def _make(plugs: Sequence[Plug], pid: int, host: Socket) -> None:
    host.batch([message for one in plugs if not one.kind for message in outside(one, pid)])


def _dress(plugs: Sequence[Plug], pid: int, host: Socket) -> None:
    with Socket() as here:
        messages: list[Message] = []
        for one in plugs:
            if one.kind:
                _on_parent(one, pid, host)
                continue
            try:
                index = if_nametoindex(one.name)
            except OSError as error:
                raise KernelError("if_nametoindex", error.errno or 0, one.name) from None
            _set(one, index, here)
            messages += inside(one, index)
        here.batch(messages)
