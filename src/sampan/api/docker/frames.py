"""Docker's multiplexed stream: frames of an 8-byte header and data.

The header is the stream (1 standard output, 2 standard error), three zeros and the data's length,
big-endian (Engine API, "attach": Stream format).
"""

from __future__ import annotations

import struct

__all__ = ["MULTIPLEXED", "RAW", "STDERR", "STDOUT", "frame", "media_type"]

STDOUT = 1
STDERR = 2
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_header = struct.Struct(">BxxxI").pack


def frame(stream: int, data: bytes) -> bytes:
    return _header(stream, len(data)) + data


def media_type(multiplexed: bool, version: tuple[int, int]) -> str:
    """API 1.42 gave multiplexed streams a type of their own."""
    return MULTIPLEXED if multiplexed and version >= (1, 42) else RAW
