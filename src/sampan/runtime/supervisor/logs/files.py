"""A log file that is appended to, rotated and compressed; what is in it does not matter here.

``path`` is written; ``path.1`` (younger) to ``path.N`` (older) were; with ``compress`` they are
``path.N.gz``. A rotation renames, and begins a new file; a log of one file only is replaced by an
empty one. Readers that hold a descriptor are not disturbed by either.

A rotated file is compressed by a fork, for the container's output is not to wait for it, and put in
place when it is whole. The next rotation waits for a fork that is still at work.

A disk that is full or fails makes ``append`` return less than it was given, never a torn entry.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.processes import close_range, set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

__all__ = ["FileDriver", "RotatedFile", "compress"]

_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_BLOCK = 256 * 1024
_CRASHED = 70
_GZIP = 16 + 15
_POLITE = 10


class RotatedFile:
    """See the module's text. Sizes are in bytes, ``max_size`` None for no limit; ``problem`` is why
    something was not taken the last time. While it ``is_pinned`` the file is not rotated."""

    __slots__ = (
        "_compress",
        "_compressor",
        "_fd",
        "_max_file",
        "_path",
        "is_pinned",
        "max_size",
        "problem",
        "size",
    )

    def __init__(
        self,
        path: str,
        max_size: int | None = None,
        max_file: int = 1,
        *,
        compress: bool = False,
        fd: int = -1,
        whole: Callable[[int, int], int] | None = None,
    ) -> None:
        """Open or make ``path``.

        ``fd``: the descriptor of an earlier opening, to be used and owned instead. ``whole(fd,
        size)`` says how much of an existing file holds whole entries; the rest is cut off.
        Raises KernelError when it cannot be opened, InvalidArgument when it is no regular file.
        """
        if max_size is not None and max_size <= 0:
            raise InvalidArgument(f"log max_size {max_size}: must be positive")
        if max_file < 1:
            raise InvalidArgument(f"log max_file {max_file}: must be at least 1")
        self._path = path
        self._max_file = max_file
        self._compress = compress
        self._compressor = -1
        self.max_size = max_size
        self.problem = ""
        self.is_pinned = False
        if fd >= 0:
            self._fd, self.size = fd, os.fstat(fd).st_size
            return
        self._fd, self.size = _open(path, _FLAGS)
        if whole is not None and self.size:
            kept = whole(self._fd, self.size)
            if kept < self.size:
                os.ftruncate(self._fd, kept)
                self.size = kept

    def fileno(self) -> int:
        """The descriptor of the file that is written now."""
        return self._fd

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is at work, or bound to this process."""
        if self._compressor >= 0 and select.select([self._compressor], [], [], 0)[0]:
            self._finish_compressing()
        return self._compressor < 0 and not self.is_pinned

    @property
    def room(self) -> int | None:
        """How many bytes may still be written before the next entry belongs into another file; None
        for no limit, as while it ``is_pinned``."""
        if self.max_size is None or self.is_pinned:
            return None
        return max(0, self.max_size - self.size)

    @property
    def excess(self) -> int:
        """How far a file that ``is_pinned`` has grown beyond its size."""
        if self.max_size is None or not self.is_pinned:
            return 0
        return max(0, self.size - self.max_size)

    def append(self, entries: bytes, cut: Callable[[bytes, int], int]) -> int:
        """Write whole entries; returns how many bytes of them were taken.

        ``cut(entries, size)`` is the size of the whole entries in the first ``size`` bytes.
        """
        self.problem = f"write {self._path}: cut short: no space left on its disk"
        try:
            written = os.write(self._fd, entries)
        except OSError as error:
            self.problem = f"write {self._path}: {(error.strerror or '').lower()}"
            written = 0
        if written != len(entries):
            kept = cut(entries, written)
            if kept != written:
                os.ftruncate(self._fd, self.size + kept)
            written = kept
        self.size += written
        return written

    def rotate(self) -> bool:
        """Begin a new file; False when none can be made, and the old one goes on."""
        self._finish_compressing()
        try:
            if self._max_file == 1:
                fd, size = _open(f"{self._path}.new", _FLAGS)
                os.rename(f"{self._path}.new", self._path)
            else:
                self._shift()
                fd, size = _open(self._path, _FLAGS)
        except (InvalidArgument, OSError):
            return False
        os.close(self._fd)
        self._fd, self.size = fd, size
        if self._compress and self._max_file > 1:
            self._compressor = _compress_apart(f"{self._path}.1")
        return True

    def _shift(self) -> None:
        for number in range(self._max_file - 1, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            # What cannot be moved stays where it is, and the older one with it.
            if _move(newer, older):
                _remove(f"{older}.gz")
                if number > 1:
                    _remove(f"{newer}.gz")  # Of a compressor that died before its last step.
            elif number > 1 and os.path.exists(f"{newer}.gz"):
                _remove(older)
                _move(f"{newer}.gz", f"{older}.gz")

    def _finish_compressing(self) -> None:
        if self._compressor >= 0:
            try:
                os.waitid(os.P_PIDFD, self._compressor, os.WEXITED)
            except ChildProcessError:
                pass  # Reaped, as any child of the monitor's is.
            os.close(self._compressor)
            self._compressor = -1

    def close(self) -> None:
        self._finish_compressing()
        os.close(self._fd)


def _open(path: str, flags: int) -> tuple[int, int]:
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise InvalidArgument(f"log {path}: not a regular file")
    return fd, status.st_size


def _move(source: str, target: str) -> bool:
    try:
        os.rename(source, target)
    except OSError:
        return False
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # It was not there, mostly.


def _compress_apart(path: str) -> int:
    """Compress a file in a fork of this process: its pidfd, or -1 when there can be none."""
    try:
        pid = os.fork()
        if pid == 0:
            _be_compressor(path)
        return os.pidfd_open(pid)
    except OSError:
        return -1  # It stays as it is; readers take both.


def _be_compressor(path: str) -> NoReturn:
    code = _CRASHED
    try:
        set_parent_death_signal(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        # Clients and the container must not wait for a descriptor that only we still hold.
        close_range(3)
        os.nice(_POLITE)
        compress(path)
        code = 0
    finally:
        if code and (error := sys.exception()) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
        os._exit(code)


def compress(path: str) -> None:
    """Put ``path.gz`` (gzip, RFC 1952) in the place of ``path``, with its time.

    A disk that is full leaves ``path`` as it was.
    """
    import zlib

    temporary = f"{path}.gz.new"
    packer = zlib.compressobj(wbits=_GZIP)
    try:
        with open(path, "rb", 0) as source, open(temporary, "wb", opener=_private) as target:
            while data := source.read(_BLOCK):
                target.write(packer.compress(data))
            target.write(packer.flush())
            target.flush()
            times = os.fstat(source.fileno())
            os.utime(target.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
        os.rename(temporary, f"{path}.gz")
        os.unlink(path)
    except OSError:
        _remove(temporary)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _MODE)


class FileDriver:
    """What the drivers have in common whose batches are bytes for a file (``log.Driver``)."""

    __slots__ = ("_file",)

    def __init__(self, file: RotatedFile) -> None:
        self._file = file

    @staticmethod
    def size(batch: bytes) -> int:
        return len(batch)

    @property
    def problem(self) -> str:
        return self._file.problem

    def descriptors(self) -> dict[str, int]:
        return {"log": self._file.fileno()}

    def waits_for(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        self._file.close()
