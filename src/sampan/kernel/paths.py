"""Paths inside a root file system somebody else controls: resolved by the kernel, held open.

After openat2(2) (Linux 5.6) and path_resolution(7). A path checked as text is a path an attacker
swaps before it is used (CVE-2021-30465, CVE-2019-14271, CVE-2018-15664). So whatever is below a
container's root is opened with ``RESOLVE_IN_ROOT`` (absolute symbolic links and ``..`` stay inside,
as after a chroot) and ``RESOLVE_NO_MAGICLINKS`` (no ``/proc/PID/root`` and the like), and what is
missing is made one component at a time, below a descriptor, by a name without a slash.
"""

from __future__ import annotations

import os
import stat
from errno import EAGAIN, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR

from sampan.errors import KernelError
from sampan.kernel.mounts import PROC_SUPER_MAGIC, filesystem_magic
from sampan.kernel.procfs import Procfs
from sampan.kernel.resolve import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from sampan.kernel.syscalls import c_string, syscall

__all__ = [
    "O_PATH",
    "RESOLVE_BENEATH",
    "RESOLVE_CACHED",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "Procfs",
    "evaluate_in_root",
    "make_directory_in_root",
    "make_file_in_root",
    "open_in_root",
    "open_regular",
    "open_regular_in_root",
    "openat2",
    "rename_new",
]

_RENAME_NOREPLACE = 1
_MAX_LINKS = 40
# Somebody who removes what was just made can keep us going; the bound makes that an error.
_MAX_ATTEMPTS = 128


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process chrooted into ``root_fd`` would, without following magic links."""
    return openat2(root_fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_regular(directory: int, name: str | bytes, flags: int = os.O_RDONLY) -> int:
    """Open the regular file ``name`` of a directory; -1 if it is anything else, or is gone.

    A device is not even opened, which may be all it takes to act (a watchdog, a tape): what is
    there is looked at through a descriptor that opens nothing (O_PATH), and only then opened anew,
    by our own /proc, as the very same file.
    """
    try:
        path = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (ENOENT, ELOOP):
            return -1
        raise
    return _opened_regular(path, flags)


def open_regular_in_root(root_fd: int, path: str) -> int:
    """The same for ``path`` inside ``root_fd``, links followed; ``ENOENT`` says there is nothing.

    ``EINVAL``: it is no regular file.
    """
    fd = _opened_regular(open_in_root(root_fd, path, O_PATH), os.O_RDONLY)
    if fd < 0:
        raise KernelError("open", EINVAL, f"{path} (not a regular file)")
    return fd


def _opened_regular(path: int, flags: int) -> int:
    """Open and close ``path``, an O_PATH descriptor."""
    try:
        if not stat.S_ISREG(os.fstat(path).st_mode):
            return -1
        return os.open(f"/proc/self/fd/{path}", flags | os.O_CLOEXEC)
    finally:
        os.close(path)


def evaluate_in_root(root_fd: int, path: str) -> str:
    """Where ``path`` leads inside ``root_fd``: absolute, without links, as text.

    What does not exist is taken as it is written. For showing: by the time anybody uses it, it may
    lead elsewhere. ``ELOOP``: too many links.
    """
    with _Walk(root_fd, path, 0) as walk:
        pending = _components(path)
        names: list[str] = []
        while pending:
            name = pending.pop()
            real = len(walk.trail) == len(names) + 1  # all so far are directories that exist
            if name == "..":
                if real and names:
                    os.close(walk.trail.pop())
                del names[-1:]
                continue
            fd = walk.find(name) if real else -1
            kind = os.fstat(fd).st_mode if fd >= 0 else 0
            if stat.S_ISLNK(kind):
                text = walk.follow(fd)
                if text.startswith("/"):
                    names.clear()
                pending += _components(text)
                continue
            names.append(name)
            if stat.S_ISDIR(kind):
                walk.trail.append(fd)
            elif fd >= 0:
                os.close(fd)
        return "/" + "/".join(names)


def make_directory_in_root(root_fd: int, path: str, mode: int = 0o755) -> int:
    """Make ``path`` and what is missing above it, inside ``root_fd``: an O_PATH descriptor of it.

    What exists is kept as it is. Symbolic links are followed inside the root only, also one that
    points at what is yet to be made. New directories get ``mode`` less the umask. ``ENOTDIR``:
    something on the way is no directory; ``EAGAIN``: somebody kept removing what was made.
    """
    try:
        return open_in_root(root_fd, path, O_PATH | os.O_DIRECTORY)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
    with _Walk(root_fd, path, mode) as walk:
        walk.go(path)
        return walk.here()


def make_file_in_root(root_fd: int, path: str, mode: int = 0o644) -> int:
    """Make an empty file at ``path`` inside ``root_fd``, unless something is there that is no
    directory (``EISDIR``): an O_PATH descriptor of it. Directories above it are made with 0755."""
    try:
        fd = open_in_root(root_fd, path, O_PATH)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
    else:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise KernelError("open", EISDIR, path)
        return fd
    with _Walk(root_fd, path, 0o755) as walk:
        return walk.file(mode)


def rename_new(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename, replacing nothing: ``EEXIST`` where something has the name (renameat2(2))."""
    old, new = c_string(source), c_string(target)
    syscall("renameat2", source_dir, old, target_dir, new, _RENAME_NOREPLACE, target=target)


