"""The two forms a log has in a file, read: lines of JSON, and blocks (docs/logs.md).

A format takes bytes from a position on and gives entries and what it could not use yet; and it
finds the last entries of a file from its end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import rfc3339
from sampan.engine.log import log
from sampan.errors import Corrupt
from sampan.runtime.supervisor.logs.local import HEAD, LENGTH, whole

if TYPE_CHECKING:
    from typing import Protocol

    class Format(Protocol):
        """One file's reader: it remembers what the file says of all its entries."""

        def last(self, fd: int, wanted: int) -> tuple[int, int]:
            """How many of the last ``wanted`` entries the file has, and where to begin; of what
            stands there before them nothing will be told."""

        def decode(self, data: bytes) -> tuple[list[Entry], bytes]:
            """Entries, and the bytes behind them that are not yet one."""


__all__ = ["Entry", "Format", "format_of"]

_BLOCK = 256 * 1024
_STREAMS = {1: "stdout", 2: "stderr"}


class _Line(msgspec.Struct):
    """An entry of a json-file: ``log`` with its line feed, if the program wrote one."""

    log: str
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


class _Output(msgspec.Struct):
    """An entry of a block."""

    log: bytes
    stream: str
    time: str
    attrs: dict[str, str]


Entry = _Line | _Output
"""``time`` in RFC 3339; ``log`` is text in one format and bytes in the other."""

_decoder = msgspec.json.Decoder(_Line)
_attributes = msgspec.json.Decoder(dict[str, str])


class JsonLines:
    """A json-file."""

    __slots__ = ()

    def last(self, fd: int, wanted: int) -> tuple[int, int]:
        end = os.lseek(fd, 0, os.SEEK_END)
        if wanted <= 0:
            return 0, end
        found = 0
        position = end
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            block = os.pread(fd, size, position)
            count = block.count(b"\n")
            # The line feed that ends the file ends the last line and begins none.
            if position + size == end and block.endswith(b"\n"):
                count -= 1
            if found + count < wanted:
                found += count
                continue
            cut = len(block)
            if position + size == end and block.endswith(b"\n"):
                cut -= 1
            for _ in range(wanted - found):
                cut = block.rfind(b"\n", 0, cut)
            return wanted, position + cut + 1
        return found + (1 if end else 0), 0

    def decode(self, data: bytes) -> tuple[list[Entry], bytes]:
        cut = data.rfind(b"\n") + 1
        if not cut:
            return [], data
        whole = data[:cut]
        try:
            entries: list[Entry] = list(_decoder.decode_lines(whole))
        except (msgspec.DecodeError, UnicodeDecodeError):
            entries = _readable(whole)
        return entries, data[cut:]


def _readable(lines: bytes) -> list[Entry]:
    """Line by line: a machine that crashed while one was written must not hide the others."""
    entries: list[Entry] = []
    for line in lines.splitlines():
        try:
            entries.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warn("a line of a container's log cannot be read", error=error)
    return entries


class Blocks:
    """A local log."""

    __slots__ = ("_attrs", "_skip")

    def __init__(self) -> None:
        self._attrs: dict[str, str] = {}
        self._skip = 0

    def last(self, fd: int, wanted: int) -> tuple[int, int]:
        # The last block may be on its way to the file.
        end = whole(fd, os.lseek(fd, 0, os.SEEK_END))
        self._begin(fd)
        found = 0
        position = end
        while position > 0 and found < wanted:
            length = LENGTH.unpack(os.pread(fd, LENGTH.size, position - LENGTH.size))[0]
            position -= HEAD.size + length + LENGTH.size
            if position < 0:
                raise Corrupt("a local log: its blocks do not fit together")
            block = os.pread(fd, HEAD.size + length, position)
            if HEAD.unpack_from(block)[1] in _STREAMS:
                found += block.count(b"\n", HEAD.size) + (not block.endswith(b"\n"))
        self._skip = max(0, found - wanted)
        return min(found, wanted), position

    def _begin(self, fd: int) -> None:
        """Whoever does not read from the beginning must know the attributes that stand there."""
        head = os.pread(fd, HEAD.size, 0)
        if len(head) == HEAD.size:
            length, kind, _ = HEAD.unpack(head)
            if kind == 0:
                self._attrs = _attributes.decode(os.pread(fd, length, HEAD.size))

    def decode(self, data: bytes) -> tuple[list[Entry], bytes]:
        entries: list[Entry] = []
        position = 0
        while len(data) - position >= HEAD.size:
            length, kind, moment = HEAD.unpack_from(data, position)
            begin = position + HEAD.size
            end = begin + length
            if end + LENGTH.size > len(data):
                break
            position = end + LENGTH.size
            if kind == 0:
                self._attrs = _attributes.decode(data[begin:end])
                continue
            stream = _STREAMS.get(kind)
            if stream is None:
                raise Corrupt(f"a local log: no kind of block is {kind}")
            lines = data[begin:end].split(b"\n")
            last = lines.pop()
            texts = [line + b"\n" for line in lines]
            if last:
                texts.append(last)
            if self._skip:
                skipped = min(self._skip, len(texts))
                self._skip -= skipped
                del texts[:skipped]
            when, attrs = rfc3339(moment), self._attrs
            entries += [_Output(text, stream, when, attrs) for text in texts]
        return entries, data[position:]


def format_of(driver: str) -> Format:
    """A new reader for one file of a driver's."""
    return Blocks() if driver == "local" else JsonLines()
