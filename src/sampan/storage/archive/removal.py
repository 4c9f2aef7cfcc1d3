"""Removing trees by descriptor, however deep, without following a link (CVE-2018-15664's class).

The tree is somebody else's: it may be deeper than any path may be long (PATH_MAX), or than Python
may recurse, or than there are descriptors. So the walk goes down by one name at a time and back up
by "..", which is safe because it is checked to have led back to where it came from, and no mount is
crossed: a directory that holds somebody's volume is not emptied.
"""

from __future__ import annotations

import os
import stat
from errno import EXDEV
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from sampan.storage.archive.headers import printable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["clear_directory", "remove_tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STAY = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


def remove_tree(parent: int, name: bytes) -> None:
    """Remove ``name`` in directory ``parent``, a whole tree if it is a directory. ``OSError``."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except IsADirectoryError:
        pass
    except PermissionError:  # what POSIX says of a directory; Linux says EISDIR
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
    directory = _descend(parent, name)
    try:
        clear_directory(directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def clear_directory(directory: int, keep: Callable[[bytes], bool] | None = None) -> None:
    """Remove what is in a directory; ``directory`` is a readable descriptor and stays open.

    ``keep`` is asked with each path below the directory ("a/b", bytes): what it keeps stays, a kept
    directory is gone through in turn. ``Conflict`` if the tree is changed meanwhile, or something
    is mounted in it.
    """
    here = os.open(".", _DIRECTORY, dir_fd=directory)
    trail: list[tuple[int, int]] = []  # (device, inode) of the directories above
    names: list[bytes] = []
    pending = [_list(here)]
    try:
        while True:
            if pending[-1]:
                name = pending[-1].pop()
                kept = keep is not None and keep(b"/".join([*names, name]))
                mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                if not stat.S_ISDIR(mode):
                    if not kept:
                        os.unlink(name, dir_fd=here)
                    continue
                status = os.fstat(here)
                below = _descend(here, name)
                os.close(here)
                here = below
                trail.append((status.st_dev, status.st_ino))
                names.append(name)
                pending.append(_list(here))
                continue
            pending.pop()
            if not trail:
                return
            above = os.open("..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = above
            status = os.fstat(here)
            if (status.st_dev, status.st_ino) != trail.pop():
                raise Conflict("a directory was moved while its tree was being removed")
            name = names.pop()
            if keep is None or not keep(b"/".join([*names, name])):
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _descend(directory: int, name: bytes) -> int:
    """Open a directory that nothing is mounted on."""
    try:
        return openat2(directory, name, _DIRECTORY, resolve=_STAY)
    except KernelError as error:
        if error.errno == EXDEV:
            raise Conflict(
                f"{printable(name)} cannot be removed: a file system is mounted there"
            ) from None
        raise


def _list(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]
