"""The little of rtnetlink that a container's network namespace needs.

After rtnetlink(7), netlink(7). Bringing ``lo`` up, renaming a link, moving it into another
namespace, reading and adding addresses: a few messages on a raw socket, so that no process on the
start path imports a netlink library. Each call opens a socket in the namespace it is made in. Many
messages at once, and what makes links and routes, are ``links``; the framing is ``nlmsg``.
"""

from __future__ import annotations

import _socket
import fcntl
import struct

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.nlmsg import NLM_F_CREATE, NLM_F_EXCL, Message, Socket, attribute, attributes

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22

IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_NET_NS_FD = 28

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_LABEL = 3
IFA_BROADCAST = 4
IFA_FLAGS = 8

IFF_UP = 0x1
IFA_F_PERMANENT = 0x80
IFA_F_NODAD = 0x02

RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_HOST = 254

_SIOCSIFFLAGS = 0x8914
_LOOPBACK_UP = struct.pack("=16sH22x", b"lo", IFF_UP)  # struct ifreq
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_NAME_BYTES = 15


class Address:
    """An address of a link: ``address`` as text, prefix length, scope, ``IFA_F_*``."""

    __slots__ = ("address", "broadcast", "family", "flags", "label", "peer", "prefix", "scope")

    def __init__(
        self,
        address: str,
        prefix: int,
        *,
        scope: int = RT_SCOPE_UNIVERSE,
        flags: int = IFA_F_PERMANENT,
        broadcast: str | None = None,
        peer: str | None = None,
        label: str | None = None,
    ) -> None:
        self.family: int = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        self.address = address
        self.prefix = prefix
        self.scope = scope
        self.flags = flags
        self.broadcast = broadcast
        self.peer = peer
        self.label = label

    @property
    def permanent(self) -> bool:
        """Set by somebody, not learnt: it has no lifetime."""
        return bool(self.flags & IFA_F_PERMANENT)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.address, self.prefix))

    def __repr__(self) -> str:
        return f"<Address {self.address}/{self.prefix}>"


class Link:
    """A link: index, name, ``IFF_*`` flags, MTU."""

    __slots__ = ("flags", "index", "mtu", "name")

    def __init__(self, index: int, name: str, flags: int, mtu: int) -> None:
        self.index = index
        self.name = name
        self.flags = flags
        self.mtu = mtu

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    def __repr__(self) -> str:
        return f"<Link {self.index} {self.name} {'up' if self.up else 'down'}>"


def links() -> list[Link]:
    """The links of this network namespace."""
    return [_link(body) for body in request(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0), dump=True)]


def find_link(name: str) -> Link:
    """The link called ``name``; ``ENODEV`` if there is none."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name_bytes(name))
    return _link(request(RTM_GETLINK, body, target=name)[0])


def link_index(name: str) -> int:
    """The index of the link called ``name``."""
    return find_link(name).index


def set_link_up(name: str, up: bool = True) -> None:
    """Bring the link up, or down; ``ENODEV`` if there is none of that name."""
    # By name: with no index and no NLM_F_CREATE the name selects the link, in one round trip.
    body = _LINK.pack(0, 0, 0, IFF_UP if up else 0, IFF_UP) + attribute(
        IFLA_IFNAME, name_bytes(name)
    )
    request(RTM_NEWLINK, body, target=f"{name} {'up' if up else 'down'}")


def set_loopback_up() -> None:
    """Bring up ``lo`` by the old call (netdevice(7), SIOCSIFFLAGS): a new container's first act in
    its network namespace, and a tenth of what a round trip by netlink costs a fresh fork."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, _LOOPBACK_UP)
    except OSError as error:
        raise KernelError("ioctl", error.errno or 0, "SIOCSIFFLAGS lo") from None
    finally:
        sock.close()


def set_link_mtu(name: str, mtu: int) -> None:
    """Set the link's MTU in bytes."""
    body = _LINK.pack(0, 0, link_index(name), 0, 0) + attribute(IFLA_MTU, struct.pack("=I", mtu))
    request(RTM_NEWLINK, body, target=f"{name} mtu {mtu}")


def rename_link(name: str, new: str) -> None:
    """Rename the link, which older kernels want to be down; ``EEXIST`` if the name is taken."""
    body = _LINK.pack(0, 0, link_index(name), 0, 0) + attribute(IFLA_IFNAME, name_bytes(new))
    request(RTM_NEWLINK, body, target=f"{name} to {new}")


