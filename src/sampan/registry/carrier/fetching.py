"""Blobs into the store: each digest once, however many requests want it.

A second request for a blob that is on its way listens to the first one's download. The download
ends when the last who wanted it is gone; what has come stays for the next.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sampan.registry.carrier import messages
from sampan.registry.client.download import download, foreign, from_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.errors import SampanError
    from sampan.registry.carrier.messages import Event
    from sampan.registry.carrier.slots import Slots
    from sampan.registry.client.download import Source
    from sampan.registry.client.hosts import Hosts
    from sampan.registry.client.http import Pool
    from sampan.registry.client.repository import Repository
    from sampan.storage.blobs import BlobStore

__all__ = ["Fetching"]

_TELL_SECONDS = 0.05


class _Fetch:
    """One download, and who listens: requests by number."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self.listeners: set[int] = set()
        self.task: asyncio.Task[None] | None = None
        self._began: tuple[str, int] | None = None
        self._told = 0.0

    def join(self, number: int) -> None:
        self.listeners.add(number)
        if self._began is not None:
            path, offset = self._began
            self._tell(messages.Began(number=number, path=path, offset=offset))

    def began(self, path: str, offset: int) -> None:
        self._began = path, offset
        for number in self.listeners:
            self._tell(messages.Began(number=number, path=path, offset=offset))

    # download.Listener

    def grown(self, offset: int) -> None:
        assert self._began is not None
        self._began = self._began[0], offset
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            for number in self.listeners:
                self._tell(messages.Grown(number=number, offset=offset))

    def waiting(self, seconds: float, error: SampanError) -> None:
        for number in self.listeners:
            self._tell(messages.Waiting(number=number, seconds=seconds, reason=error.message))


class Fetching:
    """See the module's text."""

    def __init__(self, blobs: BlobStore, slots: Slots) -> None:
        self._blobs = blobs
        self._slots = slots
        self._under_way: dict[str, _Fetch] = {}

    async def fetch(
        self,
        request: messages.Fetch,
        repositories: Sequence[Repository],
        pool: Pool,
        hosts: Hosts,
        tell: Callable[[Event], None],
    ) -> Event:
        """Have the blob in the store. Raises what ``download`` raises."""
        fetch = self._under_way.get(request.digest)
        if fetch is None:
            sources = [from_registry(one, request.digest) for one in repositories]
            sources += [
                source for url in request.urls if (source := foreign(pool, hosts, url)) is not None
            ]
            fetch = _Fetch(tell)
            fetch.task = asyncio.create_task(self._download(fetch, request, sources))
            self._under_way[request.digest] = fetch
        fetch.join(request.number)
        assert fetch.task is not None
        try:
            await asyncio.shield(fetch.task)
        finally:
            fetch.listeners.discard(request.number)
            if not fetch.listeners and not fetch.task.done():
                fetch.task.cancel()
                await asyncio.wait((fetch.task,))
        return messages.Fetched(number=request.number)

    async def _download(
        self, fetch: _Fetch, request: messages.Fetch, sources: Sequence[Source]
    ) -> None:
        policy = request.where.policy
        try:
            async with self._slots.one(policy.downloads):
                if await asyncio.to_thread(self._blobs.has, request.digest):
                    return
                # What is there of it already is hashed again: a thread's work.
                ingest = await asyncio.to_thread(
                    self._blobs.ingest, request.digest, request.size, resume=True
                )
                with ingest:
                    fetch.began(ingest.path, ingest.offset)
                    await download(sources, ingest, request.size, fetch, policy.attempts)
                    await asyncio.to_thread(ingest.commit)
        finally:
            if self._under_way.get(request.digest) is fetch:
                del self._under_way[request.digest]
