"""Messages of rtnetlink that make links and dress them: to be sent many at once.

After rtnetlink(7), rtnetlink-link of the kernel's Documentation/netlink/specs, bridge(8), veth(4).
Each function gives a ``Message`` for ``nlmsg.Socket.batch``; addresses are text, a ``link`` is an
index, or a name where the kernel takes one. What is new is exclusive: ``EEXIST`` if it is there.
"""

from __future__ import annotations

import _socket
import struct
from errno import EINVAL

from sampan.errors import InvalidArgument
from sampan.kernel.netlink import (
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_F_NODAD,
    IFA_FLAGS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    RT_SCOPE_LINK,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    name_bytes,
)
from sampan.kernel.nlmsg import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, nested

RTM_DELADDR = 21
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_NEWNEIGH = 28

IFLA_ADDRESS = 1
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_PID = 19
IFLA_IFALIAS = 20
IFLA_AF_SPEC = 26
IFLA_GROUP = 27
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE = 1
IFLA_IPVLAN_FLAGS = 2
IFLA_BRPORT_MODE = 4  # hairpin
IFLA_BRPORT_ISOLATED = 33
IFLA_INET_CONF = 1
IFLA_INET6_ADDR_GEN_MODE = 8

ADDRESSES_BY_HAND = 1
"""IN6_ADDR_GEN_MODE_NONE: no link-local address, and so no IPv6 where nobody gives an address."""

# include/uapi/linux/ip.h, IPV4_DEVCONF_*: parameters of a link that travel in a message.
DEVCONF = {
    "forwarding": 1, "send_redirects": 6, "rp_filter": 8, "arp_notify": 22, "accept_local": 23,
    "proxy_arp_pvlan": 25, "route_localnet": 26,
}  # fmt: skip

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PREFSRC = 7
RTA_PRIORITY = 6
NDA_DST = 1
NDA_LLADDR = 2
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RTN_UNICAST = 1
_NUD_PERMANENT = 0x80


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def mac_bytes(text: str) -> bytes:
    """``02:42:ac:11:00:02`` as six bytes. Raises InvalidArgument."""
    try:
        raw = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise InvalidArgument(f"{text!r} is not a MAC address: write six bytes, 02:42:ac:11:00:02")
    return raw


def address_bytes(text: str) -> tuple[int, bytes]:
    """(family, bytes) of an IP address. Raises InvalidArgument."""
    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        return int(family), _socket.inet_pton(family, text)
    except OSError:
        raise InvalidArgument(f"{text!r} is not an IP address") from None


def _selector(link: int | str) -> tuple[int, bytes]:
    """With no index the name selects the link, in one round trip."""
    if isinstance(link, int):
        return link, b""
    return 0, attribute(IFLA_IFNAME, name_bytes(link))


def _new(name: str, kind: str, data: bytes, more: bytes, up: bool) -> Message:
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    if data:
        info += nested(IFLA_INFO_DATA, data)
    flag = IFF_UP if up else 0
    body = _LINK.pack(0, 0, 0, flag, flag) + attribute(IFLA_IFNAME, name_bytes(name))
    body += more + nested(IFLA_LINKINFO, info)
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWLINK, body, flags, call="rtnetlink RTM_NEWLINK", target=f"{kind} {name}")


def _common(mtu: int, mac: str, master: int) -> bytes:
    more = b""
    if mtu:
        more += attribute(IFLA_MTU, _u32(mtu))
    if mac:
        more += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if master:
        more += attribute(IFLA_MASTER, _u32(master))
    return more


def new_bridge(name: str, *, mtu: int = 0, mac: str = "", up: bool = False) -> Message:
    """A bridge without spanning tree: its ports forward at once."""
    return _new(name, "bridge", b"", _common(mtu, mac, 0), up)


def new_veth(
    name: str,
    *,
    peer: str,
    peer_netns_fd: int | None = None,
    peer_netns_pid: int = 0,
    peer_mac: str = "",
    mac: str = "",
    mtu: int = 0,
    master: int = 0,
    up: bool = False,
) -> Message:
    """A pair: ``name`` here, a port of bridge ``master`` if it is given, and ``peer`` in another
    namespace. The peer is down: it cannot be up before the pair is whole."""
    other = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name_bytes(peer))
    other += _common(mtu, peer_mac, 0)
    if peer_netns_fd is not None:
        other += attribute(IFLA_NET_NS_FD, struct.pack("=i", peer_netns_fd))
    elif peer_netns_pid:
        other += attribute(IFLA_NET_NS_PID, _u32(peer_netns_pid))
    # Not marked as nested: the header in it is no attribute.
    return _new(name, "veth", attribute(VETH_INFO_PEER, other), _common(mtu, mac, master), up)


