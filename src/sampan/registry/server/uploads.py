"""Uploads: bytes on their way to being a blob (docs/registry-server.md, "An upload").

An upload is hashed as it comes. The running hash lives in this process; after a restart, or where
the digest turns out to be of another algorithm, the file is read again. One request at a time
writes: each takes a turn, and a later turn ends an earlier one, whose client has come back by
another connection or was never one we know. Nothing is appended after a seal: both need the lock.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from sampan.errors import NotFound
from sampan.oci import digest as digests
from sampan.registry.server.errors import DigestInvalid, RangeInvalid, UploadInvalid, UploadUnknown

if TYPE_CHECKING:
    import sqlite3

    from sampan.oci.digest import Hash
    from sampan.registry.server.links import Links
    from sampan.registry.server.place import Place
    from sampan.registry.server.storage.base import Appender

__all__ = ["Turn", "Upload", "Uploads"]

_PIECE = 1 << 20
_TOUCH_SECONDS = 60.0


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
        self.hash: Hash = digests.new_hash(algorithm)
        self.hashed = 0
        """Bytes that ``hash`` has seen; where it is not the upload's length the file is read."""


class Turn:
    """The right to write to an upload, until somebody else takes it. Call ``close``."""

    def __init__(self, upload: Upload, appender: Appender) -> None:
        self.upload = upload
        self._appender: Appender | None = appender

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
        """Raises UploadInvalid when the turn is over."""
        upload = self.upload
        with upload.lock:
            writer = self._writer
            if upload.hashed == writer.offset:
                upload.hash.update(data)
                upload.hashed += len(data)
            try:
                writer.append(data)
            finally:
                if upload.hashed != writer.offset:
                    # Written in part, or never hashed: the file itself will tell.
                    upload.hashed = -1

    def end(self) -> None:
        """With the upload's lock held."""
        appender, self._appender = self._appender, None
        if appender is not None:
            appender.close()
        if self.upload.turn is self:
            self.upload.turn = None

    def close(self) -> None:
        with self.upload.lock:
            self.end()


