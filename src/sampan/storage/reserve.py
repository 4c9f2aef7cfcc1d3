"""Room that is held back, so that things can still be removed from a disk that is full.

To take a row out of the database SQLite writes a few pages to its write-ahead log: on a disk that
is full to the last byte nothing could be removed, and so no room be made. A file of one mebibyte
holds room for that. What only makes room, or ends a container, gets a slice of it when SQLite finds
the disk full, and is tried again (``Database.release``); everything else is refused as before. The
slices are small because others write too: what one attempt gives up and a container eats, the next
attempt has again. The file is made whole when there is room to spare.

Its blocks are allocated (posix_fallocate(3)): a file of a length alone would hold nothing.
"""

from __future__ import annotations

import os
import threading

__all__ = ["SIZE", "Reserve"]

SIZE = 1 << 20
_SLICE = SIZE >> 5
_TO_SPARE = 8 << 20
"""Bytes that have to be free beside what the file takes."""


class Reserve:
    """The file at ``path``, made when there is room for it. Safe to share between threads."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = 0 if _is_sparse(self._fd) else os.fstat(self._fd).st_size
        self.refill()

    def close(self) -> None:
        os.close(self._fd)

    def give_up(self) -> bool:
        """Free a slice; False when there is nothing left."""
        with self._lock:
            if not self._size:
                return False
            self._size = max(self._size - _SLICE, 0)
            os.ftruncate(self._fd, self._size)
            return True

    def refill(self) -> None:
        """Take back what was given up, if the disk has room to spare."""
        if self._size >= SIZE:
            return
        with self._lock:
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < SIZE + _TO_SPARE:
                return
            try:
                os.posix_fallocate(self._fd, 0, SIZE)
            except OSError:
                os.ftruncate(self._fd, self._size)  # somebody was faster: another time
            else:
                self._size = SIZE


def _is_sparse(fd: int) -> bool:
    """Whether it came here by way of something that leaves zeros out."""
    status = os.fstat(fd)
    return status.st_blocks * 512 < status.st_size
