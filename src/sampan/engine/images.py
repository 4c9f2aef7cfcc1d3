"""Images for the daemon's doors: the image store's work, on threads.

Archives are taken apart and made on threads of their own, while the event loop moves bytes at the
client's pace (``handover``). Resolving a name is on the path of every create, so its
answer is kept until any image changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from sampan.engine.container import rfc3339
from sampan.engine.handover import Inlet, Outlet
from sampan.engine.threads import in_thread
from sampan.errors import Conflict, NotFound
from sampan.image.removing import User
from sampan.kernel.footprint import give_back
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence

    from sampan.engine.core import Engine
    from sampan.image.bundle import Advance
    from sampan.image.members import Members
    from sampan.image.pruning import Pruned
    from sampan.image.store import ImageStore
    from sampan.image.types import Image, Loaded, Removal
    from sampan.oci.platform import Platform

__all__ = ["Images"]

T = TypeVar("T")


class Images:
    """Asynchronous face of the image store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, Image] = {}
        # How often that was forgotten: what was looked up before is not to be kept after.
        self._changes = 0
        self._pruning = False

    @property
    def _store(self) -> ImageStore:
        return self._engine.image_store

    async def _change(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        finally:
            self.changed()
            # Archives take megabytes of buffers, and the daemon stays for months.
            give_back()

    def changed(self) -> None:
        """Names may stand for other images now."""
        self._known.clear()
        self._changes += 1

    async def resolve(self, name: str) -> Image:
        """Raises NotFound, InvalidArgument."""
        image, changes = self._known.get(name), self._changes
        if image is None:
            image = await asyncio.to_thread(self._store.resolve, name)
        elif image.system:
            # The host image follows the machine's /etc; to look costs microseconds.
            image = self._store.resolve(name)
        if changes == self._changes:
            self._known[name] = image
        return image

    async def find(self, name: str) -> Image | None:
        """As ``resolve``, None when there is none."""
        try:
            return await self.resolve(name)
        except NotFound:
            return None

    async def select(
        self, filters: Mapping[str, Sequence[str]], *, steps: bool = True
    ) -> list[Image]:
        """Images by filters; without ``steps`` not those that only others are built on."""
        found = await asyncio.to_thread(self._store.list, filters)
        if not steps:
            parents = {image.parent for image in found if image.parent}
            found = [image for image in found if image.references or image.id not in parents]
        return found

    async def shared_sizes(self) -> dict[str, int]:
        """For each image the bytes of its layers that another image has too."""
        return await asyncio.to_thread(self._store.shared_sizes)

    async def members(self, images: Iterable[Image]) -> dict[str, Members]:
        """The platforms of each image that came with a manifest, by its ID."""
        from sampan.image.members import members_of

        def work() -> dict[str, Members]:
            known = {image.id: members_of(self._store.records, image) for image in images}
            return {key: value for key, value in known.items() if value is not None}

        return await asyncio.to_thread(work)

    async def load(
        self,
        chunks: AsyncIterator[bytes],
        platform: Platform | None = None,
        advance: Advance | None = None,
    ) -> list[Loaded]:
        """Take in a docker save archive or an OCI layout; ``advance`` hears how far layers are.

        Raises Corrupt, InvalidArgument, NotFound (no image for the platform).
        """
        loaded = await self._change_from(
            chunks, lambda inlet: self._store.load(inlet, platform, advance)
        )
        for image in loaded:
            await self.tell("load", image.id)
        return loaded

    async def import_archive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        reference: str | None,
        changes: Sequence[str],
        message: str,
        platform: str | None,
    ) -> str:
        """Make an image of a root file system's tar; its ID. Raises Corrupt, InvalidArgument."""

        def work(inlet: Inlet) -> str:
            return self._store.import_archive(inlet, reference, changes, message, platform)

        image_id = await self._change_from(chunks, work)
        if reference:
            await self.tell("tag", image_id, references.parse(reference).familiar)
        await self.tell("import", image_id)
        return image_id

    async def _change_from(self, chunks: AsyncIterator[bytes], work: Callable[[Inlet], T]) -> T:
        """Run ``work``, which reads what ``chunks`` bring."""
        inlet = Inlet()

        def read() -> T:
            try:
                return work(inlet)
            finally:
                inlet.close()

        task = asyncio.ensure_future(in_thread(read, "archive"))
        try:
            await inlet.fill(chunks)
        except BaseException:
            # The archive is cut short for whoever reads it: it ends with an error, and is undone.
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self.changed()
        try:
            return await task
        finally:
            self.changed()
            give_back()

    async def save(
        self, names: Sequence[str], platform: Platform | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The archive's bytes. An error before the first of them is raised before it."""
        outlet = Outlet()

        def write() -> None:
            try:
                self._store.save(names, outlet, platform)
            finally:
                outlet.end()

        task = asyncio.ensure_future(in_thread(write, "save"))
        try:
            async for chunk in outlet.chunks():
                yield chunk
        except BaseException:
            outlet.close()
            await asyncio.gather(task, return_exceptions=True)
            raise
        await task
        give_back()
        for name in names:
            image = await self.find(name)
            if image is not None:
                await self.tell("save", image.id)

    async def tag(self, source: str, target: str) -> None:
        """Raises NotFound, InvalidArgument, NotSupported."""
        image = await self.resolve(source)
        await self._change(lambda: self._store.tag(source, target))
        await self.tell("tag", image.id, references.parse(target).familiar)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        """Remove what nobody needs. Raises InvalidArgument, Conflict."""
        from sampan.image.pruning import prune

        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            pruned = await self._change(lambda: prune(self._store, filters, self._users))
        finally:
            self._pruning = False
        await self._tell(pruned.removals)
        self._engine.events.publish("image", "prune", "", {"reclaimed": str(pruned.reclaimed)})
        return pruned

    async def remove(self, name: str, *, force: bool, prune: bool = True) -> list[Removal]:
        """Raises NotFound, Conflict."""
        image = await self.find(name)
        labels = {} if image is None else {image.id: image.document.config.labels}
        removals = await self._change(
            lambda: self._store.remove(name, force=force, prune=prune, used_by=self._users)
        )
        await self._tell(removals, labels)
        return removals

    async def _tell(
        self, removals: Sequence[Removal], labels: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        for removal in removals:
            if removal.untagged and removal.image:
                known = (labels or {}).get(removal.image)
                await self.tell("untag", removal.image, labels=known)
            elif removal.image:
                await self.tell("delete", removal.image, labels={})

    def _users(self, image_id: str) -> list[User]:
        return [
            User(live.id, live.record.state.up)
            for live in self._engine.registry
            if live.record.image_id == image_id
            or any(m.type == "image" and m.source == image_id for m in live.record.mounts)
        ]

    def layer_sizes(self, image: Image) -> list[int]:
        """Bytes of files in each layer, the lowest first."""
        return [self._store.layers.size([chain_id]) for chain_id in image.chain]

    async def tell(
        self,
        action: str,
        actor: str,
        name: str = "",
        *,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """An event with the image's labels; ``name`` is its ID where an action is about no name."""
        if labels is None:
            image = await self.find(actor)
            labels = {} if image is None else image.document.config.labels
        self._engine.events.publish("image", action, actor, {**labels, "name": name or actor})

    @staticmethod
    def created(image: Image) -> str:
        return image.document.created or rfc3339(int(image.created * 1e9))
