"""A blob that is still coming in, for whoever unpacks it meanwhile.

Another process appends to the blob's file (``BlobStore.ingest``); this one is told how far it got
and reads no further. Bytes handed out are not verified yet: what is made of them counts only after
``finish``, when the blob is in its place.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sampan.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.errors import SampanError
    from sampan.storage.blobs import BlobStore

__all__ = ["Growing"]


class Growing:
    """``read`` blocks, on a thread of its own; everything else is for the one who hears the news.

    ``position`` is how much was read: of bytes as they came, so that it can be held against the
    blob's size.
    """

    def __init__(self, blobs: BlobStore, digest: str) -> None:
        self._blobs = blobs
        self._digest = digest
        self._fd = -1
        self._available = 0
        self._finished = False
        self._error: SampanError | None = None
        self._interrupt: Callable[[], None] | None = None
        self._news = threading.Condition()
        self.position = 0

    def begin(self, path: str, offset: int) -> None:
        """The file its bytes come into. One already renamed into place is found by its digest."""
        with self._news:
            if self._fd < 0:
                try:
                    self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                except FileNotFoundError:
                    return  # committed meanwhile: finish() comes next
                except OSError as error:
                    raise KernelError("open", error.errno or 0, path) from error
            self._available = max(self._available, offset)
            self._news.notify()

    def grow(self, offset: int) -> None:
        """So many bytes are in it."""
        with self._news:
            if self._fd >= 0:
                self._available = max(self._available, offset)
                self._news.notify()

    def finish(self) -> None:
        """All of it is there, verified and in the store. Raises NotFound when it is not."""
        with self._news:
            if self._fd < 0:
                self._fd = self._blobs.open(self._digest)
            self._finished = True
            self._news.notify()

    def fail(self, error: SampanError) -> None:
        """It will not come, or nobody wants it any more: who reads it ends with the error."""
        with self._news:
            if self._error is None:
                self._error = error
            if self._interrupt is not None:
                self._interrupt()
            self._news.notify()

    @contextmanager
    def interrupted(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """For one who does not wait here: ``fail`` calls this, on whatever thread."""
        with self._news:
            if self._error is not None:
                raise self._error
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._news:
                self._interrupt = None

    @property
    def error(self) -> SampanError | None:
        """What ``fail`` was told."""
        return self._error

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, nothing at the end; waits for what has not come yet."""
        available, finished, fd = self.wait(self.position)
        if not finished:
            count = min(count, available - self.position)
        data = os.pread(fd, count, self.position)
        self.position += len(data)
        return data

    def wait(self, position: int) -> tuple[int, bool, int]:
        """Until there is more than ``position``: how much, whether it is all, and the file.

        Raises what ``fail`` was told.
        """
        with self._news:
            while not self._finished and self._error is None and self._available <= position:
                self._news.wait()
            if self._error is not None:
                raise self._error
            return self._available, self._finished, self._fd

    def close(self) -> None:
        """When nobody reads any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
