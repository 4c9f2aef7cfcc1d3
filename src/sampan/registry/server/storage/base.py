"""What a storage driver does. ``tests/registry/server/storage`` is the suite each one passes.

A driver knows uploads, by an identifier of hexadecimal digits, and blobs, by a key that it made
itself of an upload. It has no idea what refers to a blob: that is the database's. What it has to
remember of an upload it says in a ``state``, a text that the caller keeps and hands back; who keeps
it sees to it that one appender at a time is listened to. Empty: nothing has come.

Every method blocks; every one may be called by any thread, those of one upload by one at a time. A
full disk and its like are errors of ``sampan.errors``; ``Unreachable`` where what has come is safe
and the next attempt may succeed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Appender", "Finished", "Reader", "Storage", "Stored"]


class Stored(NamedTuple):
    """``name`` is an upload's identifier, or a blob's key."""

    name: str
    size: int


class Finished(NamedTuple):
    """``known``: the upload's bytes are those that were appended up to the state that was handed
    in. Otherwise somebody else may have finished it: only reading them tells.
    """

    state: str
    known: bool


class Appender(Protocol):
    """An upload that is being written; ``offset`` is its length in bytes.

    ``state`` is what has to be kept of it now: ``append`` may change it, ``settle``, and ``close``.
    """

    offset: int
    state: str

    def append(self, data: bytes) -> None: ...

    def settle(self) -> None:
        """Take note of what was stored meanwhile. What failed is for ``append`` and ``close``."""
        ...

    def close(self) -> None:
        """All that was appended stays. Without it, what came since ``state`` changed may not."""
        ...

    def finish(self) -> None:
        """``close``, where no more bytes will come."""
        ...

    def abandon(self) -> None:
        """``close``, where nothing of it is wanted any more."""
        ...


class Reader(Protocol):
    """Stored bytes. What is deleted meanwhile stays readable, or is NotFound: never other bytes."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``; none behind the end."""
        ...

    def fileno(self) -> int:
        """A descriptor for sendfile(2); -1 where there is none."""
        ...

    def close(self) -> None: ...


class Storage(Protocol):
    stateful: bool
    """States have to be kept."""

    # -- uploads -----------------------------------------------------------------------------------

    def append(self, upload: str, state: str, tell: Callable[[], None] | None = None) -> Appender:
        """Go on with an upload, or begin it. Raises NotFound where its bytes are gone.

        ``tell`` is called, by any thread, when ``settle`` would change the state.
        """
        ...

    def size(self, upload: str, state: str) -> int:
        """Bytes that have come so far."""
        ...

    def finish(self, upload: str, digest: str, state: str) -> Finished:
        """No more bytes come; ``digest`` is what they are said to be. May be repeated.

        Raises NotFound where its bytes are gone.
        """
        ...

    def read_upload(self, upload: str, state: str) -> Reader:
        """What has come, of an upload that is finished. Raises NotFound."""
        ...

    def seal(self, upload: str, digest: str, state: str) -> str:
        """Make a blob of a finished upload whose digest was verified; its key.

        Durable when it returns. Sealing again what was sealed before gives the same key. Raises
        NotFound where there is neither the upload nor its blob.
        """
        ...

    def drop(self, upload: str, state: str) -> bool:
        """Forget an upload that was not sealed; whether there was one."""
        ...

    def replaced(self, before: str, after: str) -> None:
        """``after`` is kept now: what only ``before`` needed may go."""
        ...

    # -- blobs -------------------------------------------------------------------------------------

    def open(self, key: str) -> Reader:
        """Raises NotFound."""
        ...

    def url(self, key: str, seconds: float) -> str | None:
        """Where clients may fetch it themselves for so long; None where they cannot."""
        ...

    def delete(self, key: str) -> bool:
        """Whether there was such a blob. May be repeated."""
        ...

    def set_aside(self, key: str) -> str:
        """Take a blob out, keep its bytes for a person to look at; where they are."""
        ...

    # -- all of them -------------------------------------------------------------------------------

    def uploads(self) -> Iterator[Stored]:
        """Every upload that has bytes, as far as these are not listed as ``blobs``."""
        ...

    def blobs(self) -> Iterator[Stored]:
        """Every blob, and everything that could become one."""
        ...

    def upload_of(self, key: str) -> str:
        """The upload that a key was made of."""
        ...

    def check(self) -> None:
        """Raises Unreachable where it does not answer."""
        ...

    def close(self) -> None: ...
