"""What is said about one layer, on a SOCK_SEQPACKET socket of its own, in MessagePack.

The asker sends a ``Job`` with descriptors (the blob's file, the directory, the first lower
layers), further ``Lower`` ones, then ``Go``. The child asks with ``Need`` for more of a blob that
is still coming in, and is told ``Available``; it says ``Position`` now and then; ``Done`` or
``Failed`` ends. The asker's end that closes cancels.
"""

from __future__ import annotations

import msgspec

from sampan.storage.archive.apply import Applied, WhiteoutStyle  # noqa: TC001 - read by msgspec

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
    "decode_answer",
    "decode_order",
    "encode",
]

FDS = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
LIMIT = 1 << 20
"""Bytes of one message: what is left to settle of a layer is the longest."""


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


def decode_answer(data: bytes) -> Answer:
    answer: Answer = _answer.decode(data)
    return answer
