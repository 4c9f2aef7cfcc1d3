"""Published ports: which of the machine's are whose, and the sockets that hold them.

A packet never meets these sockets: the rule set translates before it would; but for what is sent
to ``::1``, which the daemon carries (``carried``). They are bound so that
the kernel says what is taken, by whomever, and so that nobody takes it later: TCP ones listen, for
only then does ``SO_REUSEADDR`` not let another in (socket(7)); and ss(8) shows them. They live in
the daemon and are bound again by its successor; what somebody else has bound in between is told
(``unheld``), and the rules stand all the same. docs/decisions/0019-no-port-proxy.md.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import SampanError
from sampan.network.types import Port

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sampan.network.types import Endpoint, PortWish

__all__ = ["ANY", "CARRIED", "LOOPBACK", "PortError", "PortTakenError", "Ports", "bound"]

ANY = {4: "0.0.0.0", 6: "::"}
LOOPBACK = "::1"
CARRIED = ("tcp", "udp")
"""What the daemon carries from ``LOOPBACK``. A relay of SCTP would lose its streams."""
_BACKLOG = 128
_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_DYNAMIC = (49153, 65535)  # RFC 6335, 6
_SCTP = 132  # IPPROTO_SCTP: the standard library has no name for it


class PortError(SampanError):
    """A port cannot be published for an endpoint, whose ID is ``endpoint``."""

    def __init__(self, message: str, endpoint: str) -> None:
        super().__init__(message)
        self.endpoint = endpoint


class PortTakenError(PortError):
    """A port is somebody's: the container's ``container``, or else a process's of the machine."""

    def __init__(self, message: str, endpoint: str, port: Port, container: str = "") -> None:
        super().__init__(message, endpoint)
        self.port, self.container = port, container


