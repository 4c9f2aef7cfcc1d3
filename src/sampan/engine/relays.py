"""The one way to a published port that the kernel has not: from the machine's ``::1``.

What is sent to 127.0.0.1 is translated (``route_localnet``); IPv6 has nothing like it: an answer
that is led back to ``::1`` is dropped on its way in. So connections to ``::1`` end at the socket
that holds the port (``sampan.network.ports``), and are carried to the container's own address from
here, both ways, as long as there is the daemon; without it they are refused at once, and a client
goes on to 127.0.0.1. TCP only. docs/decisions/0029-a-relay-for-one-address.md.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.network.networks import Networks

__all__ = ["Relays"]

_LOOPBACK = "::1"
_CHUNK = 1 << 16
_MOST = 512
"""Connections at a time: two descriptors each."""


class Relays:
    """One engine's. All of it on the loop's thread."""

    def __init__(self, engine: Engine, networks: Networks) -> None:
        self._engine = engine
        self._networks = networks
        self._listening: dict[str, list[socket.socket]] = {}
        self._running: dict[asyncio.Task[None], str] = {}

    def renew(self, container: str) -> None:
        """Its ports are these now."""
        self.pause(container)
        loop = asyncio.get_running_loop()
        for held, target in self._networks.loopback_sockets(container):
            listener = held.dup()
            listener.setblocking(False)
            loop.add_reader(listener.fileno(), self._accept, listener, container, target)
            self._listening.setdefault(container, []).append(listener)

    def pause(self, container: str) -> None:
        """Its ports are about to be others: nothing of ours is to hold them."""
        loop = asyncio.get_running_loop()
        for listener in self._listening.pop(container, ()):
            loop.remove_reader(listener.fileno())
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
        if peer.getsockname()[0] != _LOOPBACK or len(self._running) >= _MOST:
            peer.close()
            return
        task = self._engine.spawn_task(_carry(peer, target))
        self._running[task] = container
        task.add_done_callback(self._running.pop)


async def _carry(peer: socket.socket, target: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    with peer, socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as other:
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
