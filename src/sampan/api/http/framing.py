"""Where a request's body ends: RFC 9112, section 6 (a length) and section 7 (chunks).

Bytes in, bytes out, and no input or output: ``feed`` passes the body's bytes on as they come and
returns what stands behind the body. It may be called with any division of the stream. Both are
strict, since a lenient reader of lengths is one that another reader disagrees with (request
smuggling): a size is hexadecimal digits, lines end with CR LF.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from sampan.api.http.messages import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

    Sink = Callable[[bytes], object]

__all__ = ["Chunked", "Framing", "Sized"]

_LINE = 1024
"""Bytes of a chunk's line, with its extensions, which nobody reads."""
_TRAILERS = 16 * 1024
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\Z")


class Framing(Protocol):
    """``done`` when the body's last byte was fed."""

    done: bool

    def feed(self, data: bytes, sink: Sink) -> bytes:
        """Pass on what belongs to the body; returns what does not. Raises HttpError."""
        ...


class Sized:
    """A body of ``length`` bytes."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes, sink: Sink) -> bytes:
        if len(data) < self._left:
            self._left -= len(data)
            if data:
                sink(data)
            return b""
        part, rest = data[: self._left], data[self._left :]
        self._left, self.done = 0, True
        if part:
            sink(part)
        return rest


class Chunked:
    """A body of chunks. Trailers are read over, within a limit."""

    __slots__ = ("_held", "_left", "_next", "_trailers", "done")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._trailers = 0
        self._next: Callable[[Chunked, bytes], None] = Chunked._size
        self.done = False

    def feed(self, data: bytes, sink: Sink) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        place = 0
        while not self.done:
            if self._left:
                part = data[place : place + self._left]
                if not part:
                    return b""
                self._left -= len(part)
                place += len(part)
                sink(part)
                continue
            end = data.find(b"\n", place)
            if end < 0:
                if len(data) - place > _LINE:
                    raise HttpError(400, "malformed chunk: its line is too long")
                self._held = data[place:]
                return b""
            if end == place or data[end - 1] != 0x0D:
                raise HttpError(400, "malformed chunk: a line does not end with CR LF")
            line = data[place : end - 1]
            place = end + 1
            self._next(self, line)
        return data[place:]

    def _size(self, line: bytes) -> None:
        match = _SIZE.match(line)
        if match is None or len(line) > _LINE:
            raise HttpError(400, "malformed chunk: its size is not hexadecimal")
        self._left = int(match[1], 16)
        self._next = Chunked._end if self._left else Chunked._trailer

    def _end(self, line: bytes) -> None:
        if line:
            raise HttpError(400, "malformed chunk: it is longer than its size")
        self._next = Chunked._size

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if self._trailers > _TRAILERS:
            raise HttpError(431, "the trailers are too large")
        self.done = not line
