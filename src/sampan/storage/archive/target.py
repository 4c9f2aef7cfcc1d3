"""The directory a layer is unpacked into: each member made in its place, by descriptor.

``apply`` says what holds and why; this is how a member of each kind is made, what it replaces, and
what a whiteout removes. ``directories`` finds where.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.storage.archive import headers
from sampan.storage.archive.directories import Directories
from sampan.storage.archive.dressing import member_times
from sampan.storage.archive.headers import Member, printable
from sampan.storage.archive.names import AUFS_PREFIX, OPAQUE, WHITEOUT_PREFIX, place
from sampan.storage.archive.removal import clear_directory, remove_tree
from sampan.storage.archive.settling import Loose, hide_names
from sampan.storage.archive.tree import OPEN_DIRECTORY, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sampan.storage.archive.applied import WhiteoutStyle
    from sampan.storage.archive.reader import Reader

__all__ = ["Target"]

_CONTENDED = 16
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ID = (1 << 32) - 2  # the last is "leave as it is" to chown(2)
_MAX_MAJOR = (1 << 12) - 1
_MAX_MINOR = (1 << 20) - 1
_NODES = {
    headers.CHARACTER_DEVICE: stat.S_IFCHR,
    headers.BLOCK_DEVICE: stat.S_IFBLK,
    headers.FIFO: stat.S_IFIFO,
}


class Target(Directories):
    """One layer's way into a directory. ``add`` members in order, then ``finish``."""

    _whiteouts = True

    def __init__(
        self,
        root: int,
        style: WhiteoutStyle,
        lower: Sequence[int] = (),
        *,
        relative: bool = False,
        loose: bool = False,
    ) -> None:
        super().__init__(root, style, lower, loose=loose)
        self._relative = relative
        self._has_lower = bool(lower)
        self._root_listed = False
        self._hide_root = False

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, member: Member, reader: Reader) -> None:
        """Make one member. ``OSError`` as the kernel says; its content is read from ``reader``."""
        if self._retired:
            self._close_retired()
        path, parent, base = self._place(member.name)
        if path is None:
            return
        if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
            raise InvalidArgument(
                f"{printable(member.name)}: owner {member.uid}:{member.gid} is out of range"
            )
        if self._whiteouts and base.startswith(WHITEOUT_PREFIX):
            self._white_out(member, parent, base)
            return
        if not path:
            self._make_root(member)
            return
        directory = self._directory(parent, member)
        kind = member.kind
        if kind == headers.DIRECTORY:
            self._make_directory(path, directory, base, member)
            if not self._overlay:
                self._made.add(path)
            return
        self._times.pop(path, None)
        if kind == headers.SYMBOLIC_LINK:
            self._make_symbolic_link(path, directory, base, member)
        elif kind == headers.HARD_LINK:
            self._make_hard_link(path, directory, base, member)
        elif kind in _NODES:
            self._make_node(path, directory, base, member)
        else:
            self._make_file(path, directory, base, member, reader)
        if not self._overlay:
            self._made.add(path)

    def finish(self) -> None:
        """Set the directories' times, the last made first."""
        if self._hide_root and not self._loose:
            self.call = "mknodat"
            hide_names(self._root, self._lower)
        self.call = "utimensat"
        for path, times in reversed(self._times.items()):
            if self._retired:
                self._close_retired()
            parent, _, base = path.rpartition(b"/")
            try:
                directory = self._existing(parent)
            except KernelError as error:
                if error.errno in (ENOENT, ENOTDIR, ELOOP):
                    continue  # a later member took its place
                raise
            try:
                os.utime(base or b".", ns=times, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue

    @property
    def loose_ends(self) -> Loose:
        """What is left for ``settle`` of a layer that is unpacked without those below it."""
        implied = tuple((path, inode) for inode, path in self._implied.items())
        return Loose(implied, self._root_listed, self._hide_root)

    def _place(self, name: bytes, of: bytes | None = None) -> tuple[bytes | None, bytes, bytes]:
        return place(name, of, relative=self._relative)

    # What is in the way

    def _replace(self, directory: int, base: bytes, status: os.stat_result | None = None) -> bool:
        """Remove what is in a member's place; whether that was a whiteout of this layer."""
        if status is None:
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        self.call = "unlinkat"
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._retire()
            remove_tree(directory, base)
            return False
        os.unlink(base, dir_fd=directory)
        return self._overlay and is_whiteout(status)

    # Members, by kind

    def _make_file(
        self, path: bytes, directory: int, base: bytes, member: Member, reader: Reader
    ) -> None:
        descriptor = self._new_file(directory, base, member.mode & 0o777)
        try:
            self.call = "write"
            if member.sparse is not None:
                for offset, length in member.sparse:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    for span in reader.stored(length):
                        _write(descriptor, span)
                os.ftruncate(descriptor, member.size)
            else:
                for span in reader.content():
                    _write(descriptor, span)
            self._dress(descriptor, member)
            self.call = "utimensat"
            mtime = member.mtime
            os.utime(descriptor, ns=(mtime if member.atime is None else member.atime, mtime))
        except BaseException:
            self._give_up(directory, base, descriptor)
            raise
        finally:
            os.close(descriptor)

    def _new_file(self, directory: int, base: bytes, mode: int) -> int:
        """An empty file in the place of what is there. A container's tree is others' too, and
        somebody may put something there, or take it away, at the same moment (another copy)."""
        for _ in range(_CONTENDED):
            self.call = "openat"
            try:
                return os.open(base, _NEW_FILE, mode, dir_fd=directory)
            except FileExistsError:
                with suppress(FileNotFoundError):
                    self._replace(directory, base)
        self.call = "openat"
        return os.open(base, _NEW_FILE, mode, dir_fd=directory)

    def _give_up(self, directory: int, base: bytes, descriptor: int) -> None:
        """A file could not be finished. A layer goes as a whole."""

    def _make_directory(self, path: bytes, directory: int, base: bytes, member: Member) -> None:
        self.call = "mkdirat"
        existed = False
        try:
            os.mkdir(base, member.mode & 0o777, dir_fd=directory)
        except FileExistsError:
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
            existed = stat.S_ISDIR(status.st_mode)
            if not existed:
                whiteout = self._replace(directory, base, status)
                self.call = "mkdirat"
                os.mkdir(base, member.mode & 0o777, dir_fd=directory)
                if whiteout:
                    self._set_opaque(directory, base)
        self.call = "openat"
        descriptor = os.open(base, OPEN_DIRECTORY, dir_fd=directory)
        known = self._open.get(path)
        if known is not None:  # listed again, or after it was made for something in it
            self._retired.append(known)
        self._remember(path, descriptor)
        if existed and self._implied:
            self._implied.pop(os.fstat(descriptor).st_ino, None)
        self._dress(descriptor, member, existed=existed)
        self._times[path] = member_times(member)

    def _make_root(self, member: Member) -> None:
        if member.kind != headers.DIRECTORY:
            raise InvalidArgument(
                f"{printable(member.name)}: the root of a layer can only be a directory"
            )
        self._root_listed = True
        self._dress(self._root, member, existed=True)
        self._times[b""] = member_times(member)
        if not self._overlay:
            self._made.add(b"")

    def _make_symbolic_link(self, path: bytes, directory: int, base: bytes, member: Member) -> None:
        if not member.link or b"\0" in member.link:
            raise InvalidArgument(
                f"{printable(member.name)}: symbolic link to {printable(member.link)}"
            )
        self.call = "symlinkat"
        try:
            os.symlink(member.link, base, dir_fd=directory)
        except FileExistsError:
            self._replace(directory, base)
            self.call = "symlinkat"
            os.symlink(member.link, base, dir_fd=directory)
        self._dress_by_name(directory, base, member)

    def _make_node(self, path: bytes, directory: int, base: bytes, member: Member) -> None:
        kind = _NODES[member.kind]
        device = 0
        if kind != stat.S_IFIFO:
            if not (0 <= member.major <= _MAX_MAJOR and 0 <= member.minor <= _MAX_MINOR):
                raise InvalidArgument(
                    f"{printable(member.name)}: device number {member.major}:{member.minor} is"
                    " out of range"
                )
            device = os.makedev(member.major, member.minor)
            if kind == stat.S_IFCHR and device == 0:
                raise InvalidArgument(
                    f"{printable(member.name)}: character device 0:0 is overlayfs's whiteout and"
                    " cannot be a layer's file; a layer says .wh.NAME"
                )
        self.call = "mknodat"
        mode = kind | (member.mode & 0o777)
        try:
            os.mknod(base, mode, device, dir_fd=directory)
        except FileExistsError:
            self._replace(directory, base)
            self.call = "mknodat"
            os.mknod(base, mode, device, dir_fd=directory)
        self._dress_by_name(directory, base, member)

    def _make_hard_link(self, path: bytes, directory: int, base: bytes, member: Member) -> None:
        link, parent, name = self._place(member.link, member.name)
        if not link:
            raise InvalidArgument(
                f"{printable(member.name)}: hard link to {printable(member.link)}"
            )
        self.call = "linkat"
        try:
            source = self._existing(parent)
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ELOOP):
                raise
            status = None
        if status is None or (self._overlay and is_whiteout(status)):
            raise InvalidArgument(
                f"{printable(member.name)}: hard link to {printable(member.link)}, which is not in"
                f" {'this layer' if self._overlay else 'the tree'}"
            )
        if stat.S_ISDIR(status.st_mode):
            raise InvalidArgument(
                f"{printable(member.name)}: hard link to {printable(member.link)}, a directory"
            )
        try:
            os.link(name, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(base, dir_fd=directory, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return  # linked already; removing it first could remove the last link
            self._replace(directory, base, there)
            self.call = "linkat"
            os.link(name, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    # Whiteouts

    def _white_out(self, member: Member, parent: bytes, base: bytes) -> None:
        if base.startswith(AUFS_PREFIX) and base != OPAQUE:
            return  # aufs kept its own books under such names
        name = base[len(WHITEOUT_PREFIX) :]
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"{printable(member.name)}: whiteout of {printable(name)}")
        if base == OPAQUE:
            self._make_opaque(member, parent)
            return
        path = parent + b"/" + name if parent else name
        if self._overlay:
            directory = self._directory(parent, member)
            self.call = "mknodat"
            try:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
            except FileExistsError:
                # What this very layer made stays: a whiteout is for what is below it.
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._set_opaque(directory, name)
            return
        try:
            directory = self._existing(parent)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR, ELOOP):
                return  # there is nothing to delete
            raise
        if path not in self._made:
            self._directory(parent, member)
            self._replace(directory, name, status)
        elif stat.S_ISDIR(status.st_mode):
            self._prune(path)

    def _make_opaque(self, member: Member, path: bytes) -> None:
        if not self._overlay:
            try:
                self._existing(path)
            except KernelError as error:
                if error.errno in (ENOENT, ENOTDIR, ELOOP):
                    return
                raise
            self._prune(path)
            return
        if not path:
            if not self._has_lower and not self._loose:
                raise NotSupported(
                    f"{printable(member.name)}: a layer that hides the whole root below it"
                )
            self._hide_root = True
            return
        above, _, base = path.rpartition(b"/")
        self._directory(path, member)
        self._set_opaque(self._existing(above), base)

    def _prune(self, path: bytes) -> None:
        """Remove what is in a directory, but for what this layer made."""
        prefix = path + b"/" if path else b""
        made = self._made
        descriptor = os.open(".", OPEN_DIRECTORY, dir_fd=self._existing(path))
        try:
            self._retire()
            clear_directory(descriptor, lambda below: prefix + below in made)
        finally:
            os.close(descriptor)


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        written = os.write(descriptor, data)
        if written == len(data):
            return
        data = data[written:]
