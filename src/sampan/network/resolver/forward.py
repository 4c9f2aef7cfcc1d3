"""Asking others: what no name of ours answers goes to name servers.

The machine's are asked from the process's network, which is the machine's, a client's own ones from
the client's network (``sockets``): there they may be others, or the only way to them.

Every question has a socket to itself, connected, so that only its server can answer it, from a
port nobody knows, with a random ID (RFC 5452). Two seconds a server, then the next; one that did
not answer is asked last for a while. Nothing is kept of an answer.

The same question that is asked again meanwhile waits for the same answer: so a server that asks
us what we ask it ends at its time-out, instead of growing. What is under way is bounded, for all
and for each client: beyond that it is SERVFAIL at once, and others do not notice.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from sampan.network.resolver.messages import (
    NOTIMP,
    REFUSED,
    SERVFAIL,
    Query,
    failure,
    fit,
    is_reply_to,
    rcode,
)
from sampan.runtime.supervisor.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.network.resolver.sockets import Sockets
    from sampan.runtime.supervisor.loop import Loop

    Deliver = Callable[[bytes], None]

__all__ = ["Forwarder", "HostServers"]

TIMEOUT = 2.0
SHUNNED = 10.0
"""Seconds for which a server that did not answer is asked last."""

MOST = 1024
MOST_OF_CLIENT = 256
MOST_WAITING = 64
MOST_SERVERS = 3
"""As in resolv.conf(5), MAXNS."""


class HostServers:
    """The name servers of resolv.conf(5), read again when the file has changed: a machine that
    moves to another network need not tell us."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = ()
        self._next = 0.0

    def __call__(self) -> tuple[str, ...]:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            try:
                status = os.stat(self._path)
                # Its size too: a file that is written in place is empty for a moment, and a clock's
                # tick is longer than that.
                seen = (status.st_mtime_ns, status.st_ino, status.st_size)
                if seen != self._seen:
                    self._servers = self._read()
                    self._seen = seen
            except OSError:
                self._seen = None
                self._servers = ()
        # Without any, the server is on the machine itself, says the manual page.
        return self._servers or ("127.0.0.1",)

    def _read(self) -> tuple[str, ...]:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
        found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
        return tuple(found[:MOST_SERVERS])


class _Pending:
    """A question under way. ``tries``: the servers that are not asked yet."""

    __slots__ = (
        "client",
        "deadline",
        "ident",
        "key",
        "own",
        "query",
        "received",
        "refusal",
        "server",
        "socket",
        "tcp",
        "tries",
        "waiting",
    )

    def __init__(
        self,
        key: object,
        client: str,
        query: Query,
        servers: list[str],
        *,
        tcp: bool,
        own: Sockets | None,
    ) -> None:
        self.key = key
        self.own = own
        self.client = client
        self.query = query
        self.tries = servers
        self.tcp = tcp
        self.waiting: list[tuple[Query, Deliver]] = []
        self.server = ""
        self.socket: socket.socket | None = None
        self.deadline = 0.0
        self.ident = b""
        self.received = b""
        self.refusal = b""