class Ports:
    """The ports of one engine's containers. Not for two threads at once."""

    def __init__(self) -> None:
        # (protocol, port) -> address -> (container, the socket that holds it)
        self._held: dict[tuple[str, int], dict[str, tuple[str, socket.socket | None]]] = {}
        self._by_container: dict[str, list[Port]] = {}
        self._next = 0

    def reserve(
        self, wishes: Sequence[PortWish], endpoint: Endpoint, direct: Collection[int] = ()
    ) -> tuple[Port, ...]:
        """All of them, or none. ``direct``: the IP versions of which the container's own address
        is published (``Port.port`` 0). Raises PortError."""
        try:
            for wish in wishes:
                self._one(wish, endpoint, direct)
            self._open(wishes, endpoint, direct)
        except BaseException:
            self.release(endpoint.container)
            raise
        return tuple(self._by_container.get(endpoint.container, ()))

    def move(
        self, wishes: Sequence[PortWish], endpoint: Endpoint, direct: Collection[int] = ()
    ) -> tuple[Port, ...]:
        """As ``reserve``, for a container that has them already at another endpoint: what was
        chosen stays, with the addresses of this endpoint's families. Raises PortError: then all is
        as before."""
        container = endpoint.container
        every = self._by_container.setdefault(container, [])
        before = [port for port in every if port.port]
        left = before[:]
        wanted: list[Port] = []
        fresh: list[PortWish] = []
        for wish in wishes:
            addresses = _held(wish, endpoint, direct)
            if not addresses:
                continue
            old = next((port for port in left if _answers(port, wish)), None)
            if old is None:
                fresh.append(wish)
                continue
            place = (old.protocol, old.port, old.inside)
            left = [one for one in left if (one.protocol, one.port, one.inside) != place]
            for address in addresses:
                wanted.append(msgspec.structs.replace(old, address=address))
        # First, for a port that is held everywhere is nobody's at one address.
        for port in set(before).difference(wanted):
            self._forget(port, container)
        try:
            for port in wanted:
                if port not in before:
                    self._hold(port, endpoint)
            for wish in fresh:
                self._one(wish, endpoint, direct)
        except BaseException:
            now = {port for port in self._by_container[container] if port.port}
            for port in now.difference(before):
                self._forget(port, container)
            for port in set(before).difference(self._by_container[container]):
                self._hold(port, endpoint)
            raise
        for port in [port for port in self._by_container[container] if not port.port]:
            self._forget(port, container)
        self._open(wishes, endpoint, direct)
        return tuple(self._by_container[container])

    def adopt(self, endpoint: Endpoint) -> list[Port]:
        """Ports that a row says are the endpoint's; those that somebody has bound meanwhile."""
        unheld = []
        for port in endpoint.ports:
            if not port.port:
                self._by_container.setdefault(endpoint.container, []).append(port)
                continue
            try:
                self._hold(port, endpoint)
            except PortError:
                self._note(port, endpoint.container, None)
                unheld.append(port)
        return unheld

    def carried(self, container: str) -> list[tuple[Port, socket.socket]]:
        """A container's ports that what is sent to ``::1`` comes to, and their sockets."""
        found = []
        for port in self._by_container.get(container, ()):
            if port.port and _is_carried(port):
                _, held = self._held[port.protocol, port.port][port.address]
                if held is not None:
                    found.append((port, held))
        return found

    def release(self, container: str) -> None:
        for port in list(self._by_container.get(container, ())):
            self._forget(port, container)
        self._by_container.pop(container, None)

    def _open(
        self, wishes: Sequence[PortWish], endpoint: Endpoint, direct: Collection[int]
    ) -> None:
        """What is published at the container's own address holds no port of the machine's."""
        own = self._by_container.setdefault(endpoint.container, [])
        for wish in wishes:
            for address in _addresses(wish, endpoint):
                family = _family(address)
                any_of = Port(
                    protocol=wish.protocol, address=ANY[family], port=0, inside=wish.inside
                )
                if family in direct and any_of not in own:
                    own.append(any_of)

    def _one(self, wish: PortWish, endpoint: Endpoint, direct: Collection[int]) -> None:
        addresses = _held(wish, endpoint, direct)
        if not addresses:
            return
        first, last = (wish.first, wish.last) if wish.first else _dynamic()
        size = last - first + 1
        begin = 0 if wish.first else max(0, self._next - first)
        taken: PortTakenError | None = None
        for number in (first + (begin + step) % size for step in range(size)):
            made: list[Port] = []
            try:
                for address in addresses:
                    port = Port(
                        protocol=wish.protocol, address=address, port=number, inside=wish.inside
                    )
                    self._hold(port, endpoint)
                    made.append(port)
            except PortTakenError as error:
                taken = error
                for port in made:
                    self._forget(port, endpoint.container)
                continue
            if not wish.first:
                self._next = number + 1
            return
        if taken is not None and size == 1:
            raise taken
        raise PortError(
            f"all ports are allocated: none of {first}-{last}/{wish.protocol} is free",
            endpoint.id,
        )

    def _hold(self, port: Port, endpoint: Endpoint) -> None:
        for address, (container, _) in self._held.get((port.protocol, port.port), {}).items():
            if _meet(address, port.address):
                raise PortTakenError(
                    f"Bind for {_shown(port)} failed: port is already allocated",
                    endpoint.id, port, container,
                )  # fmt: skip
        try:
            held = bound(port)
        except OSError as error:
            six = ":" in port.address and endpoint.ipv6
            inner = endpoint.address6 if six else endpoint.address4
            why = os.strerror(error.errno or 0).lower()
            message = (
                f"failed to bind host port for {_shown(port)}:{inner}:{port.inside}/"
                f"{port.protocol}: {why}"
            )
            if error.errno == errno.EADDRINUSE:
                # ``::1`` of an IPv4 port may be the daemon's own, for that one's container.
                there = self._held.get((port.protocol, port.port), {}).get(ANY[4])
                whose = there[0] if there is not None and ":" in port.address else ""
                raise PortTakenError(message, endpoint.id, port, whose) from None
            raise PortError(message, endpoint.id) from None
        self._note(port, endpoint.container, held)

    def _note(self, port: Port, container: str, held: socket.socket | None) -> None:
        self._held.setdefault((port.protocol, port.port), {})[port.address] = (container, held)
        self._by_container.setdefault(container, []).append(port)

    def _forget(self, port: Port, container: str) -> None:
        if not port.port:
            self._by_container[container].remove(port)
            return
        key = (port.protocol, port.port)
        _, held = self._held[key].pop(port.address)
        if not self._held[key]:
            del self._held[key]
        self._by_container[container].remove(port)
        if held is not None:
            held.close()


