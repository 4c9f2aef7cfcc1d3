"""Flows that lead where a published port does not lead any more, or not yet.

The kernel looks a flow's translation up with its first packet only. TCP begins anew; of UDP and
SCTP a flow that goes on keeps its way: to the container that had the port before, or to the
machine, where it began before there was a container. Such flows are forgotten when a port is
published or withdrawn, and their next packet finds the way there is.
"""

from __future__ import annotations

import ipaddress
from errno import EINVAL, EOPNOTSUPP, EPERM, EPROTONOSUPPORT
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import conntrack, routes
from sampan.kernel.nlmsg import Socket
from sampan.network.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sampan.kernel.conntrack import Flow
    from sampan.network.types import Endpoint, Port

__all__ = ["forget_stale"]

_PROTOCOLS = {"udp": 17, "sctp": 132}
_NOT_THERE = (EINVAL, EOPNOTSUPP, EPERM, EPROTONOSUPPORT)
_ROOM = 1 << 20
_AT_ONCE = 1000


class _Place:
    """A published port as flows show it."""

    __slots__ = ("at", "target", "there")

    def __init__(self, port: Port, endpoint: Endpoint, *, there: bool) -> None:
        inner = endpoint.address6 if ":" in port.address else endpoint.address4
        self.at = b"" if port.address in ("0.0.0.0", "::") else _packed(port.address)
        self.target = (_packed(inner), port.inside)
        self.there = there

    def is_stale(self, flow: Flow, local: set[bytes]) -> bool:
        leads = (flow.reply.source, flow.reply.source_port) == self.target
        if not self.there:
            return leads
        asked = flow.original.target
        mine = asked == self.at if self.at else asked in local or asked[:1] == b"\x7f"
        return mine and not leads


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def forget_stale(published: Iterable[Endpoint], withdrawn: Iterable[Endpoint] = ()) -> None:
    """Behind the rules. Nothing is asked where no port is UDP's or SCTP's; a kernel that does not
    tell of its flows keeps them until they are idle. Raises KernelError."""
    # (family, protocol) -> port -> its places
    wanted: dict[tuple[int, int], dict[int, list[_Place]]] = {}
    for endpoints, there in ((published, True), (withdrawn, False)):
        for endpoint in endpoints:
            for port in endpoint.ports:
                if port.address == LOOPBACK:
                    continue  # which is not translated
                if port.protocol in _PROTOCOLS and port.port:
                    key = (10 if ":" in port.address else 2, _PROTOCOLS[port.protocol])
                    place = _Place(port, endpoint, there=there)
                    wanted.setdefault(key, {}).setdefault(port.port, []).append(place)
    if not wanted:
        return
    with Socket() as link:
        local = routes.own_addresses(link)
    try:
        with conntrack.open_socket() as socket:
            socket.make_room(_ROOM)
            for (family, protocol), places in wanted.items():
                _forget(socket, conntrack.flows(socket, family, protocol), places, local)
    except KernelError as error:
        if error.errno not in _NOT_THERE:
            raise


def _forget(
    socket: Socket, found: Sequence[Flow], places: dict[int, list[_Place]], local: set[bytes]
) -> None:
    stale = [
        flow
        for flow in found
        if any(one.is_stale(flow, local) for one in places.get(flow.original.target_port, ()))
    ]
    for start in range(0, len(stale), _AT_ONCE):
        conntrack.forget(socket, stale[start : start + _AT_ONCE])
