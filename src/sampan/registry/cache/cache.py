"""A cache of another registry: whoever asks for a manifest or a blob finds it here, because it was
here, or because it has just been fetched (docs/registry-cache.md).

Everything runs on the event loop; what blocks is done on threads. Whatever several clients want at
the same moment is asked for once: they wait for one task, which goes on without them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from sampan.errors import PermissionDenied, SampanError, Unauthenticated
from sampan.oci import digest as digests
from sampan.registry.cache.answers import explained, is_silent
from sampan.registry.cache.counts import HIT, MISS, OLD, SAME, Counts
from sampan.registry.cache.eviction import note_use
from sampan.registry.cache.fetch import Fetch
from sampan.registry.cache.upstream import Upstream
from sampan.registry.client.errors import Missing, Transient
from sampan.registry.server import listing
from sampan.registry.server.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    NameUnknown,
    Refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sampan.registry.cache.journal import Journal
    from sampan.registry.cache.settings import Settings
    from sampan.registry.server.core import Registry
    from sampan.registry.server.links import Blob
    from sampan.registry.types import Credentials

__all__ = ["Cache"]

T = TypeVar("T")

_RETRY_SECONDS = 10.0
_LONGEST_RETRY = 300.0
_RENEW_SECONDS = 60.0
_TAGS = 100_000
_FETCHES = 32
_SMALL = 1 << 20
"""Bytes of a blob that is answered when it is here, so that one that is wrong has a status."""

_FIND = """SELECT m.id, d.digest, m.touched FROM repositories r"""
_BY_TAG = f"""{_FIND} JOIN tags t ON t.repository = r.id JOIN manifests m ON m.id = t.manifest
    JOIN documents d ON d.id = m.document WHERE r.name = ? AND t.name = ?"""
_BY_DIGEST = f"""{_FIND} JOIN documents d ON d.digest = ?2
    JOIN manifests m ON m.repository = r.id AND m.document = d.id WHERE r.name = ?1"""


class _Known(NamedTuple):
    """A manifest that is here."""

    identifier: int
    digest: str
    touched: float


class _Checked(NamedTuple):
    """A tag was asked for; until when (the loop's time) that need not be done again."""

    until: float
    stale: bool


class Cache:
    """Of one other registry."""

    def __init__(self, registry: Registry, settings: Settings, log: Journal) -> None:
        self._registry = registry
        self._log = log
        self._settings = settings
        self.upstream = Upstream(settings)
        self.counts = Counts()
        self.home = settings.home
        self._tags: dict[tuple[str, str], _Checked] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[object]] = {}
        self._fetches: dict[tuple[str, str], Fetch] = {}
        self._slots = asyncio.Semaphore(_FETCHES)
        self._silent_until = 0.0
        self._answers = True

    def renew(self, credentials: Credentials) -> None:
        """Other ones, from the next request on."""
        before = self.upstream
        self.upstream = Upstream(msgspec.structs.replace(self._settings, credentials=credentials))
        before.close()

    # -- manifests ---------------------------------------------------------------------------------

    async def manifest(self, name: str, reference: str) -> str:
        """See that it is here; how that came (``counts``). Raises Refusal."""
        return self.counts.asked("manifest", await self._manifest(name, reference))

    async def _manifest(self, name: str, reference: str) -> str:
        known = self._known(name, reference)
        if digests.is_digest(reference):
            if known is None:
                return await self._once((name, reference), lambda: self._bring(name, reference, ()))
            await self._use(known)
            return HIT
        checked = self._tags.get((name, reference))
        if known is not None and checked is not None and self._time() < checked.until:
            await self._use(known)
            return OLD if checked.stale else HIT
        return await self._once((name, reference), lambda: self._revalidate(name, reference))

    def _known(self, name: str, reference: str) -> _Known | None:
        query = _BY_DIGEST if digests.is_digest(reference) else _BY_TAG
        row = self._registry.place.database.row(query, (name, reference))
        return _Known(*row) if row is not None else None

    async def _revalidate(self, name: str, tag: str) -> str:
        known = self._known(name, tag)
        if known is not None and self._time() < self._silent_until:
            self._note_tag(name, tag, self._silent_until, stale=True)
            return OLD
        came = SAME
        try:
            if known is not None and await self._digest_of(name, tag) == known.digest:
                await self._use(known)
            else:
                came = await self._bring(name, tag, (tag,))
        except Missing as error:
            if known is not None:
                await self._untag(name, tag)
            raise ManifestUnknown(str(error), {"name": tag}) from error
        except Denied as error:  # by our own policy: a tag that never moves, a quota
            if known is None:
                raise
            self._log.error("a tag stays as it was", repository=name, tag=tag, error=error.message)
        except SampanError as error:
            return self._stale(name, tag, known, error)
        self._answered()
        self._note_tag(name, tag, self._time() + self._settings.expiry, stale=False)
        return came

    async def _digest_of(self, name: str, tag: str) -> str | None:
        with self.counts.asking():
            return await self.upstream.digest_of(name, tag)

    def _stale(self, name: str, tag: str, known: _Known | None, error: SampanError) -> str:
        """The other registry is down, or busy: what we have, for a while. Raises Refusal."""
        if known is None or isinstance(error, (Unauthenticated, PermissionDenied)):
            raise explained(error, self.upstream.url) from error
        after = _RETRY_SECONDS
        if isinstance(error, Transient) and error.after is not None:
            after = min(max(error.after, after), _LONGEST_RETRY)
        until = self._time() + after
        if is_silent(error):
            self._silent_until = until
        if self._answers:
            self._answers = False
            self._log.warn(
                "serving what is here, which may be old", tag=f"{name}:{tag}", error=error
            )
        self._note_tag(name, tag, until, stale=True)
        return OLD

    async def _bring(self, name: str, reference: str, tags: tuple[str, ...]) -> str:
        """Fetch a manifest and keep it. Of what it names nothing need be here."""
        try:
            with self.counts.asking():
                document = await self.upstream.manifest(name, reference)
            self.counts.fetched += len(document.data)
        except SampanError as error:
            if tags:
                raise
            refused = explained(error, self.upstream.url)
            if isinstance(refused, NameUnknown):
                raise ManifestUnknown(str(error), {"name": reference}) from error
            raise refused from error
        try:
            await asyncio.to_thread(
                self._registry.manifests.put,
                name,
                document.media_type,
                document.data,
                digest=document.digest,
                tags=tags,
                hold=False,
            )
        except Refusal as error:
            raise explained(error, self.upstream.url) from error
        return MISS

    async def _untag(self, name: str, tag: str) -> None:
        try:
            await asyncio.to_thread(self._registry.manifests.untag, name, tag)
        except (ManifestUnknown, Denied):
            pass  # it is gone, or never goes

    async def _use(self, known: _Known) -> None:
        now = self._registry.place.clock.now()
        if now - known.touched > _RENEW_SECONDS:
            await asyncio.to_thread(note_use, self._registry.place, known.identifier, now)

    def _note_tag(self, name: str, tag: str, until: float, *, stale: bool) -> None:
        self._tags.pop((name, tag), None)
        self._tags[name, tag] = _Checked(until, stale)
        if len(self._tags) > _TAGS:
            del self._tags[next(iter(self._tags))]

    def _answered(self) -> None:
        if not self._answers:
            self._answers = True
            self._log.info("the other registry answers again", upstream=self.upstream.url)
        self._silent_until = 0.0

    # -- blobs -------------------------------------------------------------------------------------

    async def blob(self, name: str, digest: str) -> Fetch | None:
        """See that it is here; a fetch to follow where it is on its way. Raises Refusal."""
        here = self._here(name, digest)
        if here is not None:
            await self._renew(here)
            self.counts.asked("blob", HIT)
            return None
        fetch = await self._once((name, digest), lambda: self._begin(name, digest))
        self.counts.asked("blob", HIT if fetch is None else MISS)
        if fetch is None or fetch.size > _SMALL:
            return fetch
        await fetch.finished()
        return None

    async def blob_size(self, name: str, digest: str) -> int:
        """Without fetching it. Raises Refusal."""
        here = self._here(name, digest)
        if here is not None:
            await self._renew(here)
            return here.size
        return await self._blob_size(name, digest)

    def _here(self, name: str, digest: str) -> Blob | None:
        try:
            return self._registry.links.find(name, digest)
        except BlobUnknown:
            return None

    async def _renew(self, blob: Blob) -> None:
        """It was used: the lease is how long it is kept from now on."""
        place = self._registry.place
        if blob.leased < place.clock.now() + place.lease - _RENEW_SECONDS:
            await asyncio.to_thread(self._registry.links.renew, blob)

    async def _begin(self, name: str, digest: str) -> Fetch | None:
        links = self._registry.links
        if self._here(name, digest) is not None:
            return None
        fetch = self._fetches.get((name, digest))
        if fetch is None and links.has_blob(digest):
            # Another repository's. That this one has it, too, is for its own home to say.
            await self._blob_size(name, digest)
            if await asyncio.to_thread(links.mount, name, digest, None):
                return None
        if fetch is None:
            key = (name, digest)
            fetch = self._fetches[key] = Fetch(
                self._registry,
                self.upstream,
                name,
                digest,
                counts=self.counts,
                log=self._log,
                slots=self._slots,
                ended=lambda: self._ended(key),
            )
        await fetch.begun()
        return fetch

    def _ended(self, key: tuple[str, str]) -> None:
        self._fetches.pop(key, None)

    async def _blob_size(self, name: str, digest: str) -> int:
        try:
            with self.counts.asking():
                return await self.upstream.blob_size(name, digest)
        except SampanError as error:
            raise _of_blob(explained(error, self.upstream.url), digest) from error

    # -- lists -------------------------------------------------------------------------------------

    async def tags(self, name: str, limit: int, last: str) -> tuple[listing.Names, bool]:
        """Those of the other registry; ours, which may be old, where that is down."""
        try:
            with self.counts.asking():
                found = await self.upstream.tags(name, limit, last)
        except SampanError as error:
            refused = explained(error, self.upstream.url)
            if not isinstance(error, Transient):
                raise refused from error
            try:
                return listing.tags(self._registry.place, name, limit, last), True
            except NameUnknown:
                raise refused from error
        return listing.Names(found.names, found.more), False

    async def referrers(self, name: str, digest: str, kind: str) -> bytes:
        """The other registry's answer. Raises Refusal: NameUnknown where it has no such API."""
        try:
            with self.counts.asking():
                return await self.upstream.referrers(name, digest, kind)
        except SampanError as error:
            raise explained(error, self.upstream.url) from error

    # -- tasks -------------------------------------------------------------------------------------

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def _once(
        self, key: tuple[str, str], work: Callable[[], Coroutine[object, object, T]]
    ) -> T:
        """For everybody who wants the same at this moment."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(lambda task: self._asked(key, task))
        waiting: Awaitable[object] = asyncio.shield(task)
        return await waiting  # type: ignore[return-value]  # one key, one kind of work

    def _asked(self, key: tuple[str, str], task: asyncio.Task[object]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did any more, nobody wants it

    async def close(self) -> None:
        """What is under way ends, and is gone."""
        tasks = [*self._asking.values(), *(fetch.task for fetch in self._fetches.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.upstream.close()


def _of_blob(error: Refusal, digest: str) -> Refusal:
    if isinstance(error, NameUnknown):
        return BlobUnknown(error.message, {"digest": digest})
    return error
