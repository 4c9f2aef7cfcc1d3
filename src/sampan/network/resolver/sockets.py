"""Sockets of a container's network namespace, from which its own name servers are asked.

The process may not enter that namespace; the daemon made these there. Each is used again and again:
connect(2) with AF_UNSPEC takes its port away, so the next question has one that nobody knows.
"""

from __future__ import annotations

import collections
import socket

from sampan.errors import KernelError
from sampan.kernel.syscalls import buffer, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["Sockets"]

_NOBODY = bytes(16)  # struct sockaddr, AF_UNSPEC


class Sockets:
    """One client's. ``waiting``: questions for which none is idle."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._idle: dict[int, list[socket.socket]] = {socket.SOCK_DGRAM: [], socket.SOCK_STREAM: []}
        self._all = [socket.socket(fileno=one) for one in descriptors]
        self.family = self._all[0].family
        self.waiting: collections.deque[Any] = collections.deque()
        for sock in self._all:
            sock.setblocking(False)
            self._idle.setdefault(sock.type & 0xF, []).append(sock)

    def take(self, kind: int) -> socket.socket | None:
        idle = self._idle[kind]
        return idle.pop() if idle else None

    def give_back(self, sock: socket.socket) -> None:
        """It is nobody's, and what has come late is not read."""
        if sock.fileno() < 0:
            return
        kind = sock.type & 0xF
        try:
            syscall("connect", sock.fileno(), buffer(_NOBODY), len(_NOBODY), target="AF_UNSPEC")
            if kind == socket.SOCK_DGRAM:
                _drain(sock)
        except (KernelError, OSError):
            sock.close()
            return
        self._idle[kind].append(sock)

    def close(self) -> None:
        for sock in self._all:
            sock.close()


def _drain(sock: socket.socket) -> None:
    while True:
        try:
            sock.recv(1)
        except BlockingIOError:
            return
        except ConnectionError:
            continue  # an answer of ICMP's to the question before