def new_macvlan(
    name: str, parent: int, *, mode: str, netns_fd: int | None = None, netns_pid: int = 0,
    mac: str = "", mtu: int = 0,
) -> Message:  # fmt: skip
    """A link with a MAC of its own on ``parent``, in the namespace ``netns_fd``, or the process's.

    ``EOPNOTSUPP`` where the kernel has none.
    """
    more = _common(mtu, mac, 0) + attribute(IFLA_LINK, _u32(parent)) + _netns(netns_fd, netns_pid)
    data = attribute(IFLA_MACVLAN_MODE, _u32(MACVLAN_MODES[mode]))
    return _new(name, "macvlan", data, more, False)


def new_ipvlan(
    name: str, parent: int, *, mode: str, flag: str = "bridge", netns_fd: int | None = None,
    netns_pid: int = 0, mtu: int = 0,
) -> Message:  # fmt: skip
    """A link that shares the MAC of ``parent``; ``EOPNOTSUPP`` where the kernel has none."""
    more = _common(mtu, "", 0) + attribute(IFLA_LINK, _u32(parent)) + _netns(netns_fd, netns_pid)
    data = attribute(IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode]))
    data += attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag]))
    return _new(name, "ipvlan", data, more, False)


def new_dot1q(name: str, parent: int, vlan: int) -> Message:
    """A link for one VLAN of ``parent``."""
    more = attribute(IFLA_LINK, _u32(parent))
    return _new(name, "vlan", attribute(1, struct.pack("=H", vlan)), more, False)


def new_dummy(name: str) -> Message:
    """A link that leads nowhere; ``EOPNOTSUPP`` where the kernel has none."""
    return _new(name, "dummy", b"", b"", False)


def probe(kind: str) -> Message:
    """Asks for a link on no parent, which is never made: of the kinds that need one (macvlan,
    ipvlan, vlan) the kernel says so, or ``EOPNOTSUPP`` where it does not know the kind. The kernel
    has its module loaded before it says so."""
    message = _new("sampan-probe", kind, b"", b"", False)
    message.ignore = (EINVAL,)
    return message


def _netns(fd: int | None, pid: int = 0) -> bytes:
    if fd is not None:
        return attribute(IFLA_NET_NS_FD, struct.pack("=i", fd))
    return attribute(IFLA_NET_NS_PID, _u32(pid)) if pid else b""


def set_link(
    link: int | str,
    *,
    up: bool | None = None,
    mtu: int = 0,
    mac: str = "",
    master: int | None = None,
    name: str = "",
    alias: str = "",
    group: int = 0,
    netns_fd: int | None = None,
) -> Message:
    """Change a link; ``master`` 0 takes it off its bridge."""
    index, selector = _selector(link)
    flag = 0 if up is None else IFF_UP
    body = _LINK.pack(0, 0, index, flag if up else 0, flag) + (selector if not name else b"")
    body += _common(mtu, mac, 0) + _netns(netns_fd)
    if master is not None:
        body += attribute(IFLA_MASTER, _u32(master))
    if name:
        body += attribute(IFLA_IFNAME, name_bytes(name))
    if alias:
        body += attribute(IFLA_IFALIAS, alias.encode())
    if group:
        body += attribute(IFLA_GROUP, _u32(group))
    return Message(RTM_NEWLINK, body, call="rtnetlink RTM_SETLINK", target=str(link))


def set_parameters(
    link: int | str, *, ipv4: dict[str, int] | None = None, addresses_by_hand: bool = False
) -> Message:
    """A link's kernel parameters that travel in a message: ``net.ipv4.conf.LINK.*`` of ``DEVCONF``,
    and IPv6 addresses by hand only. Before the link is up: after that addresses are there."""
    index, selector = _selector(link)
    families = b""
    if ipv4:
        values = b"".join(attribute(DEVCONF[key], _u32(value)) for key, value in ipv4.items())
        families += nested(_socket.AF_INET, nested(IFLA_INET_CONF, values))
    if addresses_by_hand:
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((ADDRESSES_BY_HAND,)))
        families += nested(_socket.AF_INET6, mode)
    body = _LINK.pack(0, 0, index, 0, 0) + selector + nested(IFLA_AF_SPEC, families)
    return Message(RTM_NEWLINK, body, call="rtnetlink RTM_SETLINK", target=f"{link} parameters")


