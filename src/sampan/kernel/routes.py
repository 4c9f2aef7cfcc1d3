"""What the machine's routes and links say: read only.

After rtnetlink(7), rtm_type and rtm_table of ``struct rtmsg``; ip-route(8).
"""

from __future__ import annotations

import _socket
import struct
from typing import NamedTuple

from sampan.kernel.links import (
    IFLA_IFALIAS,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
)
from sampan.kernel.netlink import IFLA_IFNAME, IFLA_MTU, RTM_GETLINK
from sampan.kernel.nlmsg import Message, Socket, attributes

RTM_GETROUTE = 26
_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

_ROUTE = struct.Struct("=BBBBBBBBI")
_LINK = struct.Struct("=BxHiII")
_MAIN = 254
_UNICAST = 1


class Route(NamedTuple):
    """``destination`` is ``address/prefix`` (of a default route prefix 0); ``link`` an index."""

    destination: str
    prefix: int
    gateway: str
    link: int
    metric: int


class LinkState(NamedTuple):
    """``link`` is its index, ``master`` the index of the bridge it is a port of, or 0."""

    link: int
    name: str
    mtu: int
    up: bool
    master: int
    kind: str
    alias: str


def routes(socket: Socket, family: int = _socket.AF_INET) -> list[Route]:
    """The unicast routes of the main table of one address family."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    found = []
    for _, answer in socket.ask(
        Message(RTM_GETROUTE, body, call="rtnetlink RTM_GETROUTE"), dump=True
    ):
        got, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(answer)
        if got != family or table != _MAIN or kind != _UNICAST:
            continue
        values = attributes(answer, _ROUTE.size)
        size = 4 if family == _socket.AF_INET else 16
        destination = _socket.inet_ntop(family, values.get(RTA_DST, bytes(size)))
        gateway = values.get(RTA_GATEWAY)
        found.append(
            Route(
                f"{destination}/{prefix}",
                prefix,
                _socket.inet_ntop(family, gateway) if gateway else "",
                int.from_bytes(values.get(RTA_OIF, b""), "little"),
                int.from_bytes(values.get(RTA_PRIORITY, b""), "little"),
            )
        )
    return found


def own_addresses(socket: Socket) -> set[bytes]:
    """The machine's own addresses, packed."""
    body = struct.pack("=BBBBi", 0, 0, 0, 0, 0)
    answers = socket.ask(Message(_RTM_GETADDR, body, call="rtnetlink RTM_GETADDR"), dump=True)
    every = [attributes(answer, 8) for _, answer in answers]
    return {one.get(_IFA_LOCAL) or one.get(_IFA_ADDRESS, b"") for one in every}


def link_states(socket: Socket) -> list[LinkState]:
    """The links of the socket's namespace."""
    message = Message(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0), call="rtnetlink RTM_GETLINK")
    return [link_state(body) for _, body in socket.ask(message, dump=True)]


def link_state(body: bytes) -> LinkState:
    """A link from the body of an RTM_NEWLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = attributes(body, _LINK.size)
    info = attributes(values.get(IFLA_LINKINFO, b""))
    return LinkState(
        index,
        values[IFLA_IFNAME].rstrip(b"\0").decode(),
        int.from_bytes(values.get(IFLA_MTU, b""), "little"),
        bool(flags & 1),
        int.from_bytes(values.get(IFLA_MASTER, b""), "little"),
        info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        values.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )
