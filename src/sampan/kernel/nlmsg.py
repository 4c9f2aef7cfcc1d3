"""Netlink messages: their framing, their attributes, and a socket that sends many at once.

After netlink(7). A ``Socket`` belongs to the network namespace it was opened in, wherever its
process goes later; so one process can speak to two namespaces. ``batch`` sends messages in one
system call: the kernel handles them in their order, each for itself, and acknowledges each.
Extended acknowledgements (Linux 4.12) say in words what an errno does not.
"""

from __future__ import annotations

import _socket
import struct
from typing import TYPE_CHECKING

from sampan.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NESTED = 0x8000

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_CAPPED = 0x100
_HAS_WORDS = 0x200
_ATTR_WORDS = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_DUMP_INTERRUPTED = 0x10
_RECEIVE = 1 << 16


class Message:
    """One message: its type, ``NLM_F_*``, its body, and what it is about, for errors.

    ``ignore``: errnos that mean that it is as it should be already.
    """

    __slots__ = ("body", "call", "flags", "ignore", "kind", "target")

    def __init__(
        self,
        kind: int,
        body: bytes,
        flags: int = 0,
        *,
        call: str = "netlink",
        target: str = "",
        ignore: tuple[int, ...] = (),
    ) -> None:
        self.kind = kind
        self.body = body
        self.flags = flags
        self.call = call
        self.target = target
        self.ignore = ignore

    def pack(self, sequence: int, more_flags: int = NLM_F_ACK) -> bytes:
        """The bytes of it, padded for the next one."""
        length = _HEADER.size + len(self.body)
        flags = NLM_F_REQUEST | self.flags | more_flags
        return _HEADER.pack(length, self.kind, flags, sequence, 0) + self.body + bytes(-length % 4)


