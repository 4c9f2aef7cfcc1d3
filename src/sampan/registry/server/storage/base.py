"""What a storage driver does. ``tests/registry/server/storage`` is the suite each one passes.

A driver knows uploads, by an identifier of hexadecimal digits, and blobs, by a key that it made
itself when it sealed an upload. It has no idea what refers to a blob: that is the database's.
Every method blocks; every one may be called by any thread, ``append`` of one upload by one at a
time. A full disk and its like are errors of ``sampan.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Appender", "Reader", "Storage", "Stored", "upload_of"]


class Stored(NamedTuple):
    """``name`` is an upload's identifier, or a blob's key."""

    name: str
    size: int


class Appender(Protocol):
    """An upload that is being written; ``offset`` is its length in bytes."""

    offset: int

    def append(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Stored bytes; they stay readable when they are deleted meanwhile."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``; none behind the end."""
        ...

    def fileno(self) -> int:
        """A descriptor for sendfile(2); -1 where there is none."""
        ...

    def close(self) -> None: ...


class Storage(Protocol):
    def append(self, upload: str) -> Appender:
        """Go on with an upload, or begin it."""
        ...

    def read_upload(self, upload: str) -> Reader:
        """What has come so far. Raises NotFound."""
        ...

    def seal(self, upload: str, digest: str) -> str:
        """Make a blob of an upload whose digest was verified; its key.

        Durable when it returns. Sealing again what was sealed before gives the same key. Raises
        NotFound where there is neither the upload nor its blob.
        """
        ...

    def drop(self, upload: str) -> bool:
        """Forget an upload that was not sealed; whether there was one."""
        ...

    def open(self, key: str) -> Reader:
        """Raises NotFound."""
        ...

    def delete(self, key: str) -> bool:
        """Whether there was such a blob. May be repeated."""
        ...

    def set_aside(self, key: str) -> str:
        """Take a blob out, keep its bytes for a person to look at; where they are."""
        ...

    def uploads(self) -> Iterator[Stored]:
        """Every upload that has bytes."""
        ...

    def blobs(self) -> Iterator[Stored]:
        """Every blob."""
        ...


def upload_of(key: str) -> str:
    """The upload that a key was made of: what stands behind its last dot."""
    return key.rpartition(".")[2]
