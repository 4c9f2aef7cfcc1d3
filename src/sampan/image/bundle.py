"""What an image arrives in: named members, small documents in memory, all else in the blob store.

The archive of ``docker save`` and the tar of an OCI layout are read in one pass, in whatever order
their members come: what a member is for is only known when ``manifest.json`` or ``index.json`` has
been seen, and the stream cannot be rewound. Large members go to the blob store as they arrive, so
memory does not grow with the image.

Old versions of docker save wrote a layer that occurs twice as a symbolic link. A link is only ever
a second name for a member of the same archive; nothing of the archive is unpacked to a directory.
"""

from __future__ import annotations

import functools
import os
import posixpath
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING

from sampan.errors import Corrupt, InvalidArgument
from sampan.oci import digest as digests
from sampan.storage.archive import headers
from sampan.storage.archive.compression import Unpacker
from sampan.storage.archive.reader import Limits, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sampan.image.spooling import Spool
    from sampan.storage.archive.compression import Readable
    from sampan.storage.blobs import BlobStore
    from sampan.storage.layers import Hold

    Advance = Callable[[str, int, int], None]

__all__ = ["Bundle", "DirectoryBundle", "TarBundle"]

DOCUMENT_LIMIT = 4 << 20
_KEPT_LIMIT = 64 << 20
_MEMBERS_LIMIT = 100_000
_LINKS_LIMIT = 8
_PIECE = 1 << 20


class Bundle(ABC):
    """Members by name: ``document`` for JSON, ``blob`` for layers."""

    def __init__(self, blobs: BlobStore, hold: Hold) -> None:
        self._blobs = blobs
        self._hold = hold

    @abstractmethod
    def has(self, name: str) -> bool: ...

    @abstractmethod
    def document(self, name: str) -> bytes:
        """All bytes of a small member. Corrupt if it is missing, or too large to be a document."""

    @abstractmethod
    def blob(self, name: str, expected: str | None = None) -> tuple[str, int]:
        """Digest and size of a member, which is in the blob store from then on.

        Corrupt if it is missing or if ``expected`` is another digest.
        """

    def _put(self, data: bytes, expected: str | None) -> tuple[str, int]:
        ingest = self._blobs.ingest(expected)
        with ingest:
            ingest.write(data)
            return self._hold.commit(ingest)


class TarBundle(Bundle):
    """A tar stream, compressed or not; read to its end when made."""

    def __init__(
        self,
        stream: int | Readable,
        blobs: BlobStore,
        hold: Hold,
        spool: Spool,
        advance: Advance | None = None,
    ) -> None:
        super().__init__(blobs, hold)
        self._spool = spool
        self._advance = advance
        self._documents: dict[str, bytes] = {}
        self._stored: dict[str, tuple[str, int]] = {}
        self._links: dict[str, str] = {}
        with Unpacker(stream, hashed=False) as unpacker:
            self._read(Reader(unpacker, limits=Limits(members=_MEMBERS_LIMIT)))

    def has(self, name: str) -> bool:
        found = self._follow(name)
        return found in self._documents or found in self._stored

    def document(self, name: str) -> bytes:
        found = self._follow(name)
        if found in self._documents:
            return self._documents[found]
        if found in self._stored:
            raise Corrupt(f"archive: {name} is not a JSON document")
        raise Corrupt(f"archive: {name} is missing")

    def blob(self, name: str, expected: str | None = None) -> tuple[str, int]:
        found = self._follow(name)
        if found in self._documents:
            self._stored[found] = self._put(self._documents[found], None)
        if found not in self._stored:
            raise Corrupt(f"archive: {name} is missing")
        digest, size = self._stored[found]
        if expected is not None and digest != expected:
            raise Corrupt(f"archive: {name}: expected digest {expected}, found {digest}")
        return digest, size

    def _follow(self, name: str) -> str:
        name = _clean(name, "archive")
        for _ in range(_LINKS_LIMIT):
            if name not in self._links:
                return name
            name = self._links[name]
        raise Corrupt(f"archive: {name}: too many links in a row")

    def _read(self, reader: Reader) -> None:
        kept = 0
        name = "its first member"
        try:
            for member in reader:
                kept += len(member.name) + len(member.link)
                if kept > _KEPT_LIMIT:
                    raise InvalidArgument("archive: its names and JSON documents exceed 64 MiB")
                name = _clean(os.fsdecode(member.name), "archive")
                if member.kind in (headers.SYMBOLIC_LINK, headers.HARD_LINK):
                    base = posixpath.dirname(name) if member.kind == headers.SYMBOLIC_LINK else ""
                    target = posixpath.join(base, os.fsdecode(member.link))
                    self._links[name] = _clean(target, f"archive: {_shown(name)}: link")
                    continue
                if member.kind == headers.DIRECTORY:
                    continue
                if member.kind not in (headers.REGULAR, headers.CONTIGUOUS) or member.sparse:
                    raise InvalidArgument(
                        f"archive: {_shown(name)} is neither a plain file nor a link"
                    )
                self._links.pop(name, None)
                if member.size > DOCUMENT_LIMIT:
                    self._stored[name] = self._store(name, reader.content(), member.size)
                    continue
                data = b"".join(reader.content())
                if not _is_document(name, data):
                    self._stored[name] = self._store(name, (data,), member.size)
                    continue
                kept += len(data)
                self._check_address(name, data)
                self._documents[name] = data
        except Corrupt as error:
            if str(error).startswith("archive: "):
                raise
            raise Corrupt(f"archive: {_shown(name)}, or what follows it: {error}") from error
        if not reader.count:
            raise Corrupt("archive: it has no members")

    def _store(
        self, name: str, content: Iterable[bytes | memoryview], size: int
    ) -> tuple[str, int]:
        address = _address(name)
        ingest = self._blobs.ingest(address)
        if self._advance is not None and size > DOCUMENT_LIMIT:
            # Old archives name a layer's directory by an ID that means nothing any more.
            shown = _shown((address or name.partition("/")[0]).rpartition(":")[2][:12])
            content = _told(content, functools.partial(self._advance, shown), size)
        with ingest:
            try:
                return self._spool.store(ingest, content, size)
            except Corrupt as error:
                raise Corrupt(f"archive: {_shown(name)}: {error}") from error

    def _check_address(self, name: str, data: bytes) -> None:
        expected = _address(name)
        if expected is not None and digests.of(data, expected) != expected:
            raise Corrupt(
                f"archive: {name}: expected digest {expected}, found {digests.of(data, expected)}"
            )


