"""An image from one repository into another, as it is: nothing is unpacked, no byte is changed.

The documents (a manifest, or an index and what it lists) are fetched first, each held against its
digest. Then blobs move, a few at once: those the target has stay where they are, those of the same
registry are mounted, and the others go through a file, where they are verified before the first
byte is sent. Manifests follow from the inside out, the one that the tag stands for last: a copy
that dies half-way is invisible, and is done again; what was in the file then goes on from there.

Referrers (signatures, SBOMs: manifests whose ``subject`` is one of the image's) are found by the
API, or by the tag of its fallback, and told to the target the same way ("Referrers Tag Schema").
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from sampan.errors import Corrupt, InvalidArgument, NotFound, SampanError
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import platform as platforms
from sampan.registry.client.download import download, from_registry
from sampan.registry.client.referrers import add_referrer, referrers
from sampan.registry.client.retries import retry
from sampan.registry.client.upload import mount, upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sampan.registry.client.errors import Transient
    from sampan.registry.client.repository import Repository
    from sampan.registry.types import Document
    from sampan.storage.blobs import BlobStore

__all__ = ["Copy", "Listener"]

T = TypeVar("T")

_DEPTH = 8
_DOCUMENTS = 2000
_AT_ONCE = 3
_FOREIGN = ("nondistributable", "rootfs.foreign")


class Listener(Protocol):
    """Who wants to know how it goes with each blob, by its digest."""

    def state(self, digest: str, words: str) -> None: ...

    def moved(self, digest: str, words: str, offset: int, size: int) -> None: ...


class _Descriptor(msgspec.Struct):
    """As much as a copy needs; more than images have layers."""

    digest: str = ""
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")
    urls: list[str] | None = None
    platform: dict[str, object] | None = None


class _Document(msgspec.Struct):
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    subject: _Descriptor | None = None


class _Node(NamedTuple):
    document: Document
    inside: _Document


class Copy:
    """One copy. ``same``: both repositories are of one registry."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        *,
        same: bool,
        spool: BlobStore,
        listener: Listener,
        attempts: int,
    ) -> None:
        self._source = source
        self._target = target
        self._same = same
        self._spool = spool
        self._listener = listener
        self._attempts = attempts
        self._nodes: dict[str, _Node] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(
        self, reference: str, name: str, *, platform: str = "", with_referrers: bool = False
    ) -> Document:
        """Copy what ``reference`` (a tag or a digest) stands for, to be called ``name``; what that
        was. ``platform`` takes one image out of an index.

        Raises NotFound, Corrupt, SampanError.
        """
        root = await retry(lambda: self._fetch(reference), self._attempts, first=True)
        digest = root.document.digest
        await retry(lambda: self._target.has_blob(digest), self._attempts, first=True)
        if platform:
            root = await self._of_platform(root, platform)
        await self._gather(root, 0)
        image = list(self._nodes)
        if with_referrers:
            for digest in image:
                await self._gather_referrers(digest, 0)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in self._blobs():
                    group.create_task(self._move(blob))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        # Whatever is named was put before what names it: dictionaries keep the order.
        for digest in image:
            if digest != root.document.digest:
                await self._put(digest, self._nodes[digest])
        await self._put(name, root)
        for digest, node in self._nodes.items():
            if digest not in image:
                await self._refer(digest, node)
        return root.document

    # -- documents ---------------------------------------------------------------------------------

    async def _tried(self, work: Callable[[], Awaitable[T]]) -> T:
        return await retry(work, self._attempts)

    async def _fetch(self, reference: str) -> _Node:
        document = await self._source.manifest(reference)
        try:
            inside = msgspec.json.decode(document.data, type=_Document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Corrupt(f"manifest {document.digest}: {error}") from error
        return _Node(document, inside)

    async def _listed(self, digest: str) -> _Node:
        return await self._tried(lambda: self._fetch(digest))

    async def _gather(self, node: _Node, depth: int) -> None:
        """The documents that this one lists, and then it."""
        if node.document.digest in self._nodes:
            return
        if depth > _DEPTH or len(self._nodes) >= _DOCUMENTS:
            raise SampanError(
                f"{self._source.name}: an index of more than {_DOCUMENTS} manifests, or more than "
                f"{_DEPTH} deep: refused"
            )
        for child in node.inside.manifests or ():
            await self._gather(await self._listed(_checked(child, node)), depth + 1)
        self._nodes[node.document.digest] = node

    async def _of_platform(self, root: _Node, wanted: str) -> _Node:
        if not oci.is_index(root.document.media_type):
            raise InvalidArgument(f"--platform {wanted}: this is one image, not an index")
        platform = platforms.parse(wanted)
        for child in root.inside.manifests or ():
            said = child.platform or {}
            offered = platforms.Platform(
                os=str(said.get("os", "")),
                architecture=str(said.get("architecture", "")),
                variant=str(said["variant"]) if said.get("variant") else None,
            )
            if platforms.matches(platform, offered):
                return await self._listed(_checked(child, root))
        raise NotFound(f"{self._source.name}: the index has no image for {platform}")

    async def _gather_referrers(self, digest: str, depth: int) -> None:
        for found in await self._tried(lambda: referrers(self._source, digest)):
            if found in self._nodes:
                continue
            await self._gather(await self._listed(found), depth + 1)
            await self._gather_referrers(found, depth + 1)

    async def _put(self, reference: str, node: _Node) -> bool:
        return await self._tried(lambda: self._target.put_manifest(reference, node.document))

    async def _refer(self, digest: str, node: _Node) -> None:
        """Put a referrer; a registry without the API is told by a tag."""
        known = await self._put(digest, node)
        if node.inside.subject is not None and not known:
            await self._tried(lambda: add_referrer(self._target, node.document))

    # -- blobs -------------------------------------------------------------------------------------

    def _blobs(self) -> Iterator[_Descriptor]:
        """Each once. Layers that are not to be distributed stay where their ``urls`` say."""
        seen: dict[str, int] = {}
        for node in self._nodes.values():
            inside = node.inside
            config = [inside.config] if inside.config is not None else []
            for one in (*config, *(inside.layers or ()), *(inside.blobs or ())):
                _checked(one, node)
                if one.urls and any(word in one.media_type for word in _FOREIGN):
                    continue
                if one.size < 0 or seen.get(one.digest, one.size) != one.size:
                    raise Corrupt(
                        f"manifest {node.document.digest}: {one.digest}: not of {one.size} bytes"
                    )
                if one.digest not in seen:
                    seen[one.digest] = one.size
                    yield one

    async def _move(self, blob: _Descriptor) -> None:
        async with self._slots:
            say = self._listener.state
            if await self._tried(lambda: self._target.has_blob(blob.digest)):
                say(blob.digest, "Layer already exists")
                return
            if self._same:
                origins = [self._source.name]
                origin, begun = await self._tried(lambda: mount(self._target, blob.digest, origins))
                if origin:
                    say(blob.digest, f"Mounted from {origin}")
                    return
            else:
                begun = None
            fd = await self._verified(blob)
            try:
                await upload(
                    self._target,
                    blob.digest,
                    fd,
                    blob.size,
                    listener=_Told(self._listener, blob, "Pushing"),
                    attempts=self._attempts,
                    begun=begun,
                )
            finally:
                os.close(fd)
            self._spool.delete(blob.digest)
            say(blob.digest, "Copied")

    async def _verified(self, blob: _Descriptor) -> int:
        """The blob's file. Another copy may be done with it, and remove it, at any moment."""
        while True:
            try:
                return self._spool.open(blob.digest)
            except NotFound:
                await self._download(blob)

    async def _download(self, blob: _Descriptor) -> None:
        """Into the spool, verified there; what an earlier copy left is gone on with."""
        ingest = await asyncio.to_thread(self._spool.ingest, blob.digest, blob.size, resume=True)
        with ingest:
            told = _Told(self._listener, blob, "Pulling")
            sources = [from_registry(self._source, blob.digest)]
            await download(sources, ingest, blob.size, told, self._attempts)
            await asyncio.to_thread(ingest.commit)


class _Told:
    """What ``download`` and ``upload`` tell, with the blob's name."""

    def __init__(self, listener: Listener, blob: _Descriptor, words: str) -> None:
        self._listener = listener
        self._blob = blob
        self._words = words

    def grown(self, offset: int) -> None:
        self._listener.moved(self._blob.digest, self._words, offset, self._blob.size)

    def waiting(self, seconds: float, error: Transient) -> None:
        self._listener.state(
            self._blob.digest, f"Retrying in {seconds:.0f} seconds: {error.message}"
        )


def _checked(one: _Descriptor, node: _Node) -> str:
    if not digests.is_digest(one.digest):
        raise Corrupt(f"manifest {node.document.digest}: {one.digest[:200]!r} is not a digest")
    return one.digest
