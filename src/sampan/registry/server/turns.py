"""An upload, and the turns that requests take to write to it (``uploads`` says when which).

A turn is over when somebody else takes one. What the storage has stored by itself, while no bytes
came, is kept as soon as it says so: by whoever has the upload's lock, or else by the thread that
said so. Neither waits for the other.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

from sampan.errors import NotFound, SampanError
from sampan.oci import digest as digests
from sampan.registry.server.errors import UploadInvalid, UploadUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.oci.digest import Hash
    from sampan.registry.server.storage.base import Appender

__all__ = ["Turn", "Upload", "gone"]


class Upload:
    """One upload; ``Uploads`` hands them out."""

    def __init__(self, identifier: str, repository: str, algorithm: str) -> None:
        self.identifier = identifier
        self.repository = repository
        self.algorithm = algorithm
        self.lock = threading.Lock()
        self.turn: Turn | None = None
        self.ended = False
        self.touched = 0.0
        self.came = 0
        """Bytes, as far as this process knows: for quotas."""
        self.state = ""
        """The storage's, as it is in the row or will be."""
        self.mark = ""
        """Of our turn, in the row of a shared database."""
        self.hash: Hash = digests.new_hash(algorithm)
        self.hashed = 0
        """Bytes that ``hash`` has seen; where it is not the upload's length the file is read."""


class Turn:
    """The right to write to an upload, until somebody else takes it. Call ``close``.

    ``begin`` makes the appender. ``keep`` is told the storage's state when it changes, ``admit``
    may refuse more bytes.
    """

    def __init__(
        self,
        upload: Upload,
        begin: Callable[[Callable[[], None]], Appender],
        *,
        keep: Callable[[Upload, str], None],
        admit: Callable[[Upload, int], None],
    ) -> None:
        self.upload = upload
        self._news = False
        """The storage has stored something by itself."""
        appender = begin(self._told)
        upload.came = appender.offset
        self._admit = admit
        self.last = False
        """No more bytes come: ``Uploads.commit`` closes it."""
        self._appender: Appender | None = appender
        self._keep = keep

    @property
    def offset(self) -> int:
        """Bytes that have come so far."""
        return self._writer.offset

    @property
    def _writer(self) -> Appender:
        if self._appender is None:
            raise UploadInvalid("another request has taken this upload up")
        return self._appender

    def write(self, data: bytes) -> None:
        """Raises UploadInvalid when the turn is over, Denied by a quota."""
        upload = self.upload
        with upload.lock:
            writer = self._writer
            self._admit(upload, writer.offset + len(data))
            if upload.hashed == writer.offset:
                upload.hash.update(data)
                upload.hashed += len(data)
            try:
                writer.append(data)
            except NotFound as error:
                raise gone(upload) from error
            finally:
                if upload.hashed != writer.offset:
                    # Written in part, or never hashed: the file itself will tell.
                    upload.hashed = -1
            self._keep_state(writer)
        self.settle()

    def _keep_state(self, appender: Appender) -> None:
        if appender.state != self.upload.state:
            self._keep(self.upload, appender.state)

    def _told(self) -> None:
        self._news = True
        self.settle()

    def settle(self) -> None:
        """To be called by whoever had the lock: nobody waited for it to say that there are news."""
        lock = self.upload.lock
        while self._news and lock.acquire(blocking=False):
            try:
                self._news = False
                if self._appender is not None:
                    self._appender.settle()
                    self._keep_state(self._appender)
            except (SampanError, sqlite3.Error):
                return  # the next bytes, or the end, meet the same
            finally:
                lock.release()

    def end(self) -> None:
        """With the upload's lock held."""
        appender = self._take()
        if appender is None:
            return
        try:
            try:
                appender.close()
            finally:
                self._keep_state(appender)
        except BaseException:
            self.upload.hashed = -1
            raise

    def finish(self) -> None:
        """``end``, where no more bytes come. The state need not be kept: a blob is made of it."""
        appender = self._take()
        if appender is None:
            return
        try:
            appender.finish()
        except BaseException:
            self.upload.hashed = -1
            with contextlib.suppress(SampanError, sqlite3.Error):
                self._keep_state(appender)  # a part may have been stored before another was not
            raise
        self.upload.state = appender.state

    def abandon(self) -> None:
        """``end``, where nothing that came is wanted."""
        appender = self._take()
        if appender is not None:
            appender.abandon()

    def _take(self) -> Appender | None:
        appender, self._appender = self._appender, None
        if self.upload.turn is self:
            self.upload.turn = None
        return appender

    def close(self) -> None:
        with self.upload.lock:
            self.end()


def gone(upload: Upload) -> UploadUnknown:
    return UploadUnknown(f"the bytes of upload {upload.identifier} are gone: begin a new one")
