"""What is said of a layer that was unpacked. Apart from what unpacks it, which a daemon that has
unpackers does not load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sampan.storage.archive.settling import Loose

__all__ = ["Applied", "WhiteoutStyle"]

_SETTLED = Loose()
WhiteoutStyle = Literal["overlay", "direct"]
"""What a whiteout becomes: overlayfs's own (a device 0:0, an attribute on an opaque directory), or
the removal of what is there (for a directory that holds the whole tree so far)."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was unpacked: the layer's diff ID (sha256 of the uncompressed archive), how it was
    packed, the bytes read and the bytes of the archive, the members and their files' bytes, and
    what could not be had on this file system and was left out, one sentence each; and what is left
    to settle of a layer unpacked by itself."""

    diff_id: str
    compression: str
    packed: int
    archive: int
    members: int
    size: int
    warnings: tuple[str, ...]
    loose: Loose = _SETTLED
