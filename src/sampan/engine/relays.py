"""The one way to a published port that the kernel has not: from the machine's ``::1``.

What is sent to 127.0.0.1 is translated (``route_localnet``); IPv6 has nothing like it: an answer
that is led back to ``::1`` is dropped on its way in. So connections and datagrams to ``::1`` end at
the socket that holds the port (``sampan.network.ports``), and are carried to the container's own
address from here, both ways, as long as there is the daemon; without it they are refused at once,
and a client goes on to 127.0.0.1. docs/decisions/0029-a-relay-for-one-address.md.

A container without an IPv6 address has no such port held. Its ports of any IPv4 address are had at
``::1`` too, for ``localhost`` is that first, unless it is somebody else's.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from sampan.engine.datagrams import Datagrams
from sampan.network.ports import LOOPBACK, bound
from sampan.network.types import Port

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.network.networks import Networks

__all__ = ["Relays"]

_CHUNK = 1 << 16
_MOST = 512
"""Connections at a time: two descriptors each."""


class Relays:
    """One engine's. All of it on the loop's thread."""

    def __init__(self, engine: Engine, networks: Networks) -> None:
        self._engine = engine
        self._networks = networks
        self._listening: dict[str, list[socket.socket]] = {}
        self._datagrams = Datagrams()
        self._running: dict[asyncio.Task[None], str] = {}

    def renew(self, container: str) -> None:
        """Its ports are these now."""
        self.pause(container)
        for port, held, target in self._networks.local_ports(container):
            listener = held.dup() if held is not None else _beside(port)
            if listener is None:
                continue
            listener.setblocking(False)
            if port.protocol == "udp":
                self._datagrams.open(listener, target)
            else:
                loop = asyncio.get_running_loop()
                loop.add_reader(listener, self._accept, listener, container, target)
            self._listening.setdefault(container, []).append(listener)

    def pause(self, container: str) -> None:
        """Its ports are about to be others: nothing of ours is to hold them."""
        loop = asyncio.get_running_loop()
        for listener in self._listening.pop(container, ()):
            if listener.type == socket.SOCK_DGRAM:
                self._datagrams.close(listener)
            else:
                loop.remove_reader(listener)
            listener.close()

    def end(self, container: str) -> None:
        """It has ended: nobody would tell who is connected."""
        self.pause(container)
        for task, whose in self._running.items():
            if whose == container:
                task.cancel()

    def close(self) -> None:
        for container in list(self._listening):
            self.pause(container)

    def _accept(self, listener: socket.socket, container: str, target: tuple[str, int]) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:
            return  # it went away meanwhile
        # Everything else is translated; while somebody has deleted the rules it is nobody's.
        if peer.getsockname()[0] != LOOPBACK or len(self._running) >= _MOST:
            peer.close()
            return
        task = self._engine.spawn_task(_carry(peer, target))
        self._running[task] = container
        task.add_done_callback(self._running.pop)


def _beside(port: Port) -> socket.socket | None:
    """``::1`` of a port that is IPv4's. None where it is somebody's, or there is no IPv6."""
    try:
        return bound(
            Port(protocol=port.protocol, address=LOOPBACK, port=port.port, inside=port.inside)
        )
    except OSError:
        return None


async def _carry(peer: socket.socket, target: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with peer, socket.socket(family, socket.SOCK_STREAM) as other:
        peer.setblocking(False)
        other.setblocking(False)
        try:
            await loop.sock_connect(other, target)
            async with asyncio.TaskGroup() as both:
                both.create_task(_one_way(peer, other))
                both.create_task(_one_way(other, peer))
        except* OSError:
            pass  # either end is gone, and so is the other then


async def _one_way(source: socket.socket, sink: socket.socket) -> None:
    """Until its end, which is passed on: the other way may go on (tcp(7))."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)
