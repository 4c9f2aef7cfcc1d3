"""From a stream of bytes to whole lines, and the moment they were read, as text."""

from __future__ import annotations

import time

__all__ = ["ENTRY_LIMIT", "Splitter", "timestamp"]

ENTRY_LIMIT = 16 * 1024


class Splitter:
    """Holds what has no line feed yet (less than ``ENTRY_LIMIT``), and lets the rest go on."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """What ``data`` completes, in order.

        Each is either one or more whole lines, or a piece of a line: ``ENTRY_LIMIT`` bytes that do
        not end with a line feed.
        """
        text = self._tail + data if self._tail else data
        cut = text.rfind(b"\n") + 1
        parts: list[bytes] = []
        if cut:
            if _longest_fits(text, cut):
                parts.append(text[:cut])
            else:
                _divide(text, cut, parts)
        tail = text[cut:]
        while len(tail) >= ENTRY_LIMIT:
            parts.append(tail[:ENTRY_LIMIT])
            tail = tail[ENTRY_LIMIT:]
        self._tail = tail
        return parts

    @property
    def unfinished(self) -> bytes:
        """What has no line feed yet."""
        return self._tail

    def finish(self) -> list[bytes]:
        """What was never ended by a line feed, if there is any."""
        tail, self._tail = self._tail, b""
        return [tail] if tail else []


def _longest_fits(text: bytes, end: int) -> bool:
    """Whether every line up to ``end`` is short enough; few searches, no split."""
    start = 0
    while end - start > ENTRY_LIMIT:
        found = text.rfind(b"\n", start, start + ENTRY_LIMIT)
        if found < 0:
            return False
        start = found + 1
    return True


def _divide(text: bytes, end: int, parts: list[bytes]) -> None:
    start = 0
    while start < end:
        found = text.rfind(b"\n", start, start + ENTRY_LIMIT)
        stop = found + 1 if found >= 0 else start + ENTRY_LIMIT
        parts.append(text[start:stop])
        start = stop


def timestamp(nanoseconds: int) -> bytes:
    """RFC 3339 with nanoseconds, UTC, trailing zeros cut, for a count since the epoch."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{whole}{digits}Z".encode("ascii")
