"""Deleting trees: by descriptor, on one mount only, however deep.

A path walked as a string can be swapped for a link into the machine, and a mount leaked below a
dead container's directory leads to somebody else's files; ``rm -rf`` over a leaked bind mount of
``/`` destroys the machine. So each directory is opened below its parent's descriptor by openat2(2)
with ``RESOLVE_NO_XDEV`` (which stops at bind mounts of the same file system too, where comparing
``st_dev`` does not) and ``RESOLVE_NO_SYMLINKS``. Two descriptors are open at any depth: the way
back up is ``..``, checked by device and inode.

``Trash`` is where things are renamed to, so that removal costs its caller one rename(2).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from errno import ENOENT, EXDEV

from sampan.errors import Conflict, Corrupt, KernelError, SampanError
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

__all__ = ["Trash", "remove_tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STAY = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH

log = logging.getLogger(__name__)


def _descend(parent: int, name: str, shown: str) -> int:
    try:
        return openat2(parent, name, _DIRECTORY, resolve=_STAY)
    except KernelError as error:
        if error.errno == EXDEV:
            raise Conflict(
                f"cannot remove {shown}: a file system is mounted there; unmount it"
            ) from error
        raise


def _empty_files(fd: int) -> list[str]:
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories


def remove_tree(parent_fd: int, name: str, shown: str = "") -> None:
    """Remove ``name`` below ``parent_fd``: a directory with all it holds, or any other file.

    A missing name is no error. Conflict where something is mounted below; what was deleted before
    that stays deleted. ``shown`` is how errors call the tree.
    """
    shown = shown or name
    try:
        current = _descend(parent_fd, name, shown)
    except KernelError as error:
        if error.errno == ENOENT:
            return
        try:
            os.unlink(name, dir_fd=parent_fd)
        except OSError as failure:
            raise KernelError("unlinkat", failure.errno or 0, shown) from error
        return
    # One frame per open level: the directory's name, its identity, subdirectories still to do.
    frames: list[tuple[str, tuple[int, int], list[str]]] = []
    try:
        here = os.fstat(current)
        frames.append((name, (here.st_dev, here.st_ino), _empty_files(current)))
        while frames:
            _, _, rest = frames[-1]
            if rest:
                child_name = rest.pop()
                child = _descend(current, child_name, f"{shown}/…/{child_name}")
                os.close(current)
                current = child
                here = os.fstat(current)
                frames.append((child_name, (here.st_dev, here.st_ino), _empty_files(current)))
                continue
            done, _, _ = frames.pop()
            if not frames:
                break
            above = os.open("..", _DIRECTORY, dir_fd=current)
            os.close(current)
            current = above
            here = os.fstat(current)
            if (here.st_dev, here.st_ino) != frames[-1][1]:
                raise Corrupt(f"cannot remove {shown}: it was moved while it was being removed")
            os.rmdir(done, dir_fd=current)
    except OSError as error:
        if isinstance(error, SampanError):
            raise
        raise KernelError("remove", error.errno or 0, shown) from error
    finally:
        os.close(current)
    os.rmdir(name, dir_fd=parent_fd)


class Trash:
    """A directory things are renamed into, and a thread that deletes them when there is time."""

    def __init__(self, parent_fd: int, name: str) -> None:
        """``name`` below ``parent_fd`` is made if missing; both are on one file system."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            pass
        self._fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        self._serial = 0
        self._lock = threading.Lock()
        self._deleting = threading.Lock()
        self._wanted = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def put(self, parent_fd: int, name: str) -> bool:
        """Rename ``name`` away and have it deleted later; False if it does not exist."""
        with self._lock:
            self._serial += 1
            # The clock keeps a name unique among what earlier processes left here.
            resting = f"{name[:64]}.{time.time_ns():x}.{self._serial}"
        try:
            os.rename(name, resting, src_dir_fd=parent_fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KernelError("rename", error.errno or 0, name) from error
        self._wake()
        return True

    def empty(self) -> None:
        """Delete everything in it now; the first error is raised after the rest was tried."""
        failed: SampanError | None = None
        with self._deleting:
            for name in os.listdir(self._fd):
                try:
                    remove_tree(self._fd, name)
                except SampanError as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Stop the thread; what is left is deleted when the store is opened again."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._wanted.set()
        if thread is not None:
            thread.join()
        os.close(self._fd)

    def _wake(self) -> None:
        self._wanted.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closing:
                    self._thread = threading.Thread(
                        target=self._work, name="sampan-trash", daemon=True
                    )
                    self._thread.start()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing:
                return
            try:
                self.empty()
            except SampanError as error:
                log.warning("trash: %s", error)
