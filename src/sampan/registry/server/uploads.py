"""Uploads: bytes on their way to being a blob (docs/registry-server.md, "An upload").

An upload is hashed as it comes. The running hash lives in this process; after a restart, or where
the digest turns out to be of another algorithm, the file is read again. One request at a time
writes: each takes a turn, and a later turn ends an earlier one, whose client has come back by
another connection or was never one we know. Nothing is appended after a seal: both need the lock.

With several servers over one database a turn is a mark in the upload's row: whoever puts his there
is the one whose state of the storage is kept from then on. The hash that a server has is of the
bytes under the state it kept last; where another state is in the row, the bytes are read again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from sampan.errors import NotFound
from sampan.oci import digest as digests
from sampan.registry.server import quota
from sampan.registry.server.errors import (
    Denied,
    DigestInvalid,
    RangeInvalid,
    Unreachable,
    UploadInvalid,
    UploadUnknown,
)
from sampan.registry.server.turns import Turn, Upload, gone

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.links import Links
    from sampan.registry.server.place import Place
    from sampan.registry.server.storage.base import Storage

__all__ = ["Turn", "Upload", "Uploads"]

_PIECE = 1 << 20
_TOUCH_SECONDS = 60.0


class Uploads:
    """All uploads of a registry."""

    def __init__(self, place: Place, links: Links) -> None:
        self._place = place
        self._links = links
        self._lock = threading.Lock()
        self._known: dict[str, Upload] = {}

    def begin(self, repository: str, algorithm: str = "sha256") -> Upload:
        """A new upload, without a byte. Raises Denied where a quota has no room for one."""
        quota.check_room(self._place, repository, 1)
        upload = Upload(os.urandom(16).hex(), repository, algorithm)
        now = self._place.clock.now()
        row = (upload.identifier, repository, algorithm, now)
        self._place.database.write(
            lambda connection: connection.execute(
                "INSERT INTO uploads (id, repository, algorithm, touched) VALUES (?, ?, ?, ?)", row
            ),
            durable=False,
        )
        upload.touched = now
        with self._lock:
            self._known[upload.identifier] = upload
        return upload

    def find(self, repository: str, identifier: str) -> Upload:
        """Raises UploadUnknown."""
        row = self._place.database.row(
            "SELECT algorithm, state FROM uploads WHERE id = ? AND repository = ?",
            (identifier, repository),
        )
        if row is None:
            self.forget(identifier)
            raise UploadUnknown(f"there is no upload {identifier} to {repository}: begin a new one")
        with self._lock:
            upload = self._known.get(identifier)
            if upload is None:
                # Begun under an earlier process, or by another server.
                upload = self._known[identifier] = Upload(identifier, repository, row[0])
                upload.hashed = -1
                upload.state = row[1]
            return upload

    def take(self, upload: Upload) -> Turn:
        """A turn to write; whoever has one loses it. Raises UploadUnknown."""
        with upload.lock:
            if upload.turn is not None:
                # It may have lost its turn to another server long ago.
                with contextlib.suppress(UploadInvalid, Unreachable):
                    upload.turn.end()
            self._check(upload)
            self._claim(upload)
            try:
                turn = Turn(
                    upload,
                    partial(self._storage.append, upload.identifier, upload.state),
                    keep=self._keep,
                    admit=self._admit,
                )
            except NotFound as error:
                raise gone(upload) from error
            if turn.offset == 0:
                upload.hash, upload.hashed = digests.new_hash(upload.algorithm), 0
            elif turn.offset != upload.hashed:
                upload.hashed = -1
            upload.turn = turn
        try:
            self.touch(upload)
        except BaseException:
            turn.close()  # its row went as it was found
            raise
        return turn

    @property
    def _storage(self) -> Storage:
        return self._place.storage

    def _claim(self, upload: Upload) -> None:
        """Be the one whose state is kept, among several servers; with the upload's lock held."""
        if not self._place.database.shared:
            return
        mark = os.urandom(8).hex()
        now = self._place.clock.now()

        def claim(connection: Transaction) -> str | None:
            row = connection.execute(
                "UPDATE uploads SET turn = ?, touched = ? WHERE id = ? RETURNING state",
                (mark, now, upload.identifier),
            ).fetchone()
            return str(row[0]) if row is not None else None

        state = self._place.database.write(claim, durable=False)
        if state is None:
            upload.ended = True
            self._check(upload)
            return
        upload.mark, upload.touched = mark, now
        if state != upload.state:
            upload.state, upload.hashed = state, -1

    def _keep(self, upload: Upload, state: str) -> None:
        """Raises UploadInvalid when the turn is over."""

        def keep(connection: Transaction) -> int:
            return connection.execute(
                "UPDATE uploads SET state = ? WHERE id = ? AND turn = ?",
                (state, upload.identifier, upload.mark),
            ).rowcount

        if not self._place.database.write(keep, durable=False):
            raise UploadInvalid("another request has taken this upload up, or ended it")
        before, upload.state = upload.state, state
        self._storage.replaced(before, state)

    def size(self, upload: Upload) -> int:
        """Bytes that have come so far."""
        with upload.lock:
            turn, state = upload.turn, upload.state
            size = turn.offset if turn is not None else 0
        if turn is not None:
            turn.settle()
            return size
        if self._place.database.shared:
            row = self._place.database.row(
                "SELECT state FROM uploads WHERE id = ?", (upload.identifier,)
            )
            state = row[0] if row is not None else ""
        return self._storage.size(upload.identifier, state)

    def expect_length(self, turn: Turn, length: int) -> None:
        """So many bytes will come. Raises Denied by a quota."""
        self._admit(turn.upload, turn.offset + length)

    def _admit(self, upload: Upload, came: int) -> None:
        """It will have so many bytes. Raises Denied by a quota."""
        name, came = upload.repository, max(came, upload.came)
        if self._place.policy.quota(name) is None:
            return
        quota.check_room(self._place, name, came)
        with self._lock:
            others = [one.came for one in self._known.values() if one.repository == name]
            quota.check_coming(self._place, name, sum(others) - upload.came + came)
            upload.came = came

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
                upload.turn.abandon()
            upload.ended = True
            if not self._storage.stateful:
                # The file first: on a full disk its room is what the row's deletion needs.
                self._storage.drop(upload.identifier, "")

            def delete(connection: Transaction) -> int:
                return connection.execute(
                    "DELETE FROM uploads WHERE id = ?", (upload.identifier,)
                ).rowcount

            deleted = self._place.database.write(delete, durable=False)
            # Whoever deletes the row knows that no blob is, or will be, made of these bytes.
            if deleted and self._storage.stateful:
                self._storage.drop(upload.identifier, upload.state)
        self.forget(upload.identifier)

    def commit(self, upload: Upload, digest: str) -> int:
        """Make a blob of it, in its repository; the size. Wrong bytes are gone.

        Raises DigestInvalid, UploadUnknown, Denied by a quota.
        """
        denied: Denied | None = None
        with upload.lock:
            self._check(upload)
            if upload.turn is not None:
                upload.turn.finish()
            else:
                self._claim(upload)
            size, found = self._digest(upload, digests.parse(digest)[0], digest)
            if found == digest:
                denied = self._place_blob(upload, digest, size)
                if denied is None:
                    upload.ended = True
                    self.forget(upload.identifier)
                    return size
        self.cancel(upload)
        if denied is not None:
            raise denied
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

        def touch(connection: Transaction) -> int:
            return connection.execute(
                "UPDATE uploads SET touched = ? WHERE id = ?", (now, upload.identifier)
            ).rowcount

        if not self._place.database.write(touch, durable=False):
            upload.ended = True
            self._check(upload)

    def _digest(self, upload: Upload, algorithm: str, wanted: str) -> tuple[int, str]:
        """Size and digest of what has come, which is finished with this."""
        storage = self._storage
        try:
            done = storage.finish(upload.identifier, wanted, upload.state)
        except NotFound as error:
            raise gone(upload) from error
        upload.state = done.state
        if not done.known:
            upload.hashed = -1
        size = storage.size(upload.identifier, upload.state)
        if upload.hashed == size and upload.algorithm == algorithm:
            return size, f"{algorithm}:{upload.hash.hexdigest()}"
        reader = storage.read_upload(upload.identifier, upload.state)
        try:
            running, offset = digests.new_hash(algorithm), 0
            while data := reader.read(offset, _PIECE):
                running.update(data)
                offset += len(data)
        finally:
            reader.close()
        return offset, f"{algorithm}:{running.hexdigest()}"

    def _place_blob(self, upload: Upload, digest: str, size: int) -> Denied | None:
        """Rows for it; its bytes are sealed unless the blob is there already. What forbids it."""
        storage, state = self._storage, upload.state
        key: str | None = None
        if not self._links.has_blob(digest):
            key = storage.seal(upload.identifier, digest, state)
        try:
            while not self._links.arrive(upload.repository, digest, size, upload.identifier, key):
                # The blob that was there was collected meanwhile: ours is needed after all.
                key = storage.seal(upload.identifier, digest, state)
        except Denied as error:
            if key is not None and not storage.stateful:
                storage.delete(key)  # nobody's but this upload's; others go when it is cancelled
            return error
        if key is None:
            try:
                storage.drop(upload.identifier, state)
            except Unreachable:
                pass  # the blob is there; the next collection finds what nobody needs
        return None