class Forwarder:
    """All questions under way."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pending: dict[object, _Pending] = {}  # in the order of their deadlines
        self._of_client: dict[str, int] = {}
        self._shunned: dict[tuple[str, str], float] = {}
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._pending)

    def ask(
        self,
        client: str,
        servers: tuple[str, ...],
        query: Query,
        deliver: Deliver,
        *,
        tcp: bool,
        own: Sockets | None = None,
    ) -> None:
        """Have ``deliver`` called with a reply, at once or later. ``own``: from the client's own
        network, where the same address may be another server than elsewhere."""
        key = (client if own is not None else "", servers, tcp, query.packet[2:])
        pending = self._pending.get(key)
        if pending is not None:
            if len(pending.waiting) < MOST_WAITING:
                pending.waiting.append((query, deliver))
            else:
                deliver(failure(query, SERVFAIL))
            return
        count = self._of_client.get(client, 0)
        if len(self._pending) >= MOST or count >= MOST_OF_CLIENT:
            deliver(failure(query, SERVFAIL))
            return
        now = time.monotonic()
        usable = servers[:MOST_SERVERS]
        place = client if own is not None else ""
        ordered = sorted(usable, key=lambda server: self._shunned.get((place, server), 0.0) > now)
        pending = _Pending(key, client, query, ordered, tcp=tcp, own=own)
        pending.waiting.append((query, deliver))
        self._pending[key] = pending
        self._of_client[client] = count + 1
        self._attempt(pending)

    def _attempt(self, pending: _Pending) -> None:
        """Ask the next server, or answer that none has."""
        self._drop(pending)
        while pending.tries:
            pending.server = pending.tries.pop(0)
            try:
                sent = self._send(pending)
            except _Busy:
                pending.tries.insert(0, pending.server)
                assert pending.own is not None
                pending.own.waiting.append(pending)
                sent = True
            if sent:
                pending.deadline = time.monotonic() + TIMEOUT
                # To the end: the first of the dictionary is due first.
                self._pending[pending.key] = self._pending.pop(pending.key)
                if not self._sweeping:
                    self._sweeping = True
                    self._loop.call_later(TIMEOUT, self._sweep)
                return
            self._shun(pending)
        self._finish(pending, pending.refusal)

    def _send(self, pending: _Pending) -> bool:
        kind = socket.SOCK_STREAM if pending.tcp else socket.SOCK_DGRAM
        pending.ident = os.urandom(2)
        pending.received = b""
        try:
            family, target = _address(pending.server)
            if pending.own is None:
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            else:
                target = _mapped(target, pending.own.family)
                idle = pending.own.take(kind)
                if idle is None:
                    raise _Busy
                sock = idle
        except OSError:
            return False
        try:
            if pending.tcp:
                try:
                    sock.connect(target)
                except BlockingIOError:
                    pass  # connect(2), EINPROGRESS
                self._loop.watch(sock.fileno(), WRITE, lambda _: self._connected(pending))
            else:
                sock.connect(target)
                sock.send(pending.ident + pending.query.packet[2:])
                self._loop.watch(sock.fileno(), READ, lambda _: self._readable(pending))
        except OSError:
            self._loop.forget(sock.fileno())
            self._done(pending, sock)
            return False
        pending.socket = sock
        return True

    def _done(self, pending: _Pending, sock: socket.socket) -> None:
        if pending.own is None:
            sock.close()
            return
        pending.own.give_back(sock)
        if pending.own.waiting:
            self._loop.call_later(0.0, lambda: self._next(pending.own))

    def _next(self, own: Sockets | None) -> None:
        """A socket is idle: the first question that waits for one and is still asked has it."""
        while own is not None and own.waiting:
            pending: _Pending = own.waiting.popleft()
            if self._pending.get(pending.key) is pending and pending.socket is None:
                self._attempt(pending)
                return

    def leave(self, own: Sockets) -> None:
        """A client is gone, and with it who waits for answers."""
        own.waiting.clear()
        for pending in list(self._pending.values()):
            if pending.own is own:
                self._finish(pending, b"")

    def _connected(self, pending: _Pending) -> None:
        sock = pending.socket
        if sock is None:
            return
        packet = pending.ident + pending.query.packet[2:]
        message = struct.pack(">H", len(packet)) + packet
        try:
            if sock.send(message) == len(message):
                self._loop.forget(sock.fileno())
                self._loop.watch(sock.fileno(), READ, lambda _: self._more(pending))
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._failed(pending)

    def _more(self, pending: _Pending) -> None:
        """Another part of a reply by TCP."""
        sock = pending.socket
        if sock is None:
            return
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        pending.received += data
        found = pending.received
        if not data:
            self._failed(pending)
        elif len(found) >= 2 and len(found) - 2 >= found[0] << 8 | found[1]:
            self._judge(pending, found[2 : 2 + (found[0] << 8 | found[1])])

    def _readable(self, pending: _Pending) -> None:
        sock = pending.socket
        if sock is None:
            return
        try:
            answer = sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            self._failed(pending)  # nobody listens there
            return
        self._judge(pending, answer)

    def _judge(self, pending: _Pending, answer: bytes) -> None:
        if not is_reply_to(answer, pending.query, int.from_bytes(pending.ident, "big")):
            if pending.tcp:
                self._failed(pending)
            return  # a lie: the true one may still come
        if rcode(answer) in (SERVFAIL, NOTIMP, REFUSED):
            pending.refusal = answer
            self._attempt(pending)
        else:
            self._finish(pending, answer)

    def _failed(self, pending: _Pending) -> None:
        self._shun(pending)
        self._attempt(pending)

    def _shun(self, pending: _Pending) -> None:
        if len(self._shunned) > MOST:
            self._shunned.clear()
        place = pending.client if pending.own is not None else ""
        self._shunned[place, pending.server] = time.monotonic() + SHUNNED

    def _drop(self, pending: _Pending) -> None:
        if pending.socket is not None:
            sock, pending.socket = pending.socket, None
            self._loop.forget(sock.fileno())
            self._done(pending, sock)

    def _finish(self, pending: _Pending, answer: bytes) -> None:
        self._drop(pending)
        del self._pending[pending.key]
        left = self._of_client[pending.client] - 1
        if left:
            self._of_client[pending.client] = left
        else:
            del self._of_client[pending.client]
        for query, deliver in pending.waiting:
            deliver(fit(answer, query) if answer else failure(query, SERVFAIL))

    def _sweep(self) -> None:
        now = time.monotonic()
        for pending in list(self._pending.values()):
            if pending.deadline > now:
                break
            if pending.socket is None:
                self._finish(pending, pending.refusal)  # none of its sockets became idle
            else:
                self._failed(pending)
        first = next(iter(self._pending.values()), None)
        self._sweeping = first is not None
        if first is not None:
            self._loop.call_later(max(0.0, first.deadline - now), self._sweep)


class _Busy(Exception):  # it is no error
    """None of a client's own sockets is idle."""


def _mapped(
    target: tuple[str, int] | tuple[str, int, int, int], family: int
) -> tuple[str, int] | tuple[str, int, int, int]:
    """For sockets of IPv6, an address of IPv4 as one of theirs. Raises OSError."""
    if family == socket.AF_INET6 and len(target) == 2:
        return f"::ffff:{target[0]}", target[1], 0, 0
    if family == socket.AF_INET and len(target) == 4:
        raise OSError("no IPv6 there")
    return target


def _address(
    server: str,
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    """A server's address family and socket address. Raises OSError."""
    if ":" not in server:
        return socket.AF_INET, (server, 53)
    address, _, zone = server.partition("%")
    scope = 0
    if zone:
        scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return socket.AF_INET6, (address, 53, 0, scope)
