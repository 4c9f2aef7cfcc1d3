"""A container's sockets, and what comes in by them: UDP and TCP at 127.0.0.11, where port 53 leads.

Whoever asks is hostile. A turn of the loop takes a few packets of each socket, so that one that
floods does not keep others waiting; connections are few for each container, and end when they
are idle, do not read, or say what is no query.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from sampan.network.resolver.messages import (
    AXFR,
    IXFR,
    REFUSED,
    Malformed,
    failure,
    parse,
    reply,
)
from sampan.runtime.supervisor.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.network.resolver.forward import Deliver, Forwarder
    from sampan.network.resolver.names import Client, Names
    from sampan.network.resolver.sockets import Sockets
    from sampan.runtime.supervisor.loop import Loop

__all__ = ["ADDRESS", "PORT", "Answers", "Serving"]

ADDRESS = "127.0.0.11"
PORT = 53

IN_A_TURN = 32
"""Packets of one socket that are answered before the next socket's."""

CONNECTIONS = 16
IDLE = 10.0
LONGEST = 4096
"""Bytes of a query by TCP."""


class Answers:
    """Answers to packets: our own, or others'."""

    def __init__(
        self, names: Names, forwarder: Forwarder, host_servers: Callable[[], tuple[str, ...]]
    ) -> None:
        self._names = names
        self._forwarder = forwarder
        self._host_servers = host_servers

    def give(
        self, client: Client, packet: bytes, deliver: Deliver, *, tcp: bool, own: Sockets | None
    ) -> bool:
        """Have ``deliver`` called with what there is to say; whether it was a query."""
        try:
            query = parse(packet)
        except Malformed as error:
            if error.reply:
                deliver(error.reply)
            return False
        if tcp:
            query.limit = 65535
        found = self._names.answer(client, query)
        if found is not None:
            deliver(reply(query, *found, query.limit))
        elif query.qtype in (AXFR, IXFR):
            deliver(failure(query, REFUSED))
        else:
            servers = client.servers
            if servers is None:
                # The machine's own servers are asked from the machine.
                servers, own = self._host_servers(), None
            self._forwarder.ask(client.id, servers, query, deliver, tcp=tcp, own=own)
        return True

    def leave(self, own: Sockets) -> None:
        self._forwarder.leave(own)


class Serving:
    """One client with its sockets. ``process``, a pidfd, tells of its end: sockets keep a network
    namespace, with its links, and the daemon may be away."""

    def __init__(
        self,
        loop: Loop,
        answers: Answers,
        client: Client,
        descriptors: tuple[int, int, int],
        *,
        own: Sockets | None,
        ended: Callable[[str], None],
    ) -> None:
        self.client = client
        self._loop = loop
        self._answers = answers
        self._own = own
        udp, tcp, self._process = descriptors
        self._udp = socket.socket(fileno=udp)
        self._tcp = socket.socket(fileno=tcp)
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        self._connections: dict[int, _Connection] = {}
        loop.watch(self._process, READ, lambda _: ended(client.id))
        loop.watch(udp, READ, self._packets)
        loop.watch(tcp, READ, self._accept)

    def _packets(self, _: int) -> None:
        sock = self._udp
        for _ in range(IN_A_TURN):
            try:
                packet, peer = sock.recvfrom(LONGEST)
            except OSError:
                return
            sender = _Sender(sock, peer)
            self._answers.give(self.client, packet, sender, tcp=False, own=self._own)

    def _accept(self, _: int) -> None:
        try:
            sock, _peer = self._tcp.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors, it would be ready again at once.
            self._make_room()
            return
        if len(self._connections) >= CONNECTIONS:
            self._make_room()
        sock.setblocking(False)
        connection = _Connection(self, self._loop, sock)
        self._connections[sock.fileno()] = connection

    def _make_room(self) -> None:
        """The connection that has said nothing for the longest ends."""
        if self._connections:
            min(self._connections.values(), key=lambda one: one.active).close()

    def give(self, packet: bytes, deliver: Deliver) -> bool:
        return self._answers.give(self.client, packet, deliver, tcp=True, own=self._own)

    def left(self, descriptor: int) -> None:
        self._connections.pop(descriptor, None)

    def close_idle(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if now - connection.active > IDLE:
                connection.close()

    def close(self) -> None:
        """Its sockets go, and with them our hold on its network namespace."""
        if self._own is not None:
            self._answers.leave(self._own)
            self._own.close()
        for connection in list(self._connections.values()):
            connection.close()
        for fd in (self._process, self._udp.fileno(), self._tcp.fileno()):
            self._loop.forget(fd)
        self._udp.close()
        self._tcp.close()
        os.close(self._process)


class _Sender:
    """Replies by UDP to one peer, who may be gone, as may be our socket."""

    __slots__ = ("_peer", "_socket")

    def __init__(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        self._socket = sock
        self._peer = peer

    def __call__(self, message: bytes) -> None:
        try:
            self._socket.sendto(message, self._peer)
        except OSError:
            pass  # as lost on the way


class _Connection:
    """A client's TCP connection: queries in turn, each behind its length (RFC 7766)."""

    __slots__ = ("_loop", "_received", "_serving", "_socket", "active")

    def __init__(self, serving: Serving, loop: Loop, sock: socket.socket) -> None:
        self.active = time.monotonic()
        self._serving = serving
        self._loop = loop
        self._socket = sock
        self._received = b""
        loop.watch(sock.fileno(), READ, self._readable)

    def _readable(self, _: int) -> None:
        try:
            data = self._socket.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.active = time.monotonic()
        self._received += data
        while len(self._received) >= 2 and self._socket.fileno() >= 0:
            length = self._received[0] << 8 | self._received[1]
            if length > LONGEST:
                self.close()
                return
            if len(self._received) < 2 + length:
                return
            packet = self._received[2 : 2 + length]
            self._received = self._received[2 + length :]
            if not self._serving.give(packet, self._deliver):
                self.close()

    def _deliver(self, message: bytes) -> None:
        """All at once or not at all: what a peer that does not read leaves no room for ends it."""
        whole = struct.pack(">H", len(message)) + message
        try:
            if self._socket.send(whole) != len(whole):
                self.close()
        except OSError:
            self.close()

    def close(self) -> None:
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            self._loop.forget(descriptor)
            self._serving.left(descriptor)
            self._socket.close()
