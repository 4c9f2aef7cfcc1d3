"""Files out of a live tree: what is at a path of a container, and a tar of it.

After the Docker Engine API, ``GET /containers/{id}/archive``: a path is taken as absolute, its ".."
as text; the links on the way are followed inside the container's root and the last component only
where the path ends in "/" or "/."; the archive's names begin with the path's own last component.

The container may be running, and may swap what is at a path for something else between any two of
our calls (CVE-2018-15664). So a path is resolved once, by the kernel, inside the container's root;
all the rest is descriptors and single names, none of which is followed, and nothing is opened that
is not a regular file or a directory (a device acts when it is opened, a FIFO blocks).

What the kernel itself serves (procfs, sysfs, cgroups) is not the container's data and has no end or
no size: such a mount is an empty directory, as is /dev in an archive of the whole.
"""

from __future__ import annotations

import os
import posixpath
import stat
from errno import ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.mounts import KERNEL_FILE_SYSTEMS, filesystem_magic
from sampan.kernel.paths import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    evaluate_in_root,
    open_in_root,
    openat2,
)
from sampan.storage.archive.headers import printable
from sampan.storage.archive.tree import OPEN_DIRECTORY, open_directory, walk
from sampan.storage.archive.writer import Output, Writer, Written
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Found", "clean", "find", "write_found", "write_root"]

_LAST = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS


class Found(NamedTuple):
    """What is at a path. ``name`` is its last component as it was asked for ("/" for the root, "."
    for ".../."); ``fd`` (O_PATH) is the thing itself, a link too; ``parent`` and ``base`` are where
    it was found; ``target``: of a link, where it leads inside the root, as text."""

    name: str
    fd: int
    parent: int
    base: str
    status: os.stat_result
    target: str = ""

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.parent)


def clean(path: str) -> tuple[str, bool]:
    """A path of the API as the container's: absolute, "." and ".." gone; and whether it asks for a
    directory, by a last "/" or "/."."""
    full = posixpath.normpath("/" + path.lstrip("/"))
    return full, path.endswith("/") or posixpath.basename(path) == "."


def find(root: int, path: str) -> Found:
    """Find ``path`` below ``root``; ``Found.close`` when done.

    KernelError (``ENOENT``: not there, ``ELOOP``), InvalidArgument: it is to be a directory.
    """
    full, directory = clean(path)
    name = "." if posixpath.basename(path) == "." else posixpath.basename(full) or "/"
    if directory or full == "/":
        try:
            fd = open_in_root(root, full, O_PATH | os.O_DIRECTORY)
        except KernelError as error:
            if error.errno == ENOTDIR:
                raise InvalidArgument(f"{path}: not a directory") from None
            raise
        # Its own directory, seen from inside, is what it is found in.
        parent, base = os.dup(fd), "."
    else:
        above, _, base = full.rpartition("/")
        parent = open_in_root(root, above or "/", O_PATH | os.O_DIRECTORY)
        try:
            if filesystem_magic(parent) in KERNEL_FILE_SYSTEMS:
                raise KernelError("openat2", ENOENT, path)
            fd = openat2(parent, base, O_PATH | os.O_NOFOLLOW, resolve=_LAST)
        except BaseException:
            os.close(parent)
            raise
    status = os.fstat(fd)
    target = ""
    if stat.S_ISLNK(status.st_mode):
        try:
            target = evaluate_in_root(root, full)
        except BaseException:
            os.close(fd)
            os.close(parent)
            raise
    return Found(name, fd, parent, base, status, target)


def write_found(found: Found, out: Output) -> Written:
    """Write what was found as a tar: uncompressed, not closed; holes as zeros, for every reader.

    Conflict where a file shrinks while it is read. Sockets, which tar has not, are left out.
    """
    name = os.fsencode(found.name)
    prefix = b"" if name == b"/" else name
    writer = Writer(out, sparse=False, layer=False, root=b"/")
    path = name
    try:
        if not stat.S_ISDIR(found.status.st_mode):
            writer.add(name, found.parent, os.fsencode(found.base), found.status)
            return writer.finish()
        top = openat2(found.fd, ".", OPEN_DIRECTORY, resolve=_LAST)
        try:
            writer.add_directory(prefix, top, b".", found.status)
            for below, directory, base, status in walk(top, enter=_enters(top, not prefix)):
                path = prefix + b"/" + below
                writer.add(path, directory, base, status)
        finally:
            os.close(top)
        return writer.finish()
    except OSError as error:
        shown = printable(path)
        raise explain(error, "read", shown, f"while copying {shown}") from error


class _enters:
    """Whether to go into a directory that ``walk`` found below ``top``."""

    def __init__(self, top: int, whole: bool) -> None:
        self._device = os.fstat(top).st_dev
        self._whole = whole

    def __call__(self, path: bytes, directory: int) -> bool:
        if filesystem_magic(directory) in KERNEL_FILE_SYSTEMS:
            return False
        return not (self._whole and path == b"dev" and os.fstat(directory).st_dev != self._device)


def write_root(root: int, inner: Sequence[bytes], out: Output) -> Written:
    """Write a container's own file system, without what was mounted into it, as a tar with relative
    names. ``inner``: paths of mounts that are a part of it (the ``host`` image's directories)."""
    writer = Writer(out, sparse=False, layer=False)
    path = b""
    try:
        for path, directory, base, status in _own(root, b"", frozenset(inner)):
            writer.add(path, directory, base, status)
        return writer.finish()
    except OSError as error:
        shown = printable(path)
        raise explain(error, "read", shown, f"while exporting {shown}") from error


def _own(
    root: int, above: bytes, inner: frozenset[bytes]
) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """All below ``root``, itself at ``above``, on its own mount and on the inner ones."""
    for below, directory, base, status in walk(root):
        path = above + b"/" + below if above else below
        yield path, directory, base, status
        if path not in inner or not stat.S_ISDIR(status.st_mode):
            continue
        mounted = open_directory(root, below, cross=True)
        if mounted is not None:
            try:
                yield from _own(mounted, path, inner)
            finally:
                os.close(mounted)