def move_link(name: str, netns_fd: int, new: str | None = None) -> None:
    """Move the link into the network namespace ``netns_fd``, there to be called ``new`` (in which
    ``%d`` is the first free number). It arrives down and without addresses.

    The kernel moves first and renames then: where ``new`` is taken, the error is ``EEXIST`` and the
    link is *there*, under its old name. Without ``new``, ``EEXIST`` means it has not moved. So to
    be able to undo, move it under a name nobody has and rename it there.
    """
    body = _LINK.pack(0, 0, link_index(name), 0, 0)
    body += attribute(IFLA_NET_NS_FD, struct.pack("=i", netns_fd))
    if new is not None:
        body += attribute(IFLA_IFNAME, name_bytes(new))
    request(RTM_NEWLINK, body, target=f"{name} to another namespace as {new or name}")


def delete_link(name: str) -> None:
    """Delete a virtual link."""
    request(RTM_DELLINK, _LINK.pack(0, 0, link_index(name), 0, 0), target=name)


def addresses(name: str) -> list[Address]:
    """The IPv4 and IPv6 addresses of the link called ``name``."""
    index = link_index(name)
    found = []
    for body in request(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), dump=True):
        family, prefix, flags, scope, owner = _ADDRESS.unpack_from(body)
        if owner != index or family not in (_socket.AF_INET, _socket.AF_INET6):
            continue
        values = attributes(body, _ADDRESS.size)
        if IFA_FLAGS in values:
            flags = int.from_bytes(values[IFA_FLAGS], "little")
        address = values.get(IFA_ADDRESS, b"")
        local = values.get(IFA_LOCAL, address)
        found.append(
            Address(
                _socket.inet_ntop(family, local),
                prefix,
                scope=scope,
                flags=flags,
                broadcast=_text(family, values.get(IFA_BROADCAST)),
                peer=_text(family, address) if address != local else None,
                label=values[IFA_LABEL].rstrip(b"\0").decode() if IFA_LABEL in values else None,
            )
        )
    return found


def add_address(name: str, address: Address) -> None:
    """Give the link an address; ``EEXIST`` if it has it. The label is kept only if it begins with
    the link's name, as the kernel's own tools want it; IPv6 has none."""
    family = address.family
    try:
        local = _socket.inet_pton(family, address.address)
        peer = _socket.inet_pton(family, address.peer) if address.peer else local
        broadcast = _socket.inet_pton(family, address.broadcast) if address.broadcast else b""
    except OSError:
        raise InvalidArgument(f"{address.address}: not an address, or its peer is not") from None
    flags = address.flags & ~IFA_F_PERMANENT
    body = _ADDRESS.pack(family, address.prefix, flags & 0xFF, address.scope, link_index(name))
    body += attribute(IFA_LOCAL, local) + attribute(IFA_ADDRESS, peer)
    body += attribute(IFA_FLAGS, struct.pack("=I", flags))
    if broadcast:
        body += attribute(IFA_BROADCAST, broadcast)
    if address.label and address.label.startswith(name) and family == _socket.AF_INET:
        body += attribute(IFA_LABEL, name_bytes(address.label))
    shown = f"{address.address}/{address.prefix} on {name}"
    request(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL, target=shown)


def request(
    kind: int, body: bytes, flags: int = 0, *, dump: bool = False, target: str = ""
) -> list[bytes]:
    """Send one rtnetlink message; the bodies of the answers, or the kernel's ``KernelError``."""
    call = f"rtnetlink {_CALLS.get(kind, str(kind))}"
    with Socket() as socket:
        message = Message(kind, body, flags, call=call, target=target)
        return [content for _, content in socket.ask(message, dump=dump)]


_CALLS = {
    RTM_NEWLINK: "RTM_NEWLINK",
    RTM_DELLINK: "RTM_DELLINK",
    RTM_GETLINK: "RTM_GETLINK",
    RTM_NEWADDR: "RTM_NEWADDR",
    RTM_GETADDR: "RTM_GETADDR",
}


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = attributes(body, _LINK.size)
    name = values[IFLA_IFNAME].rstrip(b"\0").decode()
    return Link(index, name, flags, int.from_bytes(values.get(IFLA_MTU, b""), "little"))


def name_bytes(name: str) -> bytes:
    """A link's name as an attribute's value. Raises InvalidArgument."""
    raw = name.encode()
    if not 0 < len(raw) <= _NAME_BYTES or b"\0" in raw:
        raise InvalidArgument(f"link name {name!r}: 1 to {_NAME_BYTES} bytes")
    return raw + b"\0"


def _text(family: int, value: bytes | None) -> str | None:
    return _socket.inet_ntop(family, value) if value else None
