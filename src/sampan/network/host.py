"""What the machine's own network says, and the one thing we change in it: forwarding.

After ip-sysctl of the kernel's documentation. What is read here is read once per network that is
brought up, not per container.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import netns, routes
from sampan.kernel.nlmsg import Socket
from sampan.network.addresses import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.kernel.routes import LinkState
    from sampan.network.addresses import Net

__all__ = [
    "DEFAULT_MTU",
    "IPV4_FORWARDING",
    "Machine",
    "did_not_forward",
    "forward",
    "index_of",
    "locked",
    "note_forwarding",
    "stop_forwarding",
]

DEFAULT_MTU = 1500
LOCK = "/run/sampan-network.lock"


class Machine:
    """One look at the machine's links and routes."""

    def __init__(self) -> None:
        with Socket() as netlink:
            self.links: dict[str, LinkState] = {
                one.name: one for one in routes.link_states(netlink)
            }
            self._routes = [
                *routes.routes(netlink, socket.AF_INET),
                *routes.routes(netlink, socket.AF_INET6),
            ]

    @property
    def mtu(self) -> int:
        """Of the link that leads to everywhere: a larger one would work by luck only."""
        by_index = {one.link: one for one in self.links.values()}
        ways = [one for one in self._routes if one.prefix == 0 and one.link in by_index]
        if not ways:
            return DEFAULT_MTU
        return by_index[min(ways, key=lambda one: one.metric).link].mtu

    def taken(self) -> list[Net]:
        """What its routes lead to, but for the default. A route to half of all addresses is a
        VPN's default route, and none in particular."""
        found = []
        for route in self._routes:
            least = 3 if "." in route.destination else 8
            if route.prefix >= least:
                found.append(parse(route.destination))
        return found

    def holder(self, net: Net) -> str:
        """A route's words, for an error."""
        for route in self._routes:
            if parse(route.destination) == net:
                names = [one.name for one in self.links.values() if one.link == route.link]
                return f"{net} on {names[0] if names else 'a route'}"
        return str(net)


def index_of(name: str) -> int:
    """The link's index, 0 if there is none. Takes no lock of the kernel's, as netlink would."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


@contextmanager
def locked() -> Iterator[None]:
    """While a subnet is chosen and taken: several daemons choose from the same numbers."""
    try:
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KernelError("open", error.errno or 0, LOCK) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def forward(exec_root: str, *, six: bool) -> None:
    """Have the machine forward packets. That it did not before is noted below the exec root: what
    is nobody's of ours is not to be forwarded then (``firewall``)."""
    if netns.read_parameter(IPV4_FORWARDING) == "0":
        note_forwarding(exec_root, IPV4_FORWARDING)
        netns.write_parameter(IPV4_FORWARDING, "1")
    if six and netns.read_parameter(_IPV6_FORWARDING) == "0":
        note_forwarding(exec_root, _IPV6_FORWARDING)
        # A machine that forwards takes no routes from routers (RFC 4861, 6.2.1), unless told.
        for name in os.listdir("/proc/sys/net/ipv6/conf"):
            place = f"net/ipv6/conf/{name}/accept_ra"
            if netns.read_parameter(place) == "1":
                netns.write_parameter(place, "2")
        netns.write_parameter(_IPV6_FORWARDING, "1")


def note_forwarding(exec_root: str, name: str) -> None:
    """That the parameter ``name`` was off before there were engines."""
    if name not in _noted(exec_root):
        with open(f"{exec_root}/{_NOTE}", "a", encoding="ascii") as file:
            file.write(f"{name}\n")


def stop_forwarding(exec_root: str) -> None:
    """What was turned on is off again, unless there is a bridge that may live of it: another
    engine's, or somebody's who found it on. While the machine is ``locked``."""
    if any(link.kind == "bridge" for link in Machine().links.values()):
        return
    names = _noted(exec_root)
    for name in names:
        netns.write_parameter(name, "0")
    if names:
        os.unlink(f"{exec_root}/{_NOTE}")


def _noted(exec_root: str) -> list[str]:
    try:
        with open(f"{exec_root}/{_NOTE}", encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


_NOTE = "forwarding-was-off"
IPV4_FORWARDING = "net/ipv4/ip_forward"
_IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"


def did_not_forward(exec_root: str) -> bool:
    """Whether ``forward`` turned it on."""
    return os.path.exists(f"{exec_root}/{_NOTE}")