class Uploads:
    """All uploads of a registry."""

    def __init__(self, place: Place, links: Links) -> None:
        self._place = place
        self._links = links
        self._lock = threading.Lock()
        self._known: dict[str, Upload] = {}

    def begin(self, repository: str, algorithm: str = "sha256") -> Upload:
        """A new upload, without a byte."""
        upload = Upload(os.urandom(16).hex(), repository, algorithm)
        now = self._place.clock.now()
        row = (upload.identifier, repository, algorithm, now)
        self._place.database.write(
            lambda connection: connection.execute("INSERT INTO uploads VALUES (?, ?, ?, ?)", row),
            durable=False,
        )
        upload.touched = now
        with self._lock:
            self._known[upload.identifier] = upload
        return upload

    def find(self, repository: str, identifier: str) -> Upload:
        """Raises UploadUnknown."""
        row = self._place.database.row(
            "SELECT algorithm FROM uploads WHERE id = ? AND repository = ?",
            (identifier, repository),
        )
        if row is None:
            self.forget(identifier)
            raise UploadUnknown(f"there is no upload {identifier} to {repository}: begin a new one")
        with self._lock:
            upload = self._known.get(identifier)
            if upload is None:
                # Begun under an earlier process.
                upload = self._known[identifier] = Upload(identifier, repository, row[0])
                upload.hashed = -1
            return upload

    def take(self, upload: Upload) -> Turn:
        """A turn to write; whoever has one loses it. Raises UploadUnknown."""
        with upload.lock:
            if upload.turn is not None:
                upload.turn.end()
            self._check(upload)
            turn = Turn(upload, self._place.storage.append(upload.identifier))
            if turn.offset == 0 and upload.hashed:
                upload.hash, upload.hashed = digests.new_hash(upload.algorithm), 0
            upload.turn = turn
        self.touch(upload)
        return turn

    def size(self, upload: Upload) -> int:
        """Bytes that have come so far."""
        with upload.lock:
            if upload.turn is not None:
                return upload.turn.offset
        try:
            reader = self._place.storage.read_upload(upload.identifier)
        except NotFound:
            return 0
        try:
            return reader.size
        finally:
            reader.close()

    def expect(self, turn: Turn, first: int) -> None:
        """Raises RangeInvalid unless the upload continues at byte ``first``."""
        if turn.offset != first:
            raise RangeInvalid(
                f"the upload has {turn.offset} bytes: continue there, not at {first}", turn.offset
            )

    def cancel(self, upload: Upload) -> None:
        """Forget it and its bytes."""
        with upload.lock:
            if upload.turn is not None:
                upload.turn.end()
            upload.ended = True
            # The file first: on a full disk its room is what the row's deletion needs.
            self._place.storage.drop(upload.identifier)
            self._place.database.write(
                lambda connection: connection.execute(
                    "DELETE FROM uploads WHERE id = ?", (upload.identifier,)
                ),
                durable=False,
            )
        self.forget(upload.identifier)

    def commit(self, upload: Upload, digest: str) -> int:
        """Make a blob of it, in its repository; the size. Wrong bytes are gone.

        Raises DigestInvalid, UploadUnknown.
        """
        with upload.lock:
            if upload.turn is not None:
                upload.turn.end()
            self._check(upload)
            size, found = self._digest(upload, digests.parse(digest)[0], digest)
            if found == digest:
                self._place_blob(upload, digest, size)
                upload.ended = True
                self.forget(upload.identifier)
                return size
        self.cancel(upload)
        raise DigestInvalid(
            f"the upload's digest is {found}, not {digest}", {"digest": digest, "found": found}
        )

    def forget(self, identifier: str) -> None:
        with self._lock:
            self._known.pop(identifier, None)

    def forget_expired(self) -> None:
        """Let go of what a collection, ours or another process's, has ended."""
        alive = {row[0] for row in self._place.database.rows("SELECT id FROM uploads")}
        with self._lock:
            gone = [identifier for identifier in self._known if identifier not in alive]
        for identifier in gone:
            # One that was begun behind our reading has its row by now.
            row = self._place.database.row("SELECT 1 FROM uploads WHERE id = ?", (identifier,))
            if row is None:
                self.forget(identifier)

    def _check(self, upload: Upload) -> None:
        if upload.ended:
            raise UploadUnknown(f"upload {upload.identifier} has ended: begin a new one")

    def is_stale(self, upload: Upload) -> bool:
        """It is time to ``touch`` it again."""
        return self._place.clock.now() - upload.touched > _TOUCH_SECONDS

    def touch(self, upload: Upload) -> None:
        """It is alive: let the database know, now and then. Raises UploadUnknown."""
        if not self.is_stale(upload):
            return
        now = upload.touched = self._place.clock.now()

        def touch(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "UPDATE uploads SET touched = ? WHERE id = ?", (now, upload.identifier)
            ).rowcount

        if not self._place.database.write(touch, durable=False):
            upload.ended = True
            self._check(upload)

    def _digest(self, upload: Upload, algorithm: str, wanted: str) -> tuple[int, str]:
        """Size and digest of what has come."""
        storage = self._place.storage
        try:
            reader = storage.read_upload(upload.identifier)
        except NotFound:
            return self._moved(upload, wanted)
        try:
            size = reader.size
            if upload.hashed == size and upload.algorithm == algorithm:
                return size, f"{algorithm}:{upload.hash.hexdigest()}"
            running, offset = digests.new_hash(algorithm), 0
            while data := reader.read(offset, _PIECE):
                running.update(data)
                offset += len(data)
        finally:
            reader.close()
        return size, f"{algorithm}:{running.hexdigest()}"

    def _moved(self, upload: Upload, wanted: str) -> tuple[int, str]:
        """No file: nothing has come, or an earlier process sealed it and died."""
        storage = self._place.storage
        try:
            reader = storage.open(storage.seal(upload.identifier, wanted))
        except NotFound:
            storage.append(upload.identifier).close()  # an empty blob has a file, too
            return 0, digests.of(b"", wanted)
        try:
            return reader.size, wanted
        finally:
            reader.close()

    def _place_blob(self, upload: Upload, digest: str, size: int) -> None:
        """Rows for it; its bytes are sealed unless the blob is there already."""
        storage = self._place.storage
        key: str | None = None
        if not self._links.has_blob(digest):
            key = storage.seal(upload.identifier, digest)
        while not self._links.arrive(upload.repository, digest, size, upload.identifier, key):
            # The blob that was there was collected meanwhile: ours is needed after all.
            key = storage.seal(upload.identifier, digest)
        if key is None:
            storage.drop(upload.identifier)
