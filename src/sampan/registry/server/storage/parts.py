"""An upload on its way into a bucket: its state, what is not in the bucket yet, and who writes.

A part is sent by a thread of its own while the next bytes come, one part of an upload at a time: so
an upload has two spools at most, files without names, and memory does not grow with what comes. The
state has a part when it is stored, never before; whoever writes is told then, and settles it. Where
a part fails, all that came since the last state is for the client to send again, and whoever
appends, or closes, is told.
"""

from __future__ import annotations

import hashlib
import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from sampan.errors import Corrupt
from sampan.registry.server.errors import Unreachable
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from sampan.registry.server.storage.s3 import S3Storage

__all__ = ["Appender", "Part", "Spool", "State"]

_LEAST = 5 << 20
"""Bytes of every part but the last (S3's limits); there are ten thousand at most."""


class Part(NamedTuple):
    """Of a multipart upload."""

    size: int
    etag: str


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """``rest`` is the object with what stands behind the ``parts``: with none, all of it."""

    parts: tuple[Part, ...] = ()
    target: str = ""
    multipart: str = ""
    rest: str = ""
    rest_size: int = 0

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts) + self.rest_size

    def text(self) -> str:
        return msgspec.json.encode(self).decode() if self != State() else ""

    @classmethod
    def read(cls, text: str) -> State:
        """Of a ``text``."""
        if not text:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the state of an upload cannot be read: {error}") from error


class Spool:
    """Bytes that are not in the bucket yet."""

    def __init__(self, directory: str) -> None:
        try:
            # Closed by ``close``, or with its owner.
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise explain(error, "open", directory, "while beginning an upload") from error
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: memoryview) -> None:
        try:
            while data:
                written = self._file.write(data)
                self._md5.update(data[:written])
                self.size += written
                data = data[written:]
        except OSError as error:
            raise explain(error, "write", "a part", "while storing an upload") from error

    def body(self) -> tuple[IO[bytes], bytes]:
        """A file at its beginning, and its MD5."""
        self._file.seek(0)
        return self._file, self._md5.digest()

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def to_end(self) -> None:
        """After ``body``: to be written on."""
        self._file.seek(self.size)

    def close(self) -> None:
        self._file.close()


class Appender:
    """``base.Appender``."""

    def __init__(
        self,
        storage: S3Storage,
        upload: str,
        state: State,
        spool: Spool,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self._storage = storage
        self._upload = upload
        self._tell = tell
        self._state = state
        self._spool = spool
        self._fresh = False
        """Something is in the spool that is not in ``rest``."""
        self._under_way: Future[State] | None = None
        """A part, and the state with it."""
        self._sent: Spool | None = None
        """What that part is; kept for the next one."""
        self._broken = False
        """The bucket has failed: nothing is taken any more."""
        self.state = state.text()
        self.offset = state.size

    def append(self, data: bytes) -> None:
        if self._broken:
            raise Unreachable(f"a part of upload {self._upload} was not stored: ask how much was")
        if self._under_way is not None and self._under_way.done():
            self._arrive()
        view = memoryview(data)
        while view:
            number = len(self._state.parts) + (self._under_way is not None)
            room = self._storage.part_size(number) - self._spool.size
            if room <= 0:
                self._send()
                continue
            piece = view[:room]
            before = self._spool.size
            try:
                self._spool.write(piece)
            finally:
                self.offset += self._spool.size - before
            self._fresh = True
            view = view[room:]

    def _send(self) -> None:
        """What is in the spool becomes a part, when the one before it has arrived."""
        self._arrive()
        spool, self._spool = self._spool, self._sent or self._storage.new_spool()
        self._sent = spool
        self._fresh = False
        self._under_way = self._storage.send_part(self._upload, self._state, spool)
        if self._tell is not None:
            self._under_way.add_done_callback(self._told)

    def _told(self, part: Future[State]) -> None:
        if self._tell is not None and part.exception() is None:
            self._tell()

    def settle(self) -> None:
        part = self._under_way
        if part is not None and part.done() and part.exception() is None:
            self._arrive()

    def _arrive(self) -> None:
        """Wait for the part that is under way, if there is one."""
        part, self._under_way = self._under_way, None
        if part is None or self._sent is None:
            return
        try:
            self._state = part.result()
        except BaseException:
            self._broken = True
            self.offset = self._state.size
            raise
        self._sent.clear()
        self.state = self._state.text()

    def close(self) -> None:
        self._end(_LEAST)

    def finish(self) -> None:
        self._end(1)

    def _end(self, least: int) -> None:
        """What is in the spool is stored: behind other parts, and with so many bytes, as a part."""
        kept: Spool | None = None
        try:
            self._arrive()
            if self._broken:
                return
            if self._fresh and self._state.parts and self._spool.size >= least:
                self._send()
                self._arrive()
            elif self._fresh:
                self.keep_rest()
            kept = self._spool
        finally:
            self._drop_spools(kept)
        self._storage.warm(self._upload, self.state, self._spool)

    def keep_rest(self) -> None:
        """What is in the spool becomes an object."""
        key = self._storage.new_key(self._upload)
        self._storage.put(key, *self._spool.body())
        self._spool.to_end()
        self._state = msgspec.structs.replace(self._state, rest=key, rest_size=self._spool.size)
        self._fresh = False
        self.state = self._state.text()

    def abandon(self) -> None:
        part, self._under_way = self._under_way, None
        # What arrives behind the end of its upload would be nobody's.
        if part is not None and part.exception() is None and not self._state.multipart:
            self._storage.abort(part.result())
        self._drop_spools(None)

    def _drop_spools(self, kept: Spool | None) -> None:
        for one in (self._spool, self._sent):
            if one is not None and one is not kept:
                one.close()
        self._sent = None
