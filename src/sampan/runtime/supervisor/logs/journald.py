"""The journald driver: the journal's native protocol (systemd, "Native Journal Protocol").

A datagram an entry, of ``FIELD=value`` lines; a value with a line feed in it is the field's name, a
line feed, its length (8 bytes, little-endian), the value. What is too large for a datagram goes in
a sealed memfd.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from sampan.errors import Unavailable
from sampan.kernel.memory import sealed_bytes
from sampan.runtime.supervisor.logs.sockets import Link, connect
from sampan.runtime.supervisor.logs.text import timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.runtime.supervisor.messages import LogOptions

__all__ = ["Journald", "open_journald", "resume_journald"]

_PRIORITIES = {"stdout": b"6", "stderr": b"3"}
_PARTIAL = b"CONTAINER_PARTIAL_MESSAGE=true\n"


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    key = name.encode("ascii")
    if b"\n" in data:
        return key + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return key + b"=" + data + b"\n"


class Journald:
    """The driver (``log.Driver``); a batch is a list of datagrams."""

    __slots__ = ("_fields", "_link")

    def __init__(self, link: Link, fields: dict[str, str]) -> None:
        self._link = link
        self._fields = b"".join(_field(name, value) for name, value in fields.items())

    def encode(self, stream: str, parts: Sequence[bytes], now: int) -> list[bytes]:
        """An entry for each line."""
        head = b"PRIORITY=" + _PRIORITIES[stream] + b"\n" + self._fields
        head += b"SYSLOG_TIMESTAMP=" + timestamp(now) + b"\nMESSAGE="
        entries = []
        for part in parts:
            if part.endswith(b"\n"):
                entries += [head + line + b"\n" for line in part[:-1].split(b"\n")]
            else:
                entries.append(_PARTIAL + head + part + b"\n")
        return entries

    def put(self, entries: list[bytes]) -> list[bytes]:
        """Send entries; returns those that were not taken."""
        for position, entry in enumerate(entries):
            if self._link.send(entry) <= 0:
                return entries[position:]
        return []

    @staticmethod
    def size(entries: list[bytes]) -> int:
        return sum(map(len, entries))

    @staticmethod
    def count(entries: list[bytes]) -> int:
        return len(entries)

    @staticmethod
    def split(entries: list[bytes], room: int) -> list[bytes]:
        """As many entries as fit into ``room`` bytes."""
        for position, entry in enumerate(entries):
            room -= len(entry)
            if room < 0:
                return entries[:position]
        return entries

    @property
    def problem(self) -> str:
        return self._link.problem

    def descriptors(self) -> dict[str, int]:
        return {"log": self._link.fileno()}

    def waits_for(self) -> tuple[int, int] | None:
        return self._link.waits_for()

    def close(self) -> None:
        self._link.close()


class _JournalLink(Link):
    """Passes what is too large for a datagram as a file."""

    __slots__ = ()

    def _refused(self, sock: socket.socket, data: bytes | memoryview, error: OSError) -> int:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            return super()._refused(sock, data, error)
        memory = sealed_bytes(bytes(data), "journal-entry")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
        try:
            sock.sendmsg([], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as again:
            return super()._refused(sock, data, again)
        finally:
            os.close(memory)
        return len(data)


def open_journald(options: LogOptions) -> socket.socket:
    """Connect to the journal; raises Unavailable when there is none."""
    try:
        return connect((socket.AF_UNIX, socket.SOCK_DGRAM, options.address))
    except OSError as error:
        raise Unavailable(
            "failed to initialize logging driver: journald is not enabled on this host: "
            f"{options.address}: {error.strerror}"
        ) from error


def resume_journald(options: LogOptions, fd: int) -> Journald:
    """Go on with the descriptor of a socket of ``open_journald``'s."""
    address = (socket.AF_UNIX, socket.SOCK_DGRAM, options.address)
    return Journald(_JournalLink(address, socket.socket(fileno=fd)), options.fields)
