"""A procfs nobody can have tampered with.

After proc(5) and fsopen(2). A write to ``/proc/self/attr/apparmor/exec`` or ``/proc/sys/...`` that
lands in a file of a tmpfs somebody put there silently loses the protection it was to give
(CVE-2019-19921, CVE-2025-52881). So ``Procfs`` makes a mount of its own that is attached nowhere,
and checks that what it opens below is on procfs.

Where a new procfs is refused (a user namespace in whose mount namespace parts of /proc are
covered: the kernel calls a new one "too revealing"; no CAP_SYS_ADMIN), a detached copy of ``/proc``
alone, without what is mounted on it, is taken; where that is refused as well, ``/proc`` itself,
verified to be the root of a procfs and walked without crossing a mount.

A new procfs shows the pid namespace of the process that made it: open it in the namespace whose
processes it should show. ``self`` in it is ENOENT for a process outside.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENOENT, ENOSYS, EPERM, EXDEV

from sampan.errors import KernelError
from sampan.kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    PROC_SUPER_MAGIC,
    clone_tree,
    filesystem_magic,
    fsconfig_create,
    fsconfig_string,
    fsmount,
    fsopen,
)
from sampan.kernel.resolve import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

_PROC_ROOT_INODE = 1

# No right to mount; too revealing; locked mounts on it that a copy would uncover (EINVAL); a kernel
# or a seccomp filter without the call.
_REFUSED = (EPERM, EACCES, EINVAL, ENOSYS)


class Procfs:
    """A verified procfs, held by descriptor ``fd``.

    ``subset`` leaves out everything but processes (Linux 5.8): ``self`` and PIDs, not ``sys``, so
    a leaked descriptor shows nothing of the machine. ``private`` says whether it is a mount of
    our own or the ambient ``/proc``.
    """

    __slots__ = ("fd", "private")

    def __init__(self, subset: bool = False) -> None:
        self.private = True
        fd = _fresh(subset)
        if fd < 0:
            fd, self.private = _ambient()
        self.fd = fd

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """Open ``path`` ("self/attr/exec", "sys/net/ipv4/ip_forward"), which must be on procfs.

        Magic links are not followed (see ``reopen``). ``EXDEV``: something is mounted over it.
        """
        resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
        try:
            fd = openat2(self.fd, path, flags, mode, resolve)
        except KernelError as error:
            raise KernelError(error.call, error.errno or 0, f"/proc/{path}") from None
        if filesystem_magic(fd) != PROC_SUPER_MAGIC:
            os.close(fd)
            raise KernelError("openat2", EXDEV, f"/proc/{path} (not on a procfs)")
        return fd

    def read(self, path: str) -> bytes:
        """The content of the file at ``path``."""
        fd = self.open(path, os.O_RDONLY)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            raise KernelError("read", error.errno or 0, f"/proc/{path}") from None
        finally:
            os.close(fd)

    def write(self, path: str, data: str | bytes) -> None:
        """Write ``data`` to the file at ``path`` in one write(2)."""
        raw = data.encode() if isinstance(data, str) else data
        fd = self.open(path, os.O_WRONLY)
        try:
            os.write(fd, raw)
        except OSError as error:
            raise KernelError("write", error.errno or 0, f"/proc/{path}") from None
        finally:
            os.close(fd)

    def fd_path(self, fd: int) -> str:
        """``/proc/self/fd/N``: for calls that take nothing but a path, where /proc is our own."""
        return f"/proc/self/fd/{fd}"

    def read_link(self, fd: int) -> str:
        """Where the kernel says descriptor ``fd`` is, seen from this process's root."""
        directory = self.open("thread-self/fd", O_PATH | os.O_DIRECTORY)
        try:
            return os.readlink(str(fd), dir_fd=directory)
        except OSError as error:
            raise KernelError("readlink", error.errno or 0, f"fd {fd}") from None
        finally:
            os.close(directory)

    def reopen(self, fd: int, flags: int) -> int:
        """Open anew, with other flags, the very file descriptor ``fd`` (may be O_PATH) stands for.

        The magic link is followed from a directory that was verified, as its last step.
        """
        directory = self.open("thread-self/fd", O_PATH | os.O_DIRECTORY)
        try:
            return os.open(str(fd), flags | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise KernelError("open", error.errno or 0, f"fd {fd} anew") from None
        finally:
            os.close(directory)

    def close(self) -> None:
        """Close the descriptor; a private mount ends with it."""
        os.close(self.fd)

    def __enter__(self) -> Procfs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fresh(subset: bool) -> int:
    """A detached new procfs, or -1 where the kernel refuses one."""
    try:
        context = fsopen("proc")
    except KernelError as error:
        if error.errno not in _REFUSED:
            raise
        return -1
    try:
        if subset:
            try:
                fsconfig_string(context, "hidepid", "ptraceable")
                fsconfig_string(context, "subset", "pid")
            except KernelError as error:
                if error.errno != EINVAL:  # before Linux 5.8
                    raise
        fsconfig_create(context)
        return fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
    except KernelError as error:
        if error.errno not in _REFUSED:
            raise
        return -1
    finally:
        os.close(context)


def _ambient() -> tuple[int, bool]:
    """(/proc, whether it is a copy of our own), verified to be the root of a procfs."""
    try:
        fd = os.open("/proc", O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, "/proc") from None
    if filesystem_magic(fd) != PROC_SUPER_MAGIC or os.fstat(fd).st_ino != _PROC_ROOT_INODE:
        os.close(fd)
        raise KernelError("open", ENOENT, "/proc (what is there is not the root of a procfs)")
    try:
        copy = clone_tree(fd, recursive=False)
    except KernelError as error:
        if error.errno not in _REFUSED:
            raise
        return fd, False
    os.close(fd)
    return copy, True
