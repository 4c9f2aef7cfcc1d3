"""The directories of a tree that is being unpacked into: found, made, and kept open.

Directories are kept open in a small cache, by their name in the archive, so that a member costs the
calls that make it and no path resolution. The cache is dropped whenever a directory or a symbolic
link is removed, as names may then lead elsewhere; what was in it stays open until the next member.
What an archive does not list on the way to a member is made, like the layers below have it.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.paths import O_PATH, open_in_root
from sampan.storage.archive.dressing import Dresser
from sampan.storage.archive.headers import printable
from sampan.storage.archive.settling import like
from sampan.storage.archive.tree import OPEN_DIRECTORY, OVERLAY_OPAQUE, Merged, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.storage.archive.applied import WhiteoutStyle
    from sampan.storage.archive.headers import Member

__all__ = ["Directories"]

_CACHED = 64
_PATH = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Directories(Dresser):
    """Those below ``root``, of which this keeps a descriptor of its own until ``close``."""

    def __init__(
        self, root: int, style: WhiteoutStyle, lower: Sequence[int], *, loose: bool
    ) -> None:
        super().__init__(style == "overlay")
        self._root = os.open(".", OPEN_DIRECTORY, dir_fd=root)
        self._lower = Merged(lower)
        self._loose = loose
        self._implied: dict[int, bytes] = {}  # by inode, as one directory has names through links
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._retired: list[int] = []
        # Directories' (access, modification) times in ns, to be set when nothing changes any more.
        self._times: dict[bytes, tuple[int, int]] = {}
        # What this layer made, which its own whiteouts spare; only told apart for "direct".
        self._made: set[bytes] = set()

    def close(self) -> None:
        """Close all that is held open."""
        self._retire()
        self._close_retired()
        os.close(self._root)

    def _retire(self) -> None:
        """Empty the cache; what it held stays open until the next member, as it is in use."""
        self._retired += self._open.values()
        self._open.clear()

    def _close_retired(self) -> None:
        for descriptor in self._retired:
            os.close(descriptor)
        self._retired.clear()

    def _remember(self, path: bytes, descriptor: int) -> int:
        self._open[path] = descriptor
        if len(self._open) > _CACHED:
            self._retired.append(self._open.popitem(last=False)[1])
        return descriptor

    def _existing(self, path: bytes) -> int:
        """A descriptor (the cache's) of a directory of the tree, links resolved inside it."""
        if not path:
            return self._root
        descriptor = self._open.get(path)
        if descriptor is not None:
            self._open.move_to_end(path)
            return descriptor
        return self._remember(path, self._resolve(path))

    def _resolve(self, path: bytes) -> int:
        return open_in_root(self._root, os.fsdecode(path), _PATH)

    def _directory(self, path: bytes, member: Member) -> int:
        """The same, made with what is missing above it; every directory a member goes into."""
        self.call = "openat2"
        try:
            descriptor = self._existing(path)
        except KernelError as error:
            if error.errno in (ENOTDIR, ELOOP):
                if self._overlay and self._enter_whiteout(path):
                    return self._directory(path, member)
                raise InvalidArgument(
                    f"{printable(member.name)}: {printable(path)} is not a directory"
                ) from error
            if error.errno != ENOENT:
                raise
            return self._make_parents(path, member)
        if not self._overlay:
            self._pass_through(path, descriptor)
        return descriptor

    def _enter_whiteout(self, path: bytes) -> bool:
        """Deleted, then entered in the same layer: a new directory takes the whiteout's place, and
        hides what the layers below have there. Whether there was a whiteout on the way."""
        parts = path.split(b"/")
        for depth, base in enumerate(parts):
            try:
                directory = self._existing(b"/".join(parts[:depth]))
            except KernelError as error:
                if error.errno in (ENOTDIR, ELOOP):
                    return False
                raise
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
            if is_whiteout(status):
                os.unlink(base, dir_fd=directory)
                os.mkdir(base, 0o755, dir_fd=directory)
                os.chmod(base, 0o755, dir_fd=directory)
                self._set_opaque(directory, base)
                return True
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                return False
            if self._retired:
                self._close_retired()
        return False

    def _pass_through(self, path: bytes, descriptor: int) -> None:
        """Something in a directory is about to change, which is no change of its own time."""
        if path in self._made:
            return
        if path not in self._times:
            status = os.fstat(descriptor)
            self._times[path] = status.st_atime_ns, status.st_mtime_ns
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition(b"/")[0]
        self._made.add(path)

    def _make_parents(self, path: bytes, member: Member) -> int:
        """A directory the archive does not list, or lists later, with what is missing above it."""
        missing = [path]
        while True:
            above = missing[-1].rpartition(b"/")[0]
            try:
                descriptor = self._existing(above)
                break
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
                missing.append(above)
        if not self._overlay:
            self._pass_through(above, descriptor)
        for below in reversed(missing):
            descriptor = self._make_parent(below, descriptor, member)
            self._close_retired()  # there may be thousands, and only the last is in use
            if not self._overlay:
                self._made.add(below)
        return descriptor

    def _make_parent(self, path: bytes, directory: int, member: Member) -> int:
        base = path.rpartition(b"/")[2]
        self.call = "mkdirat"
        try:
            os.mkdir(base, 0o755, dir_fd=directory)
        except FileExistsError:
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise InvalidArgument(
                    f"{printable(member.name)}: {printable(path)} is a symbolic link that leads"
                    " nowhere"
                ) from None
            raise
        descriptor = os.open(base, OPEN_DIRECTORY, dir_fd=directory)
        self._remember(path, descriptor)
        if self._loose:
            os.fchmod(descriptor, 0o755)
            self._implied[os.fstat(descriptor).st_ino] = path
            return descriptor
        model = self._lower.nearest(path)
        if model is None:
            os.fchmod(descriptor, 0o755)
            return descriptor
        try:
            self.call = "fchown"
            self._times[path] = like(descriptor, model)
        finally:
            os.close(model)
        return descriptor

    def _set_opaque(self, directory: int, base: bytes) -> None:
        self.call = "setxattr"
        os.setxattr(b"/proc/self/fd/%d/%s" % (directory, base), OVERLAY_OPAQUE, b"y")