def set_port(
    link: int | str,
    *,
    isolated: bool = False,
    hairpin: bool = False,
    ignore: tuple[int, ...] = (),
) -> Message:
    """A port of a bridge: ``isolated`` ones do not reach one another, only the bridge itself."""
    index, selector = _selector(link)
    data = attribute(IFLA_BRPORT_ISOLATED, bytes((isolated,)))
    data += attribute(IFLA_BRPORT_MODE, bytes((hairpin,)))
    info = attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0") + nested(IFLA_INFO_SLAVE_DATA, data)
    body = _LINK.pack(0, 0, index, 0, 0) + selector + nested(IFLA_LINKINFO, info)
    call = "rtnetlink RTM_SETLINK"
    return Message(RTM_NEWLINK, body, call=call, target=f"port {link}", ignore=ignore)


def delete_link(link: int | str, *, ignore: tuple[int, ...] = ()) -> Message:
    """Delete a link, and the other end of a pair with it."""
    index, selector = _selector(link)
    body = _LINK.pack(0, 0, index, 0, 0) + selector
    call = "rtnetlink RTM_DELLINK"
    return Message(RTM_DELLINK, body, call=call, target=str(link), ignore=ignore)


def get_link(link: int | str) -> Message:
    """Ask for a link."""
    index, selector = _selector(link)
    body = _LINK.pack(0, 0, index, 0, 0) + selector
    return Message(RTM_GETLINK, body, call="rtnetlink RTM_GETLINK", target=str(link))


def new_address(link: int, address: str, prefix: int, *, ignore: tuple[int, ...] = ()) -> Message:
    """Give link index ``link`` an address, IPv6 without asking whether others have it: who gives
    addresses knows."""
    family, raw = address_bytes(address)
    body = _ADDRESS.pack(family, prefix, 0, 0, link)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if family == _socket.AF_INET6:
        body += attribute(IFA_FLAGS, _u32(IFA_F_NODAD))
    elif prefix < 31:
        mask = (1 << (32 - prefix)) - 1
        broadcast = int.from_bytes(raw, "big") | mask
        body += attribute(IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    target = f"{address}/{prefix} on link {link}"
    return Message(
        RTM_NEWADDR,
        body,
        NLM_F_CREATE | NLM_F_EXCL,
        call="rtnetlink RTM_NEWADDR",
        target=target,
        ignore=ignore,
    )


def delete_address(link: int, address: str, prefix: int) -> Message:
    family, raw = address_bytes(address)
    body = _ADDRESS.pack(family, prefix, 0, 0, link) + attribute(IFA_LOCAL, raw)
    target = f"{address}/{prefix} on link {link}"
    return Message(RTM_DELADDR, body, call="rtnetlink RTM_DELADDR", target=target)


def _route(
    destination: str, gateway: str, link: int, metric: int, source: str
) -> tuple[bytes, str]:
    target = f"route {destination or 'default'} via {gateway or f'link {link}'}"
    prefix, raw, family = 0, b"", 0
    if destination:
        text, _, length = destination.partition("/")
        family, raw = address_bytes(text)
        prefix = int(length) if length else len(raw) * 8
    if gateway:
        family, via = address_bytes(gateway)
    family = family or int(_socket.AF_INET)
    scope = 0 if gateway or family == _socket.AF_INET6 else RT_SCOPE_LINK
    body = _ROUTE.pack(family, prefix, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
    if raw:
        body += attribute(RTA_DST, raw)
    if gateway:
        body += attribute(RTA_GATEWAY, via)
    if source:
        body += attribute(RTA_PREFSRC, address_bytes(source)[1])
    if link:
        body += attribute(RTA_OIF, _u32(link))
    if metric:
        body += attribute(RTA_PRIORITY, _u32(metric))
    return body, target


def new_route(
    destination: str, *, gateway: str = "", link: int = 0, metric: int = 0, source: str = ""
) -> Message:
    """A route to ``destination`` (address/prefix; "": the default) by ``gateway`` or ``link``."""
    body, target = _route(destination, gateway, link, metric, source)
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWROUTE, body, flags, call="rtnetlink RTM_NEWROUTE", target=target)


def delete_route(
    destination: str, *, gateway: str = "", link: int = 0, metric: int = 0,
    ignore: tuple[int, ...] = (),
) -> Message:  # fmt: skip
    body, target = _route(destination, gateway, link, metric, "")
    call = "rtnetlink RTM_DELROUTE"
    return Message(RTM_DELROUTE, body, call=call, target=target, ignore=ignore)


def new_neighbour(link: int, address: str, mac: str) -> Message:
    """A permanent entry of the neighbour table (arp(7))."""
    family, raw = address_bytes(address)
    body = _NEIGHBOUR.pack(family, link, _NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, raw) + attribute(NDA_LLADDR, mac_bytes(mac))
    target = f"{address} at {mac} on link {link}"
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWNEIGH, body, flags, call="rtnetlink RTM_NEWNEIGH", target=target)
