"""Messages between daemon, zygote and monitors: JSON bodies and file descriptors.

The transport is a connected Unix socket of type SOCK_SEQPACKET (unix(7)): packets keep their
borders, arrive in order, and a closed peer reads as end of file. One packet is one message:

* a packet that opens with ``{`` is the JSON body itself, at most ``INLINE_LIMIT`` bytes;
* a packet ``M`` says that the body is in the first descriptor, a memfd sealed against writing,
  growing and shrinking, at most ``BODY_LIMIT`` bytes. Seals are verified before it is read, so
  the sender cannot change the text while it is parsed.

Other descriptors ride in the same packet (SCM_RIGHTS) and belong to the receiver, close-on-exec.
A message that cannot be understood raises ``InvalidArgument`` after its descriptors were closed;
the connection stays usable.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument
from sampan.kernel.memory import sealed_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ANCILLARY",
    "BODY_LIMIT",
    "INLINE_LIMIT",
    "MAX_FDS",
    "body_of",
    "connection",
    "decode",
    "pair",
    "receive",
    "rights",
    "send",
]

INLINE_LIMIT = 64 * 1024
BODY_LIMIT = 16 * 1024 * 1024
MAX_FDS = 16

_IN_MEMORY = b"M"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected with each other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def connection(fd: int) -> socket.socket:
    """The connected socket that a descriptor is; it owns the descriptor."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)


def send(sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Send one message with copies of ``fds``; blocks, or raises BlockingIOError, as ``sock`` does.

    Raises OSError (BrokenPipeError, ConnectionResetError) when the peer is gone.
    """
    body = _encode(message).encode("ascii")
    if len(body) <= INLINE_LIMIT:
        _send(sock, body, fds)
        return
    if len(body) > BODY_LIMIT:
        raise InvalidArgument(
            f"message of {len(body)} bytes: larger than the limit of {BODY_LIMIT} bytes"
        )
    memory = sealed_bytes(body, "sampan-message")
    try:
        _send(sock, _IN_MEMORY, (memory, *fds))
    finally:
        os.close(memory)


def _send(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one message and its descriptors; ``None`` at the end of the connection."""
    try:
        packet, ancillary, flags, _ = _recvmsg(sock)
    except ConnectionResetError:
        # The peer closed without reading all of ours. That is said once, before what it had sent.
        packet, ancillary, flags, _ = _recvmsg(sock)
    fds = rights(ancillary)
    if not packet:
        _close(fds)
        return None
    try:
        message = decode(body_of(packet, flags, fds))
    except InvalidArgument:
        _close(fds)
        raise
    if packet == _IN_MEMORY:
        os.close(fds.pop(0))
    return message, fds


def rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a packet."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
            fds.extend(received)
    return fds


def body_of(packet: bytes, flags: int, fds: Sequence[int]) -> bytes:
    """The JSON text of a packet with its recvmsg(2) flags and descriptors, which stay open.

    Raises InvalidArgument for what is cut off, and for a body in a memfd that is not as it must be.
    """
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise InvalidArgument(
            f"message: larger than {INLINE_LIMIT} bytes or with more than {MAX_FDS} descriptors"
        )
    if packet != _IN_MEMORY:
        return packet
    if not fds:
        raise InvalidArgument("message: its body was announced in a memfd, and none came")
    return _read_sealed(fds[0])


def _recvmsg(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    return sock.recvmsg(INLINE_LIMIT + 1, ANCILLARY, socket.MSG_CMSG_CLOEXEC)


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object of a message; ``InvalidArgument`` when it is anything else."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"message: not JSON: {error}") from error
    if not isinstance(message, dict):
        raise InvalidArgument("message: expected a JSON object")
    return message


def _read_sealed(fd: int) -> bytes:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise InvalidArgument("message: its body is not in a memfd") from error
    if seals & _SEALS != _SEALS:
        raise InvalidArgument("message: its memfd is not sealed against changes")
    size = os.fstat(fd).st_size
    if size > BODY_LIMIT:
        raise InvalidArgument(f"message of {size} bytes: the limit is {BODY_LIMIT} bytes")
    return os.pread(fd, size, 0)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
