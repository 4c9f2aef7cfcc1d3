"""One blob on its way from the other registry into the storage, and whoever follows it meanwhile.

It is an upload like any other (docs/registry-server.md, "An upload"), written by a task of its own:
it goes on when the client that began it leaves. Followers read the growing file. The last byte is
kept back until the digest was right, so nobody is handed a whole blob that is wrong.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from sampan.errors import NotFound, SampanError
from sampan.oci import digest as digests
from sampan.registry.cache.answers import explained
from sampan.registry.client.download import download
from sampan.registry.server.errors import Refusal, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.registry.cache.counts import Counts
    from sampan.registry.cache.journal import Journal
    from sampan.registry.cache.upstream import Upstream
    from sampan.registry.client.errors import Transient
    from sampan.registry.server.core import Registry
    from sampan.registry.server.storage.base import Reader
    from sampan.registry.server.uploads import Turn, Upload, Uploads

__all__ = ["Fetch"]

_ATTEMPTS = 5


class _Sink:
    """An upload, as the download of a blob writes to it, on a thread."""

    def __init__(self, uploads: Uploads, turn: Turn) -> None:
        self._uploads = uploads
        self._turn = turn
        self.offset = turn.offset

    def write(self, data: bytes) -> None:
        self._turn.write(data)
        self.offset += len(data)
        if self._uploads.is_stale(self._turn.upload):
            self._uploads.touch(self._turn.upload)


class Fetch:
    """Begins at once; ``ended`` is told when it is over. ``size`` is -1 until it is known."""

    def __init__(
        self,
        registry: Registry,
        upstream: Upstream,
        name: str,
        digest: str,
        *,
        counts: Counts,
        log: Journal,
        slots: asyncio.Semaphore,
        ended: Callable[[], None],
    ) -> None:
        self.digest = digest
        self.size = -1
        self.complete = False
        self._registry = registry
        self._upstream = upstream
        self._name = name
        self._counts = counts
        self._log = log
        self._slots = slots
        self._ended = ended
        self._offset = 0
        self._error: Refusal | None = None
        self._upload: Upload | None = None
        self._news = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        problem: Refusal = Unreachable(f"blob {self.digest}: the registry is stopping")
        try:
            async with self._slots:
                with self._counts.asking():
                    await self._bring()
            self.complete = True
        except (SampanError, OSError, sqlite3.Error) as error:
            problem = explained(error, self._upstream.url)
            self._log.error(
                "a blob could not be fetched", repository=self._name, error=problem.message
            )
            await self._cancel()
        finally:
            if not self.complete:
                self._error = problem
            self._ended()
            self._wake()

    async def _bring(self) -> None:
        uploads = self._registry.uploads
        async with self._upstream.blob(self._name, self.digest) as (size, source):
            algorithm = digests.parse(self.digest)[0]
            upload = await asyncio.to_thread(uploads.begin, self._name, algorithm)
            self._upload = upload
            turn = await asyncio.to_thread(uploads.take, upload)
            self.size = size
            self._wake()
            await download([source], _Sink(uploads, turn), size, self, _ATTEMPTS)
        await asyncio.to_thread(uploads.commit, upload, self.digest)

    async def _cancel(self) -> None:
        upload = self._upload
        if upload is not None and not upload.ended:
            try:
                await asyncio.to_thread(self._registry.uploads.cancel, upload)
            except (SampanError, OSError, sqlite3.Error) as error:
                self._log.error("an upload stays until it expires", error=error)

    # -- what the download reports -----------------------------------------------------------------

    def grown(self, offset: int) -> None:
        self._counts.fetched += max(0, offset - self._offset)
        self._offset = offset
        self._wake()

    def waiting(self, seconds: float, error: Transient) -> None:
        self._log.warn(
            "a fetch is tried again", repository=self._name, error=error, seconds=seconds
        )

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # -- followers ---------------------------------------------------------------------------------

    async def begun(self) -> None:
        """Until the size is known. Raises Refusal."""
        while self.size < 0:
            if self._error is not None:
                raise self._error
            await self._news.wait()

    async def finished(self) -> None:
        """Until the blob is here. Raises Refusal."""
        while not self.complete:
            if self._error is not None:
                raise self._error
            await self._news.wait()

    async def available(self, offset: int) -> int:
        """Until there is something behind ``offset``; where that ends.

        Raises ConnectionAbortedError: there will be nothing.
        """
        while True:
            end = self.size if self.complete else min(self._offset, self.size - 1)
            if end > offset:
                return end
            if self._error is not None:
                raise ConnectionAbortedError(self._error.message)
            await self._news.wait()

    async def open(self) -> Reader:
        """The growing file, or the blob. Raises Refusal."""
        upload, storage = self._upload, self._registry.place.storage
        assert upload is not None
        try:
            return await asyncio.to_thread(storage.read_upload, upload.identifier, upload.state)
        except NotFound:
            # Its file has moved; that it is a blob is known when the rows are there, too.
            await self.finished()
            return await asyncio.to_thread(self._registry.links.open, self._name, self.digest)
