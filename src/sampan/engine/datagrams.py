"""Datagrams from the machine's ``::1`` to published ports: what ``relays`` is for connections.

Who sends has a flow: a socket to the container, by which answers find back to it. Nobody ends a
flow, so it is over when it has been idle, for as long as the kernel gives its own ones
(nf_conntrack_udp_timeout and, once it was answered, nf_conntrack_udp_timeout_stream of
nf_conntrack-sysctl(7)), or when the room for flows is used up and it was idle the longest. That
nobody listens in the container is told to who sent, as the kernel tells it (RFC 4443, 3.1).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    _Peer: TypeAlias = tuple[str, int, int, int]

__all__ = ["Datagrams"]

_LOOPBACK = bytes(15) + b"\x01"
_PKTINFO = struct.Struct("=16sI")  # in6_pktinfo, ipv6(7): address, link
_LARGEST = 1 << 16
_MOST = 512
"""Flows at a time: a descriptor each."""
_ROUND = 64
"""Datagrams of one socket in a go: then others have theirs."""
_IDLE = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
_UNREACHABLE = {errno.ECONNREFUSED: 4, errno.EHOSTUNREACH: 3}
"""Of ICMPv6 type 1 the codes: port, address."""


class _Flow:
    """``client`` sent something to ``listener``; ``inner`` is connected to the container."""

    __slots__ = ("answered", "client", "inner", "listener", "used")

    def __init__(self, listener: socket.socket, client: _Peer, inner: socket.socket) -> None:
        self.listener, self.client, self.inner = listener, client, inner
        self.answered = False
        self.used = 0.0


class Datagrams:
    """One engine's. All of it on the loop's thread."""

    def __init__(self) -> None:
        # Who was idle the longest comes first.
        self._flows: OrderedDict[tuple[socket.socket, _Peer], _Flow] = OrderedDict()
        self._idle = (30, 120)
        self._sweep: asyncio.TimerHandle | None = None

    def open(self, listener: socket.socket, target: tuple[str, int]) -> None:
        """Carry what is sent to ``::1`` and comes to ``listener``, until ``close``."""
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._idle = (_seconds(_IDLE, 30), _seconds(f"{_IDLE}_stream", 120))
        asyncio.get_running_loop().add_reader(listener, self._arrived, listener, target)

    def close(self, listener: socket.socket) -> None:
        """End its flows. The socket stays the caller's."""
        asyncio.get_running_loop().remove_reader(listener)
        for flow in [flow for flow in self._flows.values() if flow.listener is listener]:
            self._end(flow)

    def _arrived(self, listener: socket.socket, target: tuple[str, int]) -> None:
        for _ in range(_ROUND):
            try:
                data, extra, _, client = listener.recvmsg(
                    _LARGEST, socket.CMSG_SPACE(_PKTINFO.size)
                )
            except OSError:
                return  # that was all
            # Everything else is translated; while somebody has deleted the rules it is nobody's.
            if not any(content[:16] == _LOOPBACK for _, _, content in extra):
                continue
            flow = self._flows.get((listener, client)) or self._begin(listener, client, target)
            if flow is not None:
                self._use(flow)
                self._pass_on(flow, data)

    def _begin(
        self, listener: socket.socket, client: _Peer, target: tuple[str, int]
    ) -> _Flow | None:
        if len(self._flows) >= _MOST:
            self._end(next(iter(self._flows.values())))
        try:
            inner = socket.socket(
                socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM
            )
        except OSError:
            return None  # no descriptor is left: lost, as datagrams may be
        inner.setblocking(False)
        try:
            inner.connect(target)
        except OSError:
            inner.close()
            return None  # the bridge is gone
        flow = self._flows[listener, client] = _Flow(listener, client, inner)
        loop = asyncio.get_running_loop()
        loop.add_reader(inner, self._answer, flow)
        if self._sweep is None:
            self._sweep = loop.call_later(min(self._idle), self._sweep_idle)
        return flow

    def _pass_on(self, flow: _Flow, data: bytes) -> None:
        # An error that waits is of a datagram before; this one was not sent then.
        for _ in range(2):
            try:
                flow.inner.send(data)
                return
            except BlockingIOError:
                return  # there is no room: lost
            except OSError as error:
                _tell(flow, error)

    def _answer(self, flow: _Flow) -> None:
        for _ in range(_ROUND):
            try:
                data = flow.inner.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                _tell(flow, error)
                return
            flow.answered = True
            self._use(flow)
            source = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(_LOOPBACK, 0))
            try:
                flow.listener.sendmsg([data], [source], 0, flow.client)
            except OSError:
                return  # there is no room, or nobody any more

    def _use(self, flow: _Flow) -> None:
        flow.used = asyncio.get_running_loop().time()
        self._flows.move_to_end((flow.listener, flow.client))

    def _sweep_idle(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for flow in list(self._flows.values()):
            if now - flow.used >= self._idle[flow.answered]:
                self._end(flow)
        if self._flows:
            self._sweep = loop.call_later(min(self._idle), self._sweep_idle)

    def _end(self, flow: _Flow) -> None:
        del self._flows[flow.listener, flow.client]
        asyncio.get_running_loop().remove_reader(flow.inner)
        flow.inner.close()
        if not self._flows and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _tell(flow: _Flow, error: OSError) -> None:
    """Who sent hears what the container's kernel said: the error of a connected socket, udp(7)."""
    code = _UNREACHABLE.get(error.errno or 0)
    if code is None:
        return
    host, port, _, scope = flow.client
    address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    header = struct.pack("!IHBB", 6 << 28, 8, socket.IPPROTO_UDP, 64) + address + _LOOPBACK
    sent = header + struct.pack("!HHHH", port, flow.listener.getsockname()[1], 8, 0)
    try:
        with socket.socket(
            socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6
        ) as raw:
            raw.sendto(struct.pack("!BBHI", 1, code, 0, 0) + sent, (host, 0, 0, scope))
    except OSError:
        pass  # it waits for an answer in vain, as for any that is lost


def _seconds(path: str, usual: int) -> int:
    """A kernel that tracks no flows yet has no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return max(1, int(file.read()))
    except OSError:
        return usual
