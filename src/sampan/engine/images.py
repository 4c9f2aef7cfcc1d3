"""Images for the daemon's doors: the image store's work, on threads.

Archives flow through pipes, so that a thread reads or writes a plain descriptor while the event
loop moves bytes at the client's pace. Resolving a name is on the path of every create, so its
answer is kept until any image changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

from sampan.engine.container import rfc3339
from sampan.errors import Conflict, NotFound
from sampan.image.removing import User
from sampan.kernel.memory import trim_heap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from sampan.engine.core import Engine
    from sampan.image.pruning import Pruned
    from sampan.image.store import ImageStore
    from sampan.image.types import Image, Loaded, Removal
    from sampan.oci.platform import Platform

__all__ = ["Images"]

T = TypeVar("T")
_CHUNK = 256 * 1024
_PIPE_SIZE = 1024 * 1024


class Images:
    """Asynchronous face of the image store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, Image] = {}
        self._pruning = False

    @property
    def _store(self) -> ImageStore:
        return self._engine.image_store

    async def _change(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        finally:
            self._known.clear()
            # Archives take megabytes of buffers, and the daemon stays for months.
            trim_heap()

    def changed(self) -> None:
        """Names may stand for other images now."""
        self._known.clear()

    async def resolve(self, name: str) -> Image:
        """Raises NotFound, InvalidArgument."""
        image = self._known.get(name)
        if image is None:
            image = await asyncio.to_thread(self._store.resolve, name)
        elif image.system:
            # The host image follows the machine's /etc; to look costs microseconds.
            image = self._store.resolve(name)
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

    async def load(
        self, chunks: AsyncIterator[bytes], platform: Platform | None = None
    ) -> list[Loaded]:
        """Take in a docker save archive or an OCI layout.

        Raises Corrupt, InvalidArgument, NotFound (no image for the platform).
        """
        loaded = await self._change_from(chunks, lambda fd: self._store.load(fd, platform))
        for image in loaded:
            self._publish("load", image.id, ", ".join(image.references))
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

        def work(fd: int) -> str:
            return self._store.import_archive(fd, reference, changes, message, platform)

        image_id = await self._change_from(chunks, work)
        self._publish("import", image_id, reference or "")
        return image_id

    async def _change_from(self, chunks: AsyncIterator[bytes], work: Callable[[int], T]) -> T:
        """Run ``work`` on the reading end of a pipe that ``chunks`` go into."""
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def read() -> T:
            try:
                return work(reader)
            finally:
                os.close(reader)

        task = asyncio.ensure_future(self._change(read))
        try:
            await _feed(writer, chunks, task)
        except BaseException:
            # The archive is cut short for whoever reads it: it ends with an error, and is undone.
            await asyncio.gather(task, return_exceptions=True)
            raise
        return await task

    async def save(
        self, names: Sequence[str], platform: Platform | None = None
    ) -> AsyncIterator[bytes]:
        """The archive's bytes. An error before the first of them is raised before it."""
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def write() -> None:
            with os.fdopen(writer, "wb", buffering=_CHUNK) as out:
                self._store.save(names, out, platform)

        task = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            async with contextlib.aclosing(_drain(reader)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except BaseException:
            await asyncio.gather(task, return_exceptions=True)
            raise
        await task
        for name in names:
            self._publish("save", name, name)

    async def tag(self, source: str, target: str) -> None:
        """Raises NotFound, InvalidArgument, NotSupported."""
        image = await self.resolve(source)
        await self._change(lambda: self._store.tag(source, target))
        self._publish("tag", image.id, target)

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
        self._tell(pruned.removals)
        self._engine.events.publish("image", "prune", "", {"reclaimed": str(pruned.reclaimed)})
        return pruned

    async def remove(self, name: str, *, force: bool, prune: bool = True) -> list[Removal]:
        """Raises NotFound, Conflict."""
        removals = await self._change(
            lambda: self._store.remove(name, force=force, prune=prune, used_by=self._users)
        )
        self._tell(removals)
        return removals

    def _tell(self, removals: Sequence[Removal]) -> None:
        for removal in removals:
            if removal.image:
                action = "untag" if removal.untagged else "delete"
                self._publish(action, removal.image, removal.image)

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

    def _publish(self, action: str, actor: str, name: str) -> None:
        self._engine.events.publish("image", action, actor, {"name": name})

    @staticmethod
    def created(image: Image) -> str:
        return image.document.created or rfc3339(int(image.created * 1e9))


async def _feed(writer: int, chunks: AsyncIterator[bytes], reading: asyncio.Future[T]) -> None:
    """Write chunks into a pipe until they end or nobody reads it any more; closes it."""
    os.set_blocking(writer, False)
    loop = asyncio.get_running_loop()
    try:
        async for chunk in chunks:
            view = memoryview(chunk)
            while view and not reading.done():
                try:
                    view = view[os.write(writer, view) :]
                except BlockingIOError:
                    await _ready(loop, writer, reading)
                except BrokenPipeError:
                    return
    finally:
        os.close(writer)


async def _ready(loop: asyncio.AbstractEventLoop, fd: int, other: asyncio.Future[T]) -> None:
    """Wait until ``fd`` takes bytes, or ``other`` is done."""
    wake = asyncio.Event()
    loop.add_writer(fd, wake.set)
    waiting = loop.create_task(wake.wait())
    try:
        await asyncio.wait((waiting, other), return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_writer(fd)
        waiting.cancel()


async def _drain(reader: int) -> AsyncGenerator[bytes, None]:
    """What is written into a pipe, to its end; closes it."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=_PIPE_SIZE)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
    )
    try:
        while chunk := await stream.read(_CHUNK):
            yield chunk
    finally:
        transport.close()
