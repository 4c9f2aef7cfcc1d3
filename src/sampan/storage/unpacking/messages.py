"""What is said about one layer, on a SOCK_SEQPACKET socket of its own, in MessagePack.

The asker sends a ``Job`` with descriptors (the blob's file, the directory, the first lower
layers), further ``Lower`` ones, then ``Go``. The child asks with ``Need`` for more of a blob that
is still coming in, and is told ``Available``; it says ``Position`` now and then; ``Done`` or
``Failed`` ends. The asker's end that closes cancels.

The child's answers go in pieces, each with a byte before it that says whether more of it follows:
what is left to settle of a layer has no bound that one message could have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import SampanError
from sampan.storage.archive.applied import Applied, WhiteoutStyle  # noqa: TC001 - read by msgspec

if TYPE_CHECKING:
    import socket

__all__ = [
    "FDS",
    "LIMIT",
    "Available",
    "Done",
    "Failed",
    "Go",
    "Job",
    "Lower",
    "Need",
    "Position",
    "decode_order",
    "encode",
    "receive",
    "send",
]

FDS = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
LIMIT = 1 << 16
"""Bytes of one message; the kernel's own limit is the socket's buffer, 208 KiB."""
_ANSWER_LIMIT = 64 << 20
_LAST, _MORE = b".", b"+"


class Job(msgspec.Struct, tag=True):
    """``available`` bytes of the blob are there; all of it, if ``final``."""

    style: WhiteoutStyle
    diff_id: str | None
    require_end: bool
    relative_names: bool
    loose: bool
    available: int
    final: bool


class Lower(msgspec.Struct, tag=True):
    """Descriptors of more layers below, the nearest first."""


class Go(msgspec.Struct, tag=True):
    pass


class Available(msgspec.Struct, tag=True):
    offset: int
    final: bool


class Need(msgspec.Struct, tag=True):
    """Everything up to here is read."""

    position: int


class Position(msgspec.Struct, tag=True):
    """The same, and there is more to read."""

    position: int


class Done(msgspec.Struct, tag=True):
    applied: Applied


class Failed(msgspec.Struct, tag=True):
    kind: str
    message: str


Order = Job | Lower | Go | Available
Answer = Need | Position | Done | Failed

encode = msgspec.msgpack.Encoder().encode
_order = msgspec.msgpack.Decoder(Order)
_answer = msgspec.msgpack.Decoder(Answer)


def decode_order(data: bytes) -> Order:
    order: Order = _order.decode(data)
    return order


def send(sock: socket.socket, answer: Answer) -> None:
    """Say something to the asker. Raises OSError when it is gone."""
    data = memoryview(encode(answer))
    while len(data) >= LIMIT:
        sock.send(_MORE + data[: LIMIT - 1])
        data = data[LIMIT - 1 :]
    sock.send(_LAST + data)


def receive(sock: socket.socket) -> Answer | None:
    """What the child says next; None when it has ended. Raises SampanError for what it may not."""
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            data = sock.recv(LIMIT)
        except ConnectionResetError:
            # It ended without having read our last word; its own last word is still to be read.
            continue
        if not data:
            return None
        parts.append(data[1:])
        size += len(data)
        if size > _ANSWER_LIMIT:
            raise SampanError("the layer leaves more to settle than 64 MiB can say")
        if data[:1] == _MORE:
            continue
        try:
            answer: Answer = _answer.decode(b"".join(parts))
        except msgspec.DecodeError as error:
            raise SampanError(
                f"the process that unpacked a layer talks nonsense: {error}"
            ) from error
        return answer
