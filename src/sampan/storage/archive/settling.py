"""What a layer unpacked by itself takes over from the layers below it, once they are there.

Overlay layers hold what they add and no more, so they can be unpacked in any order and at the same
time. Three things only depend on what is below: the attributes of directories that the archive goes
through without listing them, those of its root, and the names that an opaque root hides.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import KernelError, NotSupported
from sampan.kernel.paths import open_in_root
from sampan.storage.archive.tree import OPEN_DIRECTORY, OVERLAY_OPAQUE, Merged, attributes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Loose", "hide_names", "like", "settle"]


class Loose(NamedTuple):
    """What is left to settle: implied directories by path and inode, in the order they were made;
    whether the root is listed, and whether it hides everything below it."""

    implied: tuple[tuple[bytes, int], ...] = ()
    root_listed: bool = True
    hides_root: bool = False


def settle(root: int, loose: Loose, lower: Sequence[int]) -> None:
    """Give a layer's directory ``root`` what it takes from the layers below, the nearest first.

    Raises NotSupported for an opaque root with nothing to hide.
    """
    below = Merged(lower)
    if loose.hides_root:
        if not lower:
            raise NotSupported("a layer that hides the whole root below it, and none is below it")
        times = os.fstat(root)
        hide_names(root, below)
        os.utime(root, ns=(times.st_atime_ns, times.st_mtime_ns))
    # One at a time, and its times with it, as nothing is made in any of them any more: there may be
    # more directories than the process may have descriptors.
    for path, inode in loose.implied:
        model = below.nearest(path)
        if model is None:
            continue
        try:
            directory = _open(root, path, inode)
            if directory is None:
                continue
            try:
                os.utime(directory, ns=like(directory, model))
            finally:
                os.close(directory)
        finally:
            os.close(model)


def _open(root: int, path: bytes, inode: int) -> int | None:
    """The very directory that was made there; None if something else has taken its place."""
    try:
        directory = open_in_root(root, os.fsdecode(path), OPEN_DIRECTORY)
    except KernelError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP):
            return None
        raise
    if os.fstat(directory).st_ino == inode:
        return directory
    os.close(directory)
    return None


def like(directory: int, model: int) -> tuple[int, int]:
    """Owner, mode and attributes of one directory for another; the model's times, to be set."""
    status = os.fstat(model)
    os.fchown(directory, status.st_uid, status.st_gid)
    os.fchmod(directory, stat.S_IMODE(status.st_mode))
    for attribute, value in attributes(model).items():
        os.setxattr(directory, attribute, value)
    return status.st_atime_ns, status.st_mtime_ns


def hide_names(root: int, lower: Merged) -> None:
    """Overlayfs takes no opaque root: white out each name the layers below have there."""
    for name in lower.names(b""):
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=root)
        except FileExistsError:
            status = os.stat(name, dir_fd=root, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                directory = os.open(name, OPEN_DIRECTORY, dir_fd=root)
                try:
                    os.setxattr(directory, OVERLAY_OPAQUE, b"y")
                finally:
                    os.close(directory)
