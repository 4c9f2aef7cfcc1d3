"""The local driver: blocks of whole lines, one for each read, with no cost per line (docs/logs.md).

    length (4 bytes)  kind (1)  zeros (3)  time in nanoseconds (8)  payload  length again (4)

Numbers are big-endian. Kinds: 1 and 2, output as it was written, whole lines or a piece of one; 0,
the attributes of all that follows as a JSON object, the first block of every file.
``sampan.engine.log_formats`` reads this.
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING

from sampan.runtime.supervisor.logs.files import FileDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.runtime.supervisor.logs.files import RotatedFile

__all__ = ["HEAD", "LENGTH", "LocalFile", "whole"]

HEAD = struct.Struct(">IB3xq")
LENGTH = struct.Struct(">I")
_AROUND = HEAD.size + LENGTH.size
_KINDS = {"stdout": 1, "stderr": 2}
_ATTRIBUTES = 0


def _block(kind: int, now: int, payload: bytes) -> bytes:
    size = len(payload)
    return HEAD.pack(size, kind, now) + payload + LENGTH.pack(size)


class LocalFile(FileDriver):
    """The driver (``log.Driver``); a batch is blocks."""

    __slots__ = ("_first",)

    def __init__(self, file: RotatedFile, attributes: dict[str, str] | None = None) -> None:
        super().__init__(file)
        self._first = b""
        if attributes:
            pairs = {name: attributes[name] for name in sorted(attributes)}
            self._first = _block(_ATTRIBUTES, 0, json.dumps(pairs).encode("ascii"))

    def encode(self, stream: str, parts: Sequence[bytes], now: int) -> bytes:
        """A block for each part that a ``Splitter`` gave."""
        kind = _KINDS[stream]
        return b"".join([_block(kind, now, part) for part in parts])

    def put(self, blocks: bytes) -> bytes:
        """Append blocks, rotating between them; returns those that were not taken."""
        file = self._file
        while blocks:
            if file.room == 0:
                file.rotate()
            if not file.size and self._first and not file.append(self._first, cut):
                break
            end = len(blocks)
            if room := file.room:
                end = _reach(blocks, room)
            taken = file.append(blocks[:end], cut)
            blocks = blocks[taken:]
            if taken != end:
                break
        return blocks

    @staticmethod
    def count(blocks: bytes) -> int:
        """Entries: lines, and pieces of lines."""
        total = position = 0
        while position < len(blocks):
            begin = position + HEAD.size
            end = begin + LENGTH.unpack_from(blocks, position)[0]
            total += blocks.count(b"\n", begin, end) + (blocks[end - 1] != 0x0A)
            position = end + LENGTH.size
        return total

    @staticmethod
    def split(blocks: bytes, room: int) -> bytes:
        """As many whole blocks as fit into ``room`` bytes."""
        return blocks[: cut(blocks, room)]


def cut(blocks: bytes, size: int) -> int:
    """The size of the whole blocks in the first ``size`` bytes."""
    position = 0
    while position + HEAD.size <= size:
        end = position + _AROUND + LENGTH.unpack_from(blocks, position)[0]
        if end > size:
            break
        position = end
    return position


def _reach(blocks: bytes, room: int) -> int:
    """The size of the blocks with which ``room`` bytes are used up, or of all."""
    position = 0
    while position < len(blocks) and position < room:
        position += _AROUND + LENGTH.unpack_from(blocks, position)[0]
    return position


def whole(fd: int, size: int) -> int:
    """How much of a file holds whole blocks.

    The last block says its length at both ends; only where they differ is the file walked through.
    """
    if _ends_well(fd, size):
        return size
    position = 0
    while size - position >= _AROUND:
        length = LENGTH.unpack(os.pread(fd, LENGTH.size, position))[0]
        end = position + _AROUND + length
        if (
            not length
            or end > size
            or LENGTH.unpack(os.pread(fd, LENGTH.size, end - LENGTH.size))[0] != length
        ):
            break
        position = end
    return position


def _ends_well(fd: int, size: int) -> bool:
    if size < _AROUND:
        return False
    length: int = LENGTH.unpack(os.pread(fd, LENGTH.size, size - LENGTH.size))[0]
    begin = size - _AROUND - length
    if begin < 0 or not length:
        return False  # No payload is empty: these are zeros that a crash left, or a time.
    first: int = LENGTH.unpack(os.pread(fd, LENGTH.size, begin))[0]
    return first == length
