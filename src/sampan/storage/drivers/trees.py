"""Copying and measuring directory trees by descriptor.

A clone keeps owner, mode, times, extended attributes, hard links, holes and device nodes. Regular
files of a clone are hard links to the originals (the ``overlay`` driver), or copies that share
extents where the file system can (FICLONE, ioctl_ficlonerange(2): btrfs, XFS, bcachefs) and are
copied inside the kernel where not (copy_file_range(2)).
"""

from __future__ import annotations

import fcntl
import os
import stat
from errno import EBADF, EINVAL, EMLINK, ENOSYS, ENOTSUP, ENOTTY, ENXIO, EOPNOTSUPP, EXDEV

from sampan.errors import KernelError
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.storage.drivers.base import Usage

__all__ = ["clone_tree", "copy_attributes", "tree_usage"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
_CHUNK = 1 << 30
_CANNOT_CLONE = (EBADF, EINVAL, ENOSYS, ENOTSUP, ENOTTY, EOPNOTSUPP, EXDEV)


def _open(root: int, path: str) -> int:
    if not path:
        return os.open(".", _DIRECTORY, dir_fd=root)
    return openat2(root, path, _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)


def copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Owner, mode, extended attributes and times of one open file to another."""
    # chown(2) drops set-user-ID bits and file capabilities: it goes first.
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(source):
        os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, target, min(end - start, _CHUNK), start, start)
        except OSError as error:
            if error.errno not in _CANNOT_CLONE:
                raise
            count = os.pwrite(target, os.pread(source, min(end - start, 1 << 20), start), start)
        if count == 0:
            return
        start += count


def _copy_content(source: int, target: int, size: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            data = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:
                return
            raise
        position = os.lseek(source, data, os.SEEK_HOLE)
        _copy_range(source, target, data, position)


def _copy_entry(source: int, target: int, name: str, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(name, flags, 0o600, dir_fd=target)
            try:
                _copy_content(reading, writing, status.st_size)
                copy_attributes(reading, writing, status)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    here, there = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    for key in os.listxattr(here, follow_symlinks=False):
        value = os.getxattr(here, key, follow_symlinks=False)
        os.setxattr(there, key, value, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _clone_entry(
    source: int, target: int, name: str, place: str, *, link: bool, seen: dict[tuple[int, int], str]
) -> str | None:
    """Clone one entry that is not a directory; the path of an earlier copy it should link to."""
    if link:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            return None
        except OSError as error:
            if error.errno != EMLINK:
                raise
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if status.st_nlink > 1 and not link:
        first = seen.setdefault((status.st_dev, status.st_ino), place)
        if first != place:
            return first
    _copy_entry(source, target, name, status)
    return None


def clone_tree(source_fd: int, target_fd: int, *, link: bool) -> None:
    """Make the empty directory ``target_fd`` a clone of ``source_fd``.

    ``link``: files are hard links of the originals, so whoever writes to the clone must replace
    files and never open them for writing. A file that already has as many links as the file system
    allows is copied.
    """
    seen: dict[tuple[int, int], str] = {}
    work = [""]
    done: list[str] = []
    try:
        while work:
            path = work.pop()
            done.append(path)
            source, target = _open(source_fd, path), -1
            try:
                target = _open(target_fd, path)
                with os.scandir(source) as entries:
                    listed = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
                for name, is_directory in listed:
                    place = f"{path}/{name}" if path else name
                    if is_directory:
                        os.mkdir(name, 0o700, dir_fd=target)
                        work.append(place)
                        continue
                    first = _clone_entry(source, target, name, place, link=link, seen=seen)
                    if first is not None:
                        os.link(
                            first,
                            name,
                            src_dir_fd=target_fd,
                            dst_dir_fd=target,
                            follow_symlinks=False,
                        )
            finally:
                os.close(source)
                if target >= 0:
                    os.close(target)
        # Children change a directory's times and need it writable: its own attributes come last.
        for path in reversed(done):
            source, target = _open(source_fd, path), -1
            try:
                target = _open(target_fd, path)
                copy_attributes(source, target, os.fstat(source))
            finally:
                os.close(source)
                if target >= 0:
                    os.close(target)
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        raise KernelError("clone tree", error.errno or 0, str(error.filename or "")) from error


def tree_usage(root_fd: int) -> Usage:
    """Bytes allocated and inodes of a tree, its root included, each inode once."""
    size = inodes = 0
    seen: set[int] = set()
    work = [""]
    while work:
        path = work.pop()
        directory = _open(root_fd, path)
        try:
            status = os.fstat(directory)
            size += status.st_blocks * 512
            inodes += 1
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        work.append(f"{path}/{entry.name}" if path else entry.name)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    size += status.st_blocks * 512
                    inodes += 1
        finally:
            os.close(directory)
    return Usage(size, inodes)
