"""The syslog driver: RFC 3164, RFC 5424 and the form that syslog(3) writes, over any transport.

    <30>Jan  2 15:04:05 tag[pid]: text                                  (nothing asked for)
    <30>Jan  2 15:04:05 host tag[pid]: text                             rfc3164
    <30>1 2026-01-02T15:04:05Z host tag pid tag - text                  rfc5424
    <30>1 2026-01-02T15:04:05.123456Z host tag pid tag - text           rfc5424micro

Standard output has severity 6 (informational), standard error 3 (error). A message ends with a line
feed, on a stream (RFC 6587, "non-transparent framing") and in a datagram. Empty lines are no
messages. A message cut short when a stream breaks is sent again, whole, on the next connection.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, Unavailable
from sampan.runtime.supervisor.logs.sockets import Link, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.runtime.supervisor.logs.sockets import Address
    from sampan.runtime.supervisor.messages import LogOptions

__all__ = ["Syslog", "open_syslog", "resume_syslog"]

_SEVERITIES = {"stdout": 6, "stderr": 3}
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_EMPTY = re.compile(rb"\n\n+")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")


class Header:
    """What stands before each message: all but the time is known beforehand."""

    __slots__ = ("_after", "_before", "_format")

    def __init__(self, form: str, facility: int, tag: str, pid: int) -> None:
        if form not in _FORMATS:
            raise InvalidArgument(f"log format {form!r}: not one of syslog's")
        host = os.uname().nodename
        version = "1 " if form.startswith("rfc5424") else ""
        self._format = form
        self._before = {
            stream: f"<{facility * 8 + severity}>{version}".encode("ascii")
            for stream, severity in _SEVERITIES.items()
        }
        after = f"{tag}[{pid}]: "
        if form == "rfc3164":
            after = f"{host} {after}"
        elif version:
            after = f"{host} {tag} {pid} {tag} - "
        self._after = f" {after}".encode("utf-8", "surrogateescape")

    def at(self, stream: str, now: int) -> bytes:
        """For a message of ``stream``; ``now`` in nanoseconds since the epoch."""
        seconds, fraction = divmod(now, 1_000_000_000)
        if self._format.startswith("rfc5424"):
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            if self._format == "rfc5424micro":
                when += f".{fraction // 1000:06d}"
            when += "Z"
        else:
            # Local time, and English whatever the locale is (RFC 3164, 4.1.2).
            t = time.localtime(seconds)
            clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
            when = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {clock}"
        return self._before[stream] + when.encode("ascii") + self._after


class Syslog:
    """The driver (``log.Driver``); a batch is messages, each with its line feed."""

    __slots__ = ("_begun", "_header", "_link", "_packets", "_sent")

    def __init__(self, link: Link, header: Header, *, packets: bool) -> None:
        self._link = link
        self._header = header
        self._packets = packets
        self._begun = b""
        self._sent = 0

    def encode(self, stream: str, parts: Sequence[bytes], now: int) -> bytes:
        """A message for each line that is not empty."""
        header = self._header.at(stream, now)
        messages = []
        for part in parts:
            text = _EMPTY.sub(b"\n", part).strip(b"\n")
            if text:
                messages.append(header + text.replace(b"\n", b"\n" + header) + b"\n")
        return b"".join(messages)

    def put(self, messages: bytes) -> bytes:
        """Send messages; returns those that were not taken."""
        return self._put_packets(messages) if self._packets else self._put_stream(messages)

    def _put_packets(self, messages: bytes) -> bytes:
        position = 0
        while position < len(messages):
            end = messages.index(b"\n", position) + 1
            if self._link.send(messages[position:end]) <= 0:
                break
            position = end
        return messages[position:]

    def _put_stream(self, messages: bytes) -> bytes:
        if self._sent and not messages.startswith(self._begun):
            # The rest of what was begun was given up: only a new connection begins anew.
            self._link.drop()
            self._sent = 0
        position = 0
        with memoryview(messages) as view:
            while position < len(messages):
                sent = self._link.send(view[position + self._sent :])
                if sent < 0:
                    self._sent = 0
                if sent <= 0:
                    break
                sent += self._sent
                whole = messages.rfind(b"\n", position, position + sent) + 1
                if whole:
                    sent -= whole - position
                    position = whole
                self._sent = sent
        rest = messages[position:]
        self._begun = rest[: rest.index(b"\n") + 1] if self._sent else b""
        return rest

    @staticmethod
    def size(messages: bytes) -> int:
        return len(messages)

    @staticmethod
    def count(messages: bytes) -> int:
        return messages.count(b"\n")

    @staticmethod
    def split(messages: bytes, room: int) -> bytes:
        """As many whole messages as fit into ``room`` bytes."""
        return messages[: messages.rfind(b"\n", 0, room) + 1]

    @property
    def problem(self) -> str:
        return self._link.problem

    def descriptors(self) -> dict[str, int]:
        return {"log": self._link.fileno()}

    def waits_for(self) -> tuple[int, int] | None:
        return self._link.waits_for()

    def close(self) -> None:
        self._link.close()


def _addresses(text: str) -> list[Address]:
    """What ``scheme://place`` may stand for; a name is looked up, which may take its time.

    Raises InvalidArgument, OSError.
    """
    scheme, _, place = text.partition("://")
    if not text:
        kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        return [(socket.AF_UNIX, kind, path) for path in _LOCAL for kind in kinds]
    if scheme in ("unix", "unixgram"):
        kind = socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM
        return [(socket.AF_UNIX, kind, place)]
    if scheme not in ("tcp", "udp"):
        raise InvalidArgument(f"syslog address {text!r}: expected tcp, udp, unix or unixgram")
    host, _, port = place.rpartition(":")
    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=kind)
    except UnicodeError:
        raise InvalidArgument(f"syslog address {text!r}: {host!r} can be no host's name") from None
    return [(family, kind, (str(where[0]), int(where[1]))) for family, _, _, _, where in found]


def open_syslog(options: LogOptions) -> socket.socket:
    """Connect to the server; raises Unavailable when it cannot be reached."""
    problem = "no address found"
    try:
        for address in _addresses(options.address):
            try:
                return connect(address)
            except OSError as error:
                problem = error.strerror or str(error)
    except OSError as error:
        problem = error.strerror or str(error)
    where = options.address or f"this machine's ({', '.join(_LOCAL)})"
    raise Unavailable(
        f"failed to initialize logging driver: the syslog server at {where} cannot be reached: "
        f"{problem}"
    )


def resume_syslog(options: LogOptions, fd: int, pid: int) -> Syslog:
    """Go on with the descriptor of a socket of ``open_syslog``'s; ``pid`` is the container's."""
    sock = socket.socket(fileno=fd)
    where = sock.getpeername()
    place = where if sock.family == socket.AF_UNIX else (where[0], where[1])
    link = Link((sock.family, sock.type, place), sock)
    header = Header(options.format, options.facility, options.tag, pid)
    return Syslog(link, header, packets=sock.type == socket.SOCK_DGRAM)