class _Walk:
    """A walk down from a root by descriptor: ``trail`` holds every directory from the root to here,
    so ".." goes back to the one we came through, whatever it is called or where it is by now."""

    __slots__ = ("links", "mode", "path", "trail")

    def __init__(self, root_fd: int, path: str, mode: int) -> None:
        self.path = path
        self.mode = mode
        self.links = 0
        self.trail = [openat2(root_fd, ".", O_PATH | os.O_DIRECTORY)]

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self.back_to_root()
        os.close(self.trail.pop())

    def here(self) -> int:
        """A descriptor of its own of the directory the walk is in."""
        return openat2(self.trail[-1], ".", O_PATH | os.O_DIRECTORY)

    def back_to_root(self) -> None:
        while len(self.trail) > 1:
            os.close(self.trail.pop())

    def go(self, path: str) -> None:
        """Walk along ``path``, making what is missing."""
        pending = _components(path)
        while pending:
            name = pending.pop()
            if name == "..":
                if len(self.trail) > 1:
                    os.close(self.trail.pop())
                continue
            fd = self.step(name)
            kind = os.fstat(fd).st_mode
            if stat.S_ISLNK(kind):
                pending += _components(self.follow(fd))
            elif stat.S_ISDIR(kind):
                self.trail.append(fd)
            else:
                os.close(fd)
                raise KernelError("mkdir", ENOTDIR, f"{self.path} (at {name})")

    def step(self, name: str) -> int:
        """What is called ``name`` here (a link itself), made a directory if nothing is."""
        for _ in range(_MAX_ATTEMPTS):
            try:
                return self.look(name)
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
            try:
                os.mkdir(name, self.mode, dir_fd=self.trail[-1])
            except OSError as error:
                if error.errno != EEXIST:
                    raise KernelError(
                        "mkdir", error.errno or 0, f"{self.path} (at {name})"
                    ) from None
        raise KernelError("mkdir", EAGAIN, f"{self.path} (at {name}: removed again and again)")

    def look(self, name: str) -> int:
        """An O_PATH descriptor of ``name`` here, of a link itself."""
        try:
            return openat2(
                self.trail[-1],
                name,
                O_PATH | os.O_NOFOLLOW,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
            )
        except KernelError as error:
            raise KernelError("openat2", error.errno or 0, f"{self.path} (at {name})") from None

    def find(self, name: str) -> int:
        """``look``, and -1 where there is nothing."""
        try:
            return self.look(name)
        except KernelError as error:
            if error.errno != ENOENT:
                raise
            return -1

    def follow(self, link: int) -> str:
        """Read and close ``link``: the path to walk next, from the root if it is absolute. Links of
        a procfs are refused, as their text is not where they lead."""
        try:
            self.links += 1
            if self.links > _MAX_LINKS or filesystem_magic(link) == PROC_SUPER_MAGIC:
                raise KernelError("readlink", ELOOP, self.path)
            try:
                text = os.readlink("", dir_fd=link)
            except OSError as error:
                raise KernelError("readlink", error.errno or 0, self.path) from None
        finally:
            os.close(link)
        if text.startswith("/"):
            self.back_to_root()
        return text

    def file(self, mode: int) -> int:
        """Walk to the parent of the file, then open it, made if it is missing."""
        path = self.path
        for _ in range(_MAX_ATTEMPTS):
            parent, _, name = path.rpartition("/")
            if name in ("", ".", ".."):
                raise KernelError("open", EISDIR, self.path)
            self.go(parent)
            try:
                fd = self.look(name)
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
                self.create(name, mode)
                path = name
                continue
            kind = os.fstat(fd).st_mode
            if stat.S_ISLNK(kind):
                path = self.follow(fd)
                continue
            if stat.S_ISDIR(kind):
                os.close(fd)
                raise KernelError("open", EISDIR, self.path)
            return fd
        raise KernelError("open", EAGAIN, f"{self.path} (replaced again and again)")

    def create(self, name: str, mode: int) -> None:
        """Make an empty file here, unless somebody was faster."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            os.close(openat2(self.trail[-1], name, flags, mode, RESOLVE_BENEATH))
        except KernelError as error:
            if error.errno != EEXIST:
                raise KernelError(error.call, error.errno or 0, self.path) from None


def _components(path: str) -> list[str]:
    """The names of ``path``, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
