"""The words of a mount, as ``-v``, ``--mount`` and ``--tmpfs`` have them, one by one.

Paths, modes and options: text in, checked values out, InvalidArgument in Docker's words for what is
wrong. What a whole mount is made of is ``mounts``.
"""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from sampan.errors import InvalidArgument

__all__ = [
    "CONSISTENCIES",
    "PROPAGATIONS",
    "Mode",
    "absolute",
    "bind_options",
    "is_mode",
    "read_mode",
    "subpath_of",
    "target",
    "tmpfs_options",
    "volume_options",
]

PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
# Not for us: host file systems of other platforms, and SELinux labels, which no file here has.
CONSISTENCIES = {"cached", "delegated", "consistent", "default"}
_LABELS = {"z", "Z"}
_TMPFS_FLAGS = {
    "ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "atime",
    "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "dirsync", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable",
    "runbindable", "mand", "nomand",
}  # fmt: skip
_TMPFS_VALUES = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}


class Mode(NamedTuple):
    writable: bool
    propagation: str
    copy: bool | None


def target(path: str) -> str:
    """A clean absolute path that is not the root."""
    if not path:
        raise InvalidArgument("field Target must not be empty")
    clean = posixpath.normpath(path)
    if clean.startswith("//"):
        clean = clean[1:]
    if clean == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return absolute(clean, path)


def absolute(clean: str, path: str) -> str:
    if "\0" in path:
        raise InvalidArgument(f"invalid mount path: {path!r} contains a NUL character")
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{path}' mount path must be absolute")
    return clean


def bind_options(writable: bool, propagation: str, recursive: bool, deep: bool) -> tuple[str, ...]:
    options = ["rbind" if recursive else "bind", propagation]
    if not writable:
        # A read-only mount with writable mounts below it is not read-only.
        options += ["ro", "rro"] if recursive and deep else ["ro"]
    return tuple(options)


def volume_options(writable: bool, subpath: str) -> tuple[str, ...]:
    """What this machine mounts in a volume, or unmounts, comes and goes in containers too, as with
    Docker; read-only it does not come: it would be writable (``bind_options``)."""
    options = bind_options(writable, "rslave" if writable else "rprivate", True, True)
    return (*options, f"subpath={subpath}") if subpath else options


def read_mode(mode: str) -> Mode:
    """What stands behind the second colon of ``-v``. Raises InvalidArgument."""
    writable, propagation, copy, seen = True, "", None, set[str]()
    for option in mode.split(",") if mode else ():
        if option in ("ro", "rw"):
            kind, writable = "access", option == "rw"
        elif option in PROPAGATIONS:
            kind, propagation = "propagation", option
        elif option == "nocopy":
            kind, copy = "copy", False
        elif option in _LABELS:
            kind = "label"
        elif option in CONSISTENCIES:
            kind = "consistency"
        else:
            raise InvalidArgument(f"invalid mode: {mode}")
        if kind in seen:
            raise InvalidArgument(f"invalid mode: {mode}")
        seen.add(kind)
    return Mode(writable, propagation, copy)


def is_mode(text: str) -> bool:
    try:
        read_mode(text)
    except InvalidArgument:
        return False
    return bool(text)


def subpath_of(path: str, where: str) -> str:
    if path and (path.startswith("/") or "\0" in path or ".." in path.split("/")):
        raise InvalidArgument(f"subpath must be a relative path within the {where}")
    return "" if not path or posixpath.normpath(path) == "." else path


def tmpfs_options(text: str) -> list[str]:
    """``--tmpfs``'s words. Raises InvalidArgument."""
    options = [option for option in text.split(",") if option]
    for option in options:
        name, equals, _ = option.partition("=")
        if not (name in _TMPFS_VALUES and equals) and option not in _TMPFS_FLAGS:
            raise InvalidArgument(f'invalid tmpfs option ["{option}"]')
    return options
