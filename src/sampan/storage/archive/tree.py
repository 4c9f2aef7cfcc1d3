"""Reading a tree by descriptor: listing, attributes, and the merged view of an overlay's layers.

A container may be writing while its tree is read, and what it writes is what it likes: so a
directory is opened by openat2(2) below the root, without links and without crossing into a mount;
a file is opened without following and without blocking, and is only read once the descriptor itself
says it is a regular file; what vanished meanwhile is not there.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, ENOENT, ENOTDIR, ENOTSUP, EXDEV
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel.paths import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

__all__ = [
    "OPEN_DIRECTORY",
    "OVERLAY_ATTRIBUTES",
    "OVERLAY_OPAQUE",
    "Merged",
    "attributes",
    "files_size",
    "is_opaque",
    "is_whiteout",
    "open_directory",
    "scan",
    "walk",
]

OVERLAY_ATTRIBUTES = (b"trusted.overlay.", b"user.overlay.")
OVERLAY_OPAQUE = b"trusted.overlay.opaque"
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# The machine's own marks on a file, which mean nothing on another.
_MACHINE = (b"security.selinux", b"security.ima", b"security.evm")
_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_GONE = (ENOENT, ENOTDIR, ELOOP)
_PATH_MAX = 4096  # bytes of a path that a system call takes, the NUL included


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs's whiteout: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int) -> bool:
    """Whether a directory of an overlay layer hides what is below it."""
    try:
        return os.getxattr(directory, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            return False
        raise


def open_directory(root: int, path: bytes, *, cross: bool = False) -> int | None:
    """A descriptor to list the directory ``path`` ("a/b"; b"" is the root) below ``root``.

    None: it is gone, is no directory, or something is mounted on it, unless ``cross``.
    """
    if not path:
        return os.open(".", OPEN_DIRECTORY, dir_fd=root)
    resolve = _INSIDE & ~RESOLVE_NO_XDEV if cross else _INSIDE
    try:
        if len(path) < _PATH_MAX:
            return openat2(root, os.fsdecode(path), OPEN_DIRECTORY, resolve=resolve)
        return _open_deep(root, path, resolve)
    except KernelError as error:
        if error.errno in (*_GONE, EXDEV):
            return None
        raise


def _open_deep(root: int, path: bytes, resolve: int) -> int:
    """A directory whose path is longer than the kernel takes, in steps that it takes."""
    here = os.open(".", OPEN_DIRECTORY, dir_fd=root)
    try:
        while path:
            step = path
            if len(path) >= _PATH_MAX:
                step = path[: path.rindex(b"/", 0, _PATH_MAX)]
            path = path[len(step) + 1 :]
            below = openat2(here, os.fsdecode(step), OPEN_DIRECTORY, resolve=resolve)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def scan(directory: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Name and status of what is in a directory, by name."""
    for name in sorted(map(os.fsencode, os.listdir(directory))):
        try:
            yield name, os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue


def walk(
    root: int, path: bytes = b"", *, enter: Callable[[bytes, int], bool] | None = None
) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """All that is below the directory ``path``: its path, a descriptor of the directory it is in
    (good until the next step), its name there, its status.

    By name, and what is in a directory right after it: GNU tar sets a directory's times when it
    meets a member that is not below it. One directory is open at a time, however deep the tree.
    Mounts are not crossed, unless by ``enter``, which is asked about each directory, by its path
    and descriptor, whether what is in it is wanted.
    """
    stack: list[tuple[bytes, list[bytes] | None]] = [(path, None)]
    while stack:
        above, left = stack.pop()
        directory = open_directory(root, above, cross=enter is not None)
        if directory is None:
            continue
        try:
            if left is None:
                if enter is not None and not enter(above, directory):
                    continue
                left = sorted(map(os.fsencode, os.listdir(directory)), reverse=True)
            while left:
                name = left.pop()
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                full = above + b"/" + name if above else name
                yield full, directory, name, status
                if stat.S_ISDIR(status.st_mode):
                    stack += ((above, left), (full, None))
                    break
        finally:
            os.close(directory)


def files_size(root: int, marks: Collection[bytes] = ()) -> int:
    """Bytes of the files below a directory as they say of themselves, each inode once.

    Directories, and links at the paths ``marks``, count for nothing: what Docker calls the size of
    a container or a volume.
    """
    size = 0
    seen: set[tuple[int, int]] = set()
    for path, _, _, status in walk(root):
        if stat.S_ISDIR(status.st_mode) or (stat.S_ISLNK(status.st_mode) and path in marks):
            continue
        if status.st_nlink > 1:
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
        size += status.st_size
    return size


def attributes(where: int | bytes) -> dict[bytes, bytes]:
    """Extended attributes that belong to a file, not to overlayfs or to this machine.

    ``where`` is a descriptor, or a path whose last component is not followed.
    """
    found = {}
    follow = isinstance(where, int)
    try:
        for text in os.listxattr(where, follow_symlinks=follow):
            name = os.fsencode(text)
            if name.startswith(OVERLAY_ATTRIBUTES) or name in _MACHINE:
                continue
            try:
                found[name] = os.getxattr(where, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno != ENODATA:  # removed since it was listed
                    raise
    except OSError as error:
        if error.errno != ENOTSUP:
            raise
    return found


class Merged:
    """What overlayfs shows of read-only layers, by descriptors of their directories.

    ``layers``: the nearest (topmost) first. The descriptors stay the caller's. Only layers without
    redirects, as ours are, can be seen this way.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)

    def directories(self, path: bytes) -> list[int]:
        """Descriptors of the directories that overlayfs would merge at ``path``, nearest first.

        Empty: nothing there, or no directory. The caller closes them.
        """
        found: list[int] = []
        for layer in self._layers:
            here = os.open(".", OPEN_DIRECTORY, dir_fd=layer)
            last = False
            for name in path.split(b"/") if path else ():
                try:
                    below = os.open(name, OPEN_DIRECTORY, dir_fd=here)
                except OSError as error:
                    if error.errno not in _GONE:
                        os.close(here)
                        raise
                    # What is no directory, a whiteout for one, ends the merge.
                    last = last or error.errno != ENOENT
                    os.close(here)
                    break
                os.close(here)
                here = below
                last = last or is_opaque(here)
            else:
                found.append(here)
            if last:
                break
        return found

    def status(self, path: bytes) -> os.stat_result | None:
        """What is at ``path``, or None."""
        parent, _, base = path.rpartition(b"/")
        found = None
        for directory in self.directories(parent):
            if found is None:
                try:
                    found = os.stat(base or b".", dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    pass
            os.close(directory)
        return None if found is None or is_whiteout(found) else found

    def nearest(self, path: bytes) -> int | None:
        """A descriptor of the directory whose owner, mode and times ``path`` shows, or None."""
        found = self.directories(path)
        for directory in found[1:]:
            os.close(directory)
        return found[0] if found else None

    def names(self, path: bytes) -> set[bytes]:
        """What is in the directory ``path``."""
        shown: set[bytes] = set()
        hidden: set[bytes] = set()
        for directory in self.directories(path):
            for name, status in scan(directory):
                if name not in shown and name not in hidden:
                    (hidden if is_whiteout(status) else shown).add(name)
            os.close(directory)
        return shown