def _dynamic() -> tuple[int, int]:
    """The kernel's own range for ports that nobody named; without /proc, the standard's."""
    try:
        with open(_RANGE, encoding="ascii") as file:
            first, last = (int(word) for word in file.read().split())
    except OSError:
        return _DYNAMIC
    return first, last


def _addresses(wish: PortWish, endpoint: Endpoint) -> list[str]:
    """The machine's addresses it is published on, of the families the endpoint has."""
    if not wish.address:
        families = ((4, endpoint.ipv4), (6, endpoint.ipv6))
        return [ANY[family] for family, has in families if has]
    six = ":" in wish.address
    # What is carried may go on by IPv4.
    carried = wish.address == LOOPBACK and wish.protocol in CARRIED
    if not (carried or (endpoint.ipv6 if six else endpoint.ipv4)):
        raise PortError(
            f"cannot publish {wish.inside}/{wish.protocol} on {wish.address}: the container has no "
            f"IPv{6 if six else 4} address; give its network a subnet of that family",
            endpoint.id,
        )
    if wish.address == LOOPBACK and wish.protocol not in CARRIED:
        raise PortError(
            f"cannot publish {wish.inside}/{wish.protocol} on ::1: the kernel routes nothing from "
            "there, and only TCP and UDP are carried without it; publish it on 127.0.0.1",
            endpoint.id,
        )
    return [wish.address]


def _held(wish: PortWish, endpoint: Endpoint, direct: Collection[int]) -> list[str]:
    """Those of them that are the machine's."""
    return [one for one in _addresses(wish, endpoint) if _family(one) not in direct]


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _answers(port: Port, wish: PortWish) -> bool:
    """Whether a wish was answered with a port."""
    return (port.protocol, port.inside) == (wish.protocol, wish.inside) and (
        not wish.first or wish.first <= port.port <= wish.last
    )


def _meet(one: str, other: str) -> bool:
    """Whether two addresses cannot have the same port."""
    if (":" in one) != (":" in other):
        return False
    return one == other or one in ANY.values() or other in ANY.values()


def _shown(port: Port) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"{address}:{port.port}"


def bound(port: Port) -> socket.socket | None:
    """A socket that holds the port. None where nobody could: SCTP that the kernel has not got.
    Raises OSError."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    if port.protocol == "udp":
        made = socket.socket(family, socket.SOCK_DGRAM)
    elif port.protocol == "tcp":
        made = socket.socket(family, socket.SOCK_STREAM)
    elif not _has_sctp():
        return None
    else:
        made = socket.socket(family, socket.SOCK_STREAM, _SCTP)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port.protocol == "udp" and not _is_carried(port):
            # What comes while the rules are away is not to be kept.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        made.bind((port.address, port.port))
        if port.protocol != "udp":
            made.listen(_BACKLOG if _is_carried(port) else 0)
    except BaseException:
        made.close()
        raise
    return made


def _is_carried(port: Port) -> bool:
    """Whether the kernel does not lead all of it to the container."""
    return port.protocol in CARRIED and port.address in (ANY[6], LOOPBACK)


def _has_sctp() -> bool:
    """Asked without making a socket, which would have the kernel load the module."""
    try:
        with open("/proc/net/protocols", encoding="ascii") as file:
            return any(line.startswith("SCTP ") for line in file)
    except OSError:
        return False
