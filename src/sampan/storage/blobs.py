"""Content-addressed blobs: ``root/blobs/<algorithm>/<hex>``, an OCI image layout's directory.

A blob is written under ``root/ingest/``, verified against its digest and size, synced, renamed into
place and its directory synced: it is there whole or not at all, and never rewritten. What a killed
process leaves in ``ingest/`` is found by ``sweep``: a living ingest holds ``flock(2)`` on its file,
and the kernel lets go of that lock when the process dies, whatever the reason.

A resumable ingest is a file named for the digest it will have. It outlives an interrupted download,
and the next ingest of that digest continues at its ``offset``.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from sampan.errors import Corrupt, InvalidArgument, KernelError, NotFound
from sampan.oci import digest as digests
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from sampan.oci.digest import Hash

__all__ = ["BlobStore", "Ingest"]

_PIECE = 1 << 20
_ALGORITHMS = ("sha256", "sha512")
_PARTIAL = "partial-"
_FRESH = "fresh-"


class BlobStore:
    """The blobs below one directory, which is made (mode 0700) when it is missing."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._blobs = os.path.join(self.root, "blobs")
        self._ingest = os.path.join(self.root, "ingest")
        for directory in (self._ingest, *(os.path.join(self._blobs, a) for a in _ALGORITHMS)):
            try:
                os.makedirs(directory, 0o700, exist_ok=True)
            except OSError as error:
                raise explain(error, "mkdir", directory, "while making the blob store") from error

    def ingest(
        self, expected: str | None = None, size: int | None = None, *, resume: bool = False
    ) -> Ingest:
        """Begin to write a blob.

        ``expected`` (a digest) and ``size`` (bytes) are held against what was written at commit.
        With ``resume`` the bytes of an interrupted ingest of the same digest are kept and counted:
        continue at ``Ingest.offset``. Where another ingest is writing those very bytes right now,
        this one starts from nothing in a file of its own.
        """
        if resume:
            if expected is None:
                raise InvalidArgument("an ingest can only be resumed by the digest it will have")
            algorithm, encoded = digests.parse(expected)
            descriptor = self._claim(f"{_PARTIAL}{algorithm}-{encoded}")
            if descriptor >= 0:
                name = f"{_PARTIAL}{algorithm}-{encoded}"
                return Ingest(self, name, descriptor, expected, size)
        elif expected is not None:
            digests.parse(expected)
        while True:
            name = _FRESH + os.urandom(16).hex()
            descriptor = self._claim(name)
            if descriptor >= 0:
                return Ingest(self, name, descriptor, expected, size)

    def _claim(self, name: str) -> int:
        """Open and lock a file of ``ingest/``; -1 where another ingest holds it."""
        path = os.path.join(self._ingest, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                descriptor = os.open(path, flags, 0o600)
            except OSError as error:
                raise explain(error, "open", path, "while beginning a blob") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return -1
            # Between open and flock a sweep may have taken the file for a dead one's.
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def path(self, digest: str) -> str:
        """Where the blob is, or would be."""
        algorithm, encoded = digests.parse(digest)
        return os.path.join(self._blobs, algorithm, encoded)

    def open(self, digest: str) -> int:
        """A descriptor to read the blob; ``NotFound`` where there is none."""
        path = self.path(digest)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not in the store") from error
        except OSError as error:
            raise KernelError("open", error.errno or 0, path) from error

    def has(self, digest: str) -> bool:
        """Whether the blob is in the store."""
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Its bytes; ``NotFound`` where there is none."""
        try:
            return os.stat(self.path(digest), follow_symlinks=False).st_size
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not in the store") from error

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """All of a small blob (a manifest, a configuration), verified.

        More than ``limit`` bytes are refused, bytes that are not the digest's are ``Corrupt``.
        """
        descriptor = self.open(digest)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise InvalidArgument(f"blob {digest} has {size} bytes: at most {limit} are read")
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                data = stream.read(limit + 1)
        finally:
            os.close(descriptor)
        running = digests.new_hash(digests.parse(digest)[0])
        running.update(data)
        _hold_against(digest, running)
        return data

    def verify(self, digest: str) -> None:
        """Read the whole blob again; ``Corrupt`` where its bytes are not the digest's."""
        running = digests.new_hash(digests.parse(digest)[0])
        descriptor = self.open(digest)
        try:
            while data := os.read(descriptor, _PIECE):
                running.update(data)
        finally:
            os.close(descriptor)
        _hold_against(digest, running)

    def delete(self, digest: str) -> bool:
        """Remove the blob; whether there was one. Descriptors open on it stay good."""
        path = self.path(digest)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KernelError("unlink", error.errno or 0, path) from error
        return True

    def scratch(self) -> int:
        """A file without a name on the store's disk, gone with its last descriptor (O_TMPFILE)."""
        try:
            return os.open(self._ingest, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise explain(error, "open", self._ingest, "while making room to work") from error

    def digests(self) -> Iterator[str]:
        """Every blob's digest, in order."""
        for algorithm in _ALGORITHMS:
            for name in sorted(os.listdir(os.path.join(self._blobs, algorithm))):
                digest = f"{algorithm}:{name}"
                if digests.is_digest(digest):
                    yield digest

    def sweep(self, keep_partial: float = 24 * 3600.0) -> int:
        """Remove what dead ingests left; how many files that were. For the daemon's start.

        A resumable ingest's file is kept until nothing was written to it for ``keep_partial``
        seconds. Living ingests, of this process or of any other, are not touched.
        """
        removed = 0
        for name in os.listdir(self._ingest):
            path = os.path.join(self._ingest, name)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(descriptor)
                young = time.time() - status.st_mtime < keep_partial
                if status.st_nlink and not (name.startswith(_PARTIAL) and young):
                    os.unlink(path)
                    removed += 1
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        return removed

    def _place(self, name: str, digest: str) -> None:
        """Rename a synced file of ``ingest/`` to its digest, durably."""
        temporary = os.path.join(self._ingest, name)
        path = self.path(digest)
        if os.path.exists(path):
            os.unlink(temporary)
            return
        os.rename(temporary, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _discard(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self._ingest, name))
        except FileNotFoundError:
            pass


class Ingest:
    """One blob being written: ``write`` until all is there, then ``commit``.

    As a context manager it aborts when left without a commit. Not for use by two threads at once.
    """

    def __init__(
        self, store: BlobStore, name: str, descriptor: int, expected: str | None, size: int | None
    ) -> None:
        self._store = store
        self._name = name
        self._descriptor = descriptor
        self._expected = expected
        self._size = size
        algorithm = digests.parse(expected)[0] if expected is not None else "sha256"
        self._algorithm = algorithm
        self._hash = digests.new_hash(algorithm)
        self.offset = 0
        """Bytes written so far: where a resumed download continues."""
        while data := os.read(descriptor, _PIECE):
            self._hash.update(data)
            self.offset += len(data)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            self.abort(keep=kind is not None and not issubclass(kind, Corrupt))

    @property
    def path(self) -> str:
        """The file that grows while it is written, until the commit renames it."""
        return os.path.join(self._store._ingest, self._name)

    @property
    def _what(self) -> str:
        return f"blob {self._expected}" if self._expected else "a blob"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. More than the announced size, or a full disk, ends the ingest."""
        view = memoryview(data)
        if self._size is not None and self.offset + len(view) > self._size:
            self.abort()
            raise Corrupt(f"{self._what} is longer than the {self._size} bytes announced")
        self._hash.update(view)
        self.offset += len(view)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.abort()
            raise explain(error, "write", self._what, f"while storing {self._what}") from error

    def commit(self) -> tuple[str, int]:
        """Verify, sync and put in place; the digest and the size in bytes.

        Wrong bytes are ``Corrupt`` and are gone. A blob that was there before stays as it is.
        """
        found = f"{self._algorithm}:{self._hash.hexdigest()}"
        if self._size is not None and self.offset != self._size:
            # Too few bytes may be continued; the digest cannot have been right yet.
            self.abort(keep=True)
            raise Corrupt(
                f"{self._what} is truncated: expected {self._size} bytes, found {self.offset}"
            )
        if self._expected is not None and found != self._expected:
            self.abort()
            raise Corrupt(f"expected blob {self._expected}, found {found}")
        try:
            os.fsync(self._descriptor)
            self._store._place(self._name, found)
            os.fchmod(self._descriptor, 0o444)
        except OSError as error:
            self.abort()
            raise explain(error, "rename", found, f"while storing blob {found}") from error
        self._close()
        return found, self.offset

    def abort(self, *, keep: bool = False) -> None:
        """Give up. With ``keep`` the bytes of a resumable ingest stay for the next one."""
        if self._descriptor < 0:
            return
        if not (keep and self.offset and self._name.startswith(_PARTIAL)):
            self._store._discard(self._name)
        self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def _hold_against(digest: str, running: Hash) -> None:
    found = f"{digest.partition(':')[0]}:{running.hexdigest()}"
    if found != digest:
        raise Corrupt(f"expected blob {digest}, found {found}")
