"""The json-file driver: one JSON object per line of output, byte for byte as dockerd writes it.

    {"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}

* A line longer than 16 KiB becomes several entries; all but the last lack the ``\\n``. So does a
  last line that the program never ended.
* Quotes, backslashes, control characters, ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped as
  dockerd does; each byte that is not UTF-8 becomes ``\\ufffd``.
* Time is RFC 3339 with nanoseconds, without trailing zeros (Go's RFC3339Nano). Lines that were
  read together share one time: the moment they were read.
* A file that has reached ``max_size`` is rotated before the next entry.

Text is worked on in batches: a read of 64 KiB is escaped with a handful of passes over the whole
and written with one system call, because a call per line would cost ten times as much.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from sampan.runtime.supervisor.logs.files import FileDriver
from sampan.runtime.supervisor.logs.text import timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.runtime.supervisor.logs.files import RotatedFile

__all__ = ["JsonFile", "escape", "whole"]

_START = b'{"log":"'
_BLOCK = 64 * 1024

_SPECIAL = bytes(byte for byte in range(0x20) if byte != 0x0A) + b'"\\<>&'
# The backslash comes first: the others are replaced by text that contains it.
_SHORT = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\t", b"\\u0009"),
    (b"\x1b", b"\\u001b"),
)
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def _control(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % match[0][0]


def escape(text: bytes) -> bytes:
    """The inside of a JSON string for ``text``, but that its line feeds are left as they are."""
    if len(text.translate(None, _SPECIAL)) != len(text):
        for plain, escaped in _SHORT:
            text = text.replace(plain, escaped)
        text = _CONTROL.sub(_control, text)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            # One \ufffd for each bad byte, as Go counts them; errors="replace" would merge some.
            marked = text.decode("utf-8", "surrogateescape")
            text = _NOT_UTF8.sub("\\\\ufffd", marked).encode()
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


class JsonFile(FileDriver):
    """The driver (``log.Driver``); a batch is lines of JSON."""

    __slots__ = ("_ends",)

    def __init__(self, file: RotatedFile, attributes: dict[str, str] | None = None) -> None:
        attrs = ""
        if attributes:
            pairs = {name: attributes[name] for name in sorted(attributes)}
            text = json.dumps(pairs, separators=(",", ":"), ensure_ascii=False)
            for plain in "<>&":
                text = text.replace(plain, f"\\u{ord(plain):04x}")
            attrs = f',"attrs":{text}'
        self._ends = {
            stream: f'","stream":"{stream}"{attrs},"time":"'.encode("utf-8", "replace")
            for stream in ("stdout", "stderr")
        }
        super().__init__(file)

    def encode(self, stream: str, parts: Sequence[bytes], now: int) -> bytes:
        """The entries of what a ``Splitter`` gave."""
        end = self._ends[stream] + timestamp(now) + b'"}\n'
        entries = []
        for part in parts:
            if part[-1] != 0x0A:
                entries.append(_START + escape(part) + end)
                continue
            line_end = b"\\n" + end
            body = escape(part)[:-1].replace(b"\n", line_end + _START)
            entries.append(_START + body + line_end)
        return entries[0] if len(entries) == 1 else b"".join(entries)

    def put(self, entries: bytes) -> bytes:
        """Append entries, rotating between them; returns those that were not taken."""
        file = self._file
        while entries:
            part = entries
            if file.room == 0:
                file.rotate()
            room = file.room
            if room and room < len(entries):
                part = entries[: entries.index(b"\n", room - 1) + 1]
            taken = file.append(part, cut)
            entries = entries[taken:]
            if taken != len(part):
                break
        return entries

    @staticmethod
    def count(entries: bytes) -> int:
        return entries.count(b"\n")

    @staticmethod
    def split(entries: bytes, room: int) -> bytes:
        """As many whole entries as fit into ``room`` bytes."""
        return entries[: cut(entries, room)]


def cut(entries: bytes, size: int) -> int:
    """The size of the whole entries in the first ``size`` bytes."""
    return entries.rfind(b"\n", 0, size) + 1


def whole(fd: int, size: int) -> int:
    """How much of a file holds whole entries: up to its last line feed."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
