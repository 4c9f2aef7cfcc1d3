"""Detach keys: ``ctrl-p,ctrl-q`` as bytes."""

from __future__ import annotations

from sampan.errors import InvalidArgument

__all__ = ["DEFAULT_DETACH", "read_keys"]

DEFAULT_DETACH = (16, 17)
"""ctrl-p ctrl-q"""

_CONTROL = {chr(code + 96): code for code in range(1, 27)} | {
    "@": 0,
    "[": 27,
    "\\": 28,
    "]": 29,
    "^": 30,
    "_": 31,
}


def read_keys(text: str) -> tuple[int, ...]:
    """The sequence's bytes; the default one for an empty text. Raises InvalidArgument."""
    if not text:
        return DEFAULT_DETACH
    keys = []
    for name in text.split(","):
        control = _CONTROL.get(name.removeprefix("ctrl-"))
        if name.startswith("ctrl-") and control is not None:
            keys.append(control)
        elif len(name) == 1 and name.isascii():
            keys.append(ord(name))
        else:
            raise InvalidArgument(
                f"Invalid detach keys ({text}) provided: {name} is neither a letter nor ctrl-letter"
            )
    return tuple(keys)