class Socket:
    """A netlink socket. Not for two threads at once; a context manager."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        try:
            self._socket = _socket.socket(
                _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol
            )
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            raise KernelError("socket", error.errno or 0, "AF_NETLINK") from None
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """Its address, by which what the kernel tells others of its requests names it."""
        try:
            return self._bind()
        except OSError as error:
            raise KernelError("bind", error.errno or 0, "AF_NETLINK") from None

    def _bind(self) -> int:
        if not self._socket.getsockname()[0]:
            self._socket.bind((0, 0))
        return int(self._socket.getsockname()[0])

    def waiting(self) -> Iterator[bytes]:
        """The datagrams that are there; ``ENOBUFS`` where some were lost."""
        try:
            while True:
                yield self._socket.recv(_RECEIVE, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise KernelError("recv", error.errno or 0, "AF_NETLINK") from None

    def subscribe(self, group: int) -> None:
        """Receive what the kernel tells a multicast group, ``RTNLGRP_*`` or ``NFNLGRP_*``, from now
        on, between the answers to what is asked."""
        try:
            self._bind()  # who has no address is told nothing
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            raise KernelError("setsockopt", error.errno or 0, "NETLINK_ADD_MEMBERSHIP") from None

    def skip(self) -> None:
        """Throw away what has been received and not read."""
        try:
            while True:
                self._socket.recv(_RECEIVE, _socket.MSG_DONTWAIT)
        except OSError:
            return  # nothing more, or more than there was room for

    def make_room(self, size: int) -> None:
        """Let a batch of ``size`` bytes be sent, and as much be answered (CAP_NET_ADMIN)."""
        try:
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                self._socket.setsockopt(_socket.SOL_SOCKET, option, size)
        except OSError as error:
            raise KernelError("setsockopt", error.errno or 0, "SO_SNDBUFFORCE") from None

    def batch(self, messages: Sequence[Message]) -> None:
        """Send the messages in one call. Raises the first one's KernelError; those behind it have
        been tried all the same (of rtnetlink: there is no transaction)."""
        if not messages:
            return
        first = self._sequence + 1
        data = b"".join(one.pack(first + number) for number, one in enumerate(messages))
        self._sequence += len(messages)
        failures: list[KernelError] = []
        try:
            self._socket.send(data)
            left = len(messages)
            while left:
                for kind, _, sequence, content in self._receive():
                    if kind != NLMSG_ERROR or not 0 <= sequence - first < len(messages):
                        continue
                    left -= 1
                    failure = failed(messages[sequence - first], content)
                    if failure is not None:
                        failures.append(failure)
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(messages[0].call, error.errno or 0, "batch") from None
        if failures:
            raise failures[0]

    def ask(self, message: Message, *, dump: bool = False) -> list[tuple[int, bytes]]:
        """(type, body) of each answer. A dump that changed while it was read is asked for again,
        as rtnetlink(7) has it. Raises KernelError."""
        while True:
            answers = self._ask(message, NLM_F_DUMP if dump else NLM_F_ACK)
            if answers is not None:
                return answers

    def _ask(self, message: Message, flags: int) -> list[tuple[int, bytes]] | None:
        self._sequence += 1
        answers: list[tuple[int, bytes]] = []
        interrupted = False
        try:
            self._socket.send(message.pack(self._sequence, flags))
            while True:
                for kind, marks, sequence, content in self._receive():
                    if sequence != self._sequence:
                        continue
                    interrupted = interrupted or bool(marks & _DUMP_INTERRUPTED)
                    if kind == NLMSG_ERROR:
                        failure = failed(message, content)
                        if failure is not None:
                            raise failure
                        return answers
                    if kind == NLMSG_DONE:
                        return None if interrupted else answers
                    answers.append((kind, content))
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(message.call, error.errno or 0, message.target) from None

    def exchange(self, data: bytes, call: str) -> Iterator[tuple[int, int, int, bytes]]:
        """Send ``data`` as it is, and give what comes back for as long as it is asked for."""
        try:
            self._socket.send(data)
            while True:
                yield from self._receive()
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(call, error.errno or 0) from None

    def _receive(self) -> Iterable[tuple[int, int, int, bytes]]:
        return list(split(self._socket.recv(_RECEIVE)))


def split(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each message in a datagram.

    Of an error the flags, which say what follows it, are put before its body.
    """
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, marks, sequence, _ = _HEADER.unpack_from(data, offset)
        content = data[offset + _HEADER.size : offset + length]
        if kind == NLMSG_ERROR:
            content = struct.pack("=H", marks) + content
        offset += (max(length, _HEADER.size) + 3) & ~3
        yield kind, marks, sequence, content


def senders(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, port of who caused it, body) of each message in a datagram that tells of changes."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, port = _HEADER.unpack_from(data, offset)
        yield kind, port, data[offset + _HEADER.size : offset + length]
        offset += (max(length, _HEADER.size) + 3) & ~3


def failed(message: Message, content: bytes) -> KernelError | None:
    """What an acknowledgement says: None for "done"."""
    marks, number = struct.unpack_from("=Hi", content)
    if not number or -number in message.ignore:
        return None
    target = message.target
    if marks & _HAS_WORDS:
        # Behind the error: the header of what was sent, and its body unless that is left out.
        offset = 6 + _HEADER.size
        if not marks & _CAPPED:
            (length,) = struct.unpack_from("=I", content, 6)
            offset = 6 + ((length + 3) & ~3)
        words = attributes(content, offset).get(_ATTR_WORDS, b"").rstrip(b"\0").decode()
        if words:
            target = f"{target} ({words})" if target else words
    return KernelError(message.call, -number, target)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to four bytes; nest by giving attributes as the value."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """An attribute of attributes, marked as one: strict parsers of the kernel want that."""
    return attribute(kind | NESTED, b"".join(values))


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from ``offset`` on, by their type; of several of one type the last."""
    return dict(attribute_list(body, offset))


def attribute_list(body: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """The attributes from ``offset`` on, in their order."""
    found = []
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found.append((kind & 0x3FFF, body[offset + _ATTRIBUTE.size : offset + length]))
        offset += (length + 3) & ~3
    return found
