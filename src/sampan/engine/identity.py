"""Who an engine is: a UUID that stands in its data root, as dockerd's ``engine-id``."""

from __future__ import annotations

import os
import re

__all__ = ["identity"]

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def identity(data_root: str) -> str:
    """The engine's UUID; a new one (RFC 9562, version 4) where there is none that can be read."""
    path = f"{data_root}/engine-id"
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
        if _UUID.fullmatch(text):
            return text
    except FileNotFoundError:
        pass
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    digits = data.hex()
    text = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(text + "\n")
    os.rename(temporary, path)
    return text