class DirectoryBundle(Bundle):
    """An OCI image layout in a directory; members are read when they are asked for."""

    def __init__(self, directory: str, blobs: BlobStore, hold: Hold) -> None:
        super().__init__(blobs, hold)
        self._directory = directory
        if not os.path.isdir(directory):
            raise InvalidArgument(f"image layout {directory}: no such directory")

    def has(self, name: str) -> bool:
        return os.path.exists(self._path(name))

    def document(self, name: str) -> bytes:
        with self._open(name) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
        if len(data) > DOCUMENT_LIMIT:
            raise Corrupt(f"image layout {self._directory}: {name} is too large for a document")
        expected = _address(name)
        if expected is not None and digests.of(data, expected) != expected:
            raise Corrupt(
                f"image layout {self._directory}: {name}: expected digest {expected}, "
                f"found {digests.of(data, expected)}"
            )
        return data

    def blob(self, name: str, expected: str | None = None) -> tuple[str, int]:
        ingest = self._blobs.ingest(expected or _address(name))
        with self._open(name) as file, ingest:
            while data := file.read(_PIECE):
                ingest.write(data)
            try:
                return self._hold.commit(ingest)
            except Corrupt as error:
                raise Corrupt(f"image layout {self._directory}: {name}: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self._directory}/{_clean(name, 'image layout')}"

    def _open(self, name: str) -> IO[bytes]:
        try:
            return open(self._path(name), "rb", buffering=0)
        except FileNotFoundError as error:
            raise Corrupt(f"image layout {self._directory}: {name} is missing") from error
        except OSError as error:
            raise InvalidArgument(
                f"image layout {self._directory}: {name}: {error.strerror}"
            ) from error


def _clean(name: str, where: str) -> str:
    cleaned = posixpath.normpath(name)
    if cleaned.startswith(("/", "../")) or cleaned == "..":
        raise InvalidArgument(f"{where}: {_shown(name)} leads out of the archive")
    return cleaned


def _shown(name: str) -> str:
    """A name for a message, which is JSON: an archive's is any bytes."""
    return headers.printable(os.fsencode(name))


def _address(name: str) -> str | None:
    """The digest a member of an OCI layout must have, going by its name."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] == "blobs":
        address = f"{parts[1]}:{parts[2]}"
        if digests.is_digest(address):
            return address
    return None


def _is_document(name: str, head: bytes) -> bool:
    if name.startswith("blobs/"):
        return head[:1] == b"{"
    base = posixpath.basename(name)
    return name.endswith(".json") or base in ("json", "VERSION", "repositories", "oci-layout")


def _told(
    content: Iterable[bytes | memoryview], advance: Callable[[int, int], None], size: int
) -> Iterator[bytes | memoryview]:
    at = 0
    for piece in content:
        at += len(piece)
        advance(at, size)
        yield piece
