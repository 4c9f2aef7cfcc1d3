"""Byte ranges: the field Range of a download (RFC 9110, section 14) and Content-Range of a chunk
(distribution specification, "Pushing a blob in chunks"). No I/O.
"""

from __future__ import annotations

import re

from sampan.registry.server.errors import UploadInvalid

__all__ = ["chunk", "wanted"]

_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")
_CHUNK = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]+|\*))?")


def wanted(field: str | None, size: int) -> tuple[int, int] | None:
    """Offset and count of the one range that is asked for; None for all.

    What is malformed, of another unit or of many parts may be ignored (section 14.2), and is. A
    count of 0: the range cannot be satisfied.
    """
    match = _RANGE.fullmatch(field) if field is not None else None
    if match is None:
        return None
    if match[3] is not None:
        count = min(int(match[3]), size)
        return size - count, count
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return first, max(0, last - first + 1)


def chunk(field: str | None) -> tuple[int, int] | None:
    """First byte and length of a chunk; None where nothing is said. Raises UploadInvalid."""
    if field is None:
        return None
    match = _CHUNK.fullmatch(field)
    if match is None or int(match[2]) < int(match[1]):
        raise UploadInvalid(f'Content-Range: "{field}" is not <first>-<last>')
    return int(match[1]), int(match[2]) - int(match[1]) + 1
