"""The files of a log, in the order they were written, whatever rotates them meanwhile.

``path`` is being written, ``path.1`` (younger) to ``path.N`` (older) were, or ``path.N.gz``. A
descriptor keeps its file, so what is open stays readable; and a rotation always makes a new
``path``, so that an unchanged one says that nothing has moved.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from sampan.kernel.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Inotify

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LogFile", "Watch", "close_all", "open_from", "open_one"]

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_BLOCK = 256 * 1024
_GZIP = 16 + 15
_TICK = 1_000_000_000


class LogFile:
    """One open file; ``fd`` may be positioned and read after ``unpack``."""

    __slots__ = ("_packed", "_place", "fd")

    def __init__(self, fd: int, place: str, *, packed: bool) -> None:
        self.fd = fd
        self._place = place
        self._packed = packed

    @property
    def identity(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    @property
    def packed(self) -> bool:
        return self._packed

    def unpack(self) -> None:
        """Replace a compressed file by its content, in a file without a name; takes its time."""
        target = _nameless(self._place)
        try:
            unpacker = zlib.decompressobj(wbits=_GZIP)
            while data := os.read(self.fd, _BLOCK):
                while data:  # A piece may become a thousand times as large.
                    _write(target, unpacker.decompress(data, _BLOCK))
                    data = unpacker.unconsumed_tail
            _write(target, unpacker.flush())
            os.lseek(target, 0, os.SEEK_SET)
        except BaseException:
            os.close(target)
            raise
        os.close(self.fd)
        self.fd, self._packed = target, False

    def close(self) -> None:
        os.close(self.fd)


def _nameless(place: str) -> int:
    try:
        return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.memfd_create("sampan-log", os.MFD_CLOEXEC)  # Not every file system can.


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def open_one(path: str, number: int) -> LogFile | None:
    """The file that is being written (0), or was before that."""
    name = f"{path}.{number}" if number else path
    place = os.path.dirname(path)
    try:
        return LogFile(os.open(name, _FLAGS), place, packed=False)
    except FileNotFoundError:
        if not number:
            return None
    try:
        # It is there before the plain one goes.
        return LogFile(os.open(f"{name}.gz", _FLAGS), place, packed=True)
    except FileNotFoundError:
        return None


def open_from(path: str, since: int = 0) -> list[LogFile]:
    """All files of a log, oldest first; without those that end before ``since`` (nanoseconds)."""
    while True:
        current = open_one(path, 0)
        files = [current] if current is not None else []
        number = 1
        while (older := open_one(path, number)) is not None:
            files.append(older)
            # The kernel's clock for files lags behind by a tick.
            if os.fstat(older.fd).st_mtime_ns + _TICK < since:
                older.close()
                files.pop()
                break
            number += 1
        if _identity(path) == (current.identity if current is not None else None):
            files.reverse()
            return files
        close_all(files)


def close_all(files: Iterable[LogFile]) -> None:
    for file in files:
        file.close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class Watch:
    """What inotify(7) tells of a log: that it grew, and how often it was rotated."""

    __slots__ = ("_inotify", "_name", "rotations")

    def __init__(self, path: str) -> None:
        directory, self._name = os.path.split(path)
        self.rotations = 0
        self._inotify = Inotify()
        self._inotify.add(directory, IN_MODIFY | IN_CREATE | IN_MOVED_TO)

    def fileno(self) -> int:
        return self._inotify.fileno()

    def read(self) -> None:
        """Take in what happened."""
        first, replaced = f"{self._name}.1", self._name
        for event in self._inotify.read():
            # A log of one file is replaced: what was in it is gone.
            if event.mask & IN_MOVED_TO and event.name in (first, replaced):
                self.rotations += 1

    def open(self, path: str, since: int) -> list[LogFile]:
        """All files; ``rotations`` counts from the youngest of them on."""
        while True:
            self.read()
            self.rotations = 0
            files = open_from(path, since)
            self.read()
            if not self.rotations:
                return files
            close_all(files)

    def newer(self, path: str) -> list[LogFile]:
        """What came after the file that was being written when ``rotations`` was 0.

        Nothing yet, when a rotation is between its two steps; the second wakes who waits.
        """
        while True:
            count, self.rotations = self.rotations, 0
            found = [open_one(path, number) for number in range(count - 1, -1, -1)]
            files = [file for file in found if file is not None]
            self.read()
            if not self.rotations and found and found[-1] is not None:
                return files
            close_all(files)
            if not self.rotations:
                self.rotations = count
                return []
            self.rotations += count

    def close(self) -> None:
        self._inotify.close()
