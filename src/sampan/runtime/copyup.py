"""Copying what an image has at a mount point into what will cover it there.

The ``tmpcopyup`` of a tmpfs, and Docker's rule for empty volumes (``sampan.volume.filling``). Both
sides are walked by descriptor, never by path: the volume may be visible to another container
meanwhile, and the image is not ours. Owners, modes, times, extended attributes, holes and hard
links are kept.

What is mounted below the source is not the image's, and is left out: an image whose mount point is
a link to ``/`` would else have the kernel's files copied, before they are masked (the class of
CVE-2022-23648). The caller sees to it that the source itself is the image's.
"""

from __future__ import annotations

import os
import stat
from errno import ENODATA, ENOTSUP, ENXIO, EXDEV

from sampan.errors import KernelError
from sampan.kernel import paths

__all__ = ["copy_tree", "fill"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30
_OWN = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_XDEV

# One directory being copied: source, destination, the names yet to do, its path below the top.
_Level = tuple[int, int, list[str], str]


def fill(mount_fd: int, source_fd: int, keep_root: bool = False) -> None:
    """If the directory ``mount_fd`` is empty, copy the content of directory ``source_fd`` into it.

    Both may be O_PATH. ``keep_root``: the mount's own directory keeps its owner and mode.
    """
    try:
        source = os.open(".", _DIRECTORY, dir_fd=source_fd)
        try:
            destination = os.open(".", _DIRECTORY, dir_fd=mount_fd)
            try:
                if not os.listdir(destination):
                    copy_tree(source, destination, keep_root)
            finally:
                os.close(destination)
        finally:
            os.close(source)
    except KernelError:
        raise
    except OSError as error:
        raise KernelError("copy up", error.errno or 0, str(error.filename or "")) from None


def copy_tree(source: int, destination: int, keep_root: bool = False) -> None:
    """Copy all below directory ``source`` into directory ``destination`` (not O_PATH)."""
    links: dict[tuple[int, int], str] = {}
    levels: list[_Level] = [(source, destination, os.listdir(source), "")]
    try:
        while levels:
            here, there, names, path = levels[-1]
            if not names:
                if len(levels) > 1 or not keep_root:
                    _finish_directory(here, there)
                levels.pop()
                if levels:
                    os.close(here)
                    os.close(there)
                continue
            name = names.pop()
            status = os.lstat(name, dir_fd=here)
            below = f"{path}/{name}" if path else name
            if stat.S_ISDIR(status.st_mode):
                level = _enter(here, there, name, below)
                if level is not None:
                    levels.append(level)
                continue
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and identity in links:
                _link(destination, links[identity], there, name)
                continue
            links[identity] = below
            if stat.S_ISREG(status.st_mode):
                _copy_file(here, there, name)
            else:
                _copy_special(here, there, name, status)
    finally:
        for here, there, _, path in levels:
            if path:
                os.close(here)
                os.close(there)


def _open_own(here: int, name: str, flags: int) -> int:
    """Open ``name`` for reading; -1 if something is mounted on it."""
    try:
        return paths.openat2(here, name, os.O_RDONLY | os.O_NOFOLLOW | flags, resolve=_OWN)
    except KernelError as error:
        if error.errno == EXDEV:
            return -1
        raise


def _enter(here: int, there: int, name: str, below: str) -> _Level | None:
    """Go down into directory ``name``; None for a mount point, whose copy stays empty."""
    source = _open_own(here, name, os.O_DIRECTORY)
    if source < 0:
        os.mkdir(name, 0o755, dir_fd=there)
        return None
    try:
        os.mkdir(name, 0o700, dir_fd=there)
        return (source, os.open(name, _DIRECTORY, dir_fd=there), os.listdir(source), below)
    except BaseException:
        os.close(source)
        raise


def _link(top: int, first: str, there: int, name: str) -> None:
    """Link to the copy at path ``first``, which is opened without following any link."""
    resolve = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS
    fd = paths.openat2(top, first, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)
    try:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=there, follow_symlinks=True)
    finally:
        os.close(fd)


def _copy_file(here: int, there: int, name: str) -> None:
    source = _open_own(here, name, os.O_NONBLOCK)
    if source < 0:
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(name, flags, 0o600, dir_fd=there)
        try:
            status = os.fstat(source)
            _copy_data(source, copy, status.st_size)
            _copy_metadata(source, copy, status)
        finally:
            os.close(copy)
    finally:
        os.close(source)


def _copy_data(source: int, copy: int, size: int) -> None:
    """Every stretch of data; what lies between stays a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:  # only a hole is left
                raise
            break
        position = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(copy, start, os.SEEK_SET)
        while start < position:
            sent = os.sendfile(copy, source, start, min(position - start, _CHUNK))
            if sent == 0:
                break
            start += sent
    os.ftruncate(copy, size)


def _copy_special(here: int, there: int, name: str, status: os.stat_result) -> None:
    """A symbolic link, device, FIFO or socket."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=there)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=there, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=there)
        try:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode))
        finally:
            os.close(fd)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=there, follow_symlinks=False)


def _finish_directory(source: int, copy: int) -> None:
    _copy_metadata(source, copy, os.fstat(source))


def _copy_metadata(source: int, copy: int, status: os.stat_result) -> None:
    os.fchown(copy, status.st_uid, status.st_gid)
    os.fchmod(copy, stat.S_IMODE(status.st_mode))  # after the owner: chown drops setuid bits
    for name in os.listxattr(source):
        try:
            os.setxattr(copy, name, os.getxattr(source, name))
        except OSError as error:
            # A tmpfs holds no user.* before Linux 6.6; an attribute may vanish under our eyes.
            if error.errno not in (ENOTSUP, ENODATA):
                raise
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
