"""API versions: which we speak, and what a path asks for."""

from __future__ import annotations

import re

from sampan.errors import InvalidArgument

__all__ = ["MAXIMUM", "MINIMUM", "Version", "split_version", "strip_version", "text"]

Version = tuple[int, int]

MINIMUM: Version = (1, 24)
MAXIMUM: Version = (1, 51)

_PREFIX = re.compile(r"/v([0-9.]{1,32})(?=/)")


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def strip_version(path: str) -> str:
    """A path without its version, if it names one."""
    return _PREFIX.sub("", path, count=1)


def split_version(path: str) -> tuple[Version, str]:
    """The version a path asks for (the newest when it names none), and the path without it.

    Raises InvalidArgument for one we do not speak.
    """
    if "//" in path:
        path = re.sub("//+", "/", path)
    match = _PREFIX.match(path)
    if match is None:
        return MAXIMUM, path
    parts = [int(part or 0) for part in match[1].split(".")]
    version = (parts[0], parts[1] if len(parts) > 1 else 0)
    if version < MINIMUM:
        raise InvalidArgument(
            f"client version {match[1]} is too old. Minimum supported API version is "
            f"{text(MINIMUM)}, please upgrade your client to a newer version"
        )
    if version > MAXIMUM:
        raise InvalidArgument(
            f"client version {match[1]} is too new. Maximum supported API version is "
            f"{text(MAXIMUM)}"
        )
    return version, path[match.end() :]
