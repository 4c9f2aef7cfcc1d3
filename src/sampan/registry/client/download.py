"""A blob from a registry into the blob store: streamed, verified, continued where it broke off.

Bytes go into the ingest's file as they come, hashed and written by a thread while the next are
received. A connection that breaks costs an attempt, not the bytes: the next request asks for the
rest (``Range``, RFC 9110, 14.2). A registry that answers such a request with the whole blob is
taken at its word, and what we have is skipped. The file only ever grows, so whoever follows it (the
unpacker) never sees a byte change.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Protocol

from sampan.errors import Corrupt, InvalidArgument, NotFound, SampanError
from sampan.registry.client.errors import Transient, refusal
from sampan.registry.client.redirects import follow
from sampan.registry.client.retries import Budget
from sampan.registry.client.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sampan.registry.client.hosts import Hosts
    from sampan.registry.client.http import Pool, Response
    from sampan.registry.client.repository import Repository

    Source = Callable[[dict[str, str]], AbstractAsyncContextManager[Response]]

__all__ = ["Ingest", "Listener", "Source", "download", "foreign", "from_registry"]

_AHEAD = 2 << 20
_range = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)").fullmatch


class Ingest(Protocol):
    """Where the bytes go (``sampan.storage.blobs``); written to by one thread at a time."""

    @property
    def offset(self) -> int:
        """Bytes that are there."""

    def write(self, data: bytes) -> None: ...


class Listener(Protocol):
    """Who wants to know how it goes."""

    def grown(self, offset: int) -> None:
        """So many bytes are in the file."""

    def waiting(self, seconds: float, error: Transient) -> None:
        """An attempt failed, and the next begins in so many seconds."""


def from_registry(repository: Repository, digest: str) -> Source:
    """Requests of a repository's blob, with more fields."""
    path = repository.path(f"blobs/{digest}")
    return lambda fields: repository.session.request("GET", path, fields, scopes=repository.pull)


def foreign(pool: Pool, hosts: Hosts, address: str) -> Source | None:
    """The same from one of a descriptor's ``urls``, with no credentials; None if it is none."""
    try:
        url = parse_url(address)
    except InvalidArgument:
        return None

    def request(fields: dict[str, str]) -> AbstractAsyncContextManager[Response]:
        return follow(pool, hosts, "GET", url, fields, verify=True)

    return request


async def download(
    sources: Sequence[Source],
    ingest: Ingest,
    size: int,
    listener: Listener,
    attempts: int,
) -> None:
    """Bring ``ingest`` to ``size`` bytes; committing is the caller's.

    ``sources`` are tried in order: another one when a source has no such blob, or is no use. The
    bytes that came stay in the ingest, whichever source they are of: the digest decides.
    Raises NotFound, Corrupt (too long, another length), SampanError.
    """
    problem: SampanError | None = None
    for source in sources:
        budget = Budget(attempts, listener.waiting)
        try:
            while ingest.offset < size:
                before = ingest.offset
                try:
                    await _attempt(source, ingest, size, listener)
                except Transient as error:
                    await budget.spend(error, ingest.offset - before)
            return
        except Corrupt:
            raise
        except SampanError as error:
            # What the blob's own home says matters more than what a stand-in said.
            if problem is None or not isinstance(error, NotFound):
                problem = error
    raise problem or NotFound("the blob has no address it could be had from")


async def _attempt(source: Source, ingest: Ingest, size: int, listener: Listener) -> None:
    """One request; returns when the blob is complete. Raises Transient when it is not yet."""
    start = ingest.offset
    fields = {"Range": f"bytes={start}-"} if start else {}
    async with source(fields) as response:
        skip = _position(response, start, size)
        if skip is None:
            raise await refusal(response, response.url.shown)
        await _store(_skipping(response.pieces(), skip), ingest, listener)
        if ingest.offset < size:
            raise Transient(
                f"{response.url.shown}: the blob was cut short: {ingest.offset} bytes of {size}"
            )


def _position(response: Response, start: int, size: int) -> int | None:
    """Bytes to skip of the answer's body; None where it is no answer to the request."""
    where = response.url.shown
    if response.status == 200:
        if response.length is not None and response.length != size:
            raise Corrupt(f"{where}: the blob has {response.length} bytes, announced were {size}")
        return start
    if response.status == 206 and start:
        found = _range(response.head.fields.get("content-range", ""))
        if found is None or int(found[1]) != start:
            raise Transient(f"{where}: bytes from {start} were asked for, others came")
        if found[3] not in ("*", str(size)):
            raise Corrupt(f"{where}: the blob has {found[3]} bytes, announced were {size}")
        return 0
    if response.status == 416:
        raise Corrupt(f"{where}: the blob is shorter than the {size} bytes announced")
    return None


async def _skipping(pieces: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if count >= len(piece):
            count -= len(piece)
            continue
        yield piece[count:] if count else piece
        count = 0


async def _store(pieces: AsyncIterator[bytes], ingest: Ingest, listener: Listener) -> None:
    """Write what comes; when this returns or raises, it is in the file."""
    writer = _Writer(ingest, listener)
    try:
        async for piece in pieces:
            await writer.add(piece)
    except (SampanError, asyncio.CancelledError):
        # What came before a connection broke is worth keeping; a file that failed is closed.
        await writer.finish()
        raise
    await writer.finish()


class _Writer:
    """A thread hashes and writes what has come while the next comes: as much at once as there is.

    So bytes reach the file (and who follows it) as soon as the disk allows, in small pieces from a
    slow registry and in large ones from a fast one.
    """

    def __init__(self, ingest: Ingest, listener: Listener) -> None:
        self._ingest = ingest
        self._listener = listener
        self._batch: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._batch:
                    batch, self._batch, self._size = self._batch, [], 0
                    self._room.set()
                    await loop.run_in_executor(None, _write, self._ingest, batch)
                    self._listener.grown(self._ingest.offset)
                if self._ended:
                    return
        finally:
            self._room.set()

    async def add(self, piece: bytes) -> None:
        """Take a piece; waits while too much of it is not written. Raises what writing raised."""
        self._batch.append(piece)
        self._size += len(piece)
        self._news.set()
        while self._size > _AHEAD and not self._task.done():
            self._room.clear()
            await self._room.wait()
        if self._task.done():
            self._task.result()

    async def finish(self) -> None:
        """Until everything is in the file. Raises what writing raised."""
        self._ended = True
        self._news.set()
        cancelled = False
        while not self._task.done():
            try:
                await asyncio.wait((self._task,))
            except asyncio.CancelledError:
                cancelled = True  # nobody leaves while the thread is in the file
        self._task.result()
        if cancelled:
            raise asyncio.CancelledError


def _write(ingest: Ingest, batch: list[bytes]) -> None:
    for piece in batch:
        ingest.write(piece)
