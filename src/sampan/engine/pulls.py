"""Pull: from a name to an image, as docs/registry.md says step by step.

Layers that are missing are fetched all at once (the carrier lets so many in as the settings allow)
and unpacked side by side, each from the file that is still coming in; they take their places from
the lowest up. A driver that copies what is below into a layer unpacks one after another. Whatever
fails or cancels one of them ends the pull: the downloads stop, unpacking stops, what was downloaded
stays for the next pull.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, TypeVar

from sampan.engine.threads import in_thread
from sampan.engine.transfers import short
from sampan.errors import SampanError
from sampan.image.host import is_host
from sampan.image.types import check_platform
from sampan.kernel.footprint import give_back
from sampan.oci import platform as platforms
from sampan.registry.carrier import messages
from sampan.storage.growing import Growing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.engine.core import Engine
    from sampan.engine.progress import Reporter
    from sampan.image.arriving import Arrival, Layer
    from sampan.oci.platform import Platform
    from sampan.oci.reference import Reference
    from sampan.registry.types import Credentials
    from sampan.storage.layers import Hold, Unattached

__all__ = ["pull", "pull_all"]

T = TypeVar("T")


async def pull(
    engine: Engine,
    name: Reference,
    platform: Platform | None,
    credentials: Credentials | None,
    report: Reporter,
) -> None:
    """Have the image ``name`` (with a tag or digest). Raises SampanError; nothing of it stays."""
    from sampan.image.arriving import expect

    if is_host(name):
        report.say(f"Status: Image is up to date for {name.familiar}")
        return
    where = engine.transfers.where(name, credentials)
    wanted = platform or platforms.machine()
    request = messages.Resolve(
        number=0,
        where=where,
        reference=name.digest or name.tag or "",
        architecture=wanted.architecture,
        os=wanted.os,
        variant=wanted.variant,
    )
    resolved = await engine.transfers.ask(request, messages.Resolved)
    arrival = expect(resolved.top, resolved.manifest, resolved.config)
    if platform is not None:
        check_platform(arrival.document, platform, name.familiar)
    shown = str(name) if name.digest else name.tag or ""
    report.say(f"Pulling from {name.path}", shown, part=False)
    store = engine.image_store
    before = await asyncio.to_thread(store.id_of, name)
    by_digest = name.replace(tag=None, digest=resolved.top.digest)
    names = (by_digest,) if name.digest else (name, by_digest)
    try:
        with store.layers.hold() as hold:
            for layer in arrival.layers:
                hold.pin(layer.chain_id)
                hold.pin(layer.digest)
            if await asyncio.to_thread(arrival.present, store) is None:
                await _Layers(engine, arrival, where, report, hold).receive()
            image_id = await asyncio.to_thread(arrival.admit, store, names, name.name, hold)
    finally:
        engine.images.changed()
        await asyncio.to_thread(_tidy, engine)
    report.say(f"Digest: {resolved.top.digest}")
    newer = "Image is up to date" if before == image_id else "Downloaded newer image"
    report.say(f"Status: {newer} for {name.familiar}")
    await engine.images.tell("pull", name.familiar, name.familiar_name)


def _tidy(engine: Engine) -> None:
    """Blobs that came for nothing, and the memory that unpacking took."""
    engine.image_store.layers.collect()
    give_back()


async def pull_all(
    engine: Engine,
    repository: Reference,
    platform: Platform | None,
    credentials: Credentials | None,
    report: Reporter,
) -> None:
    """Every tag of a repository, one after another. Raises SampanError."""
    request = messages.ListTags(number=0, where=engine.transfers.where(repository, credentials))
    found = await engine.transfers.ask(request, messages.Tags)
    for tag in found.tags:
        await pull(engine, repository.replace(tag=tag), platform, credentials, report)


class _Layers:
    """The layers of one arrival."""

    def __init__(
        self,
        engine: Engine,
        arrival: Arrival,
        where: messages.Where,
        report: Reporter,
        hold: Hold,
    ) -> None:
        self._engine = engine
        self._store = engine.image_store
        self._arrival = arrival
        self._where = where
        self._report = report
        self._hold = hold
        self._growing: dict[str, Growing] = {}
        self._began: dict[str, asyncio.Event] = {}
        self._fetched: set[str] = set()

    async def receive(self) -> None:
        """Have all of them unpacked. Raises SampanError."""
        missing = [layer for layer in self._arrival.layers if not self._present(layer)]
        try:
            async with asyncio.TaskGroup() as group:
                # The same blob may be two of the layers: it comes once.
                for layer in {layer.digest: layer for layer in reversed(missing)}.values():
                    if layer.digest in self._growing:
                        group.create_task(self._fetch(layer))
                coming = dict(self._growing)
                if self._store.layers.loose:
                    below: asyncio.Event | None = None
                    for layer in missing:
                        done = asyncio.Event()
                        growing = coming.pop(layer.digest, None)
                        group.create_task(self._unpack(layer, growing, below, done))
                        below = done
                else:
                    group.create_task(self._unpack_in_turn(missing, coming))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            for growing in self._growing.values():
                growing.close()

    def _present(self, layer: Layer) -> bool:
        """Whether a layer is unpacked; what is not is to come, unless its blob is here."""
        layers = self._store.layers
        if layers.has(layer.chain_id):
            self._report.say("Already exists", short(layer.digest))
            return True
        self._report.say("Pulling fs layer", short(layer.digest))
        if layer.digest not in self._growing and layers.known_blob(layer.diff_id) is None:
            self._growing[layer.digest] = Growing(self._store.blobs, layer.digest)
            self._began[layer.digest] = asyncio.Event()
        return False

    async def _fetch(self, layer: Layer) -> None:
        """One blob; who unpacks it follows."""
        name, growing = short(layer.digest), self._growing[layer.digest]
        report = self._report
        report.say("Waiting", name)

        def heard(event: messages.Event) -> None:
            match event:
                case messages.Began():
                    growing.begin(event.path, event.offset)
                    self._began[layer.digest].set()
                    report.advance("Downloading", name, event.offset, layer.size)
                case messages.Grown():
                    growing.grow(event.offset)
                    report.advance("Downloading", name, event.offset, layer.size)
                case messages.Waiting():
                    seconds = max(round(event.seconds), 1)
                    report.say(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}", name)
                case _:
                    raise AssertionError(event)

        request = messages.Fetch(
            number=0, where=self._where, digest=layer.digest, size=layer.size, urls=layer.urls
        )
        try:
            await self._engine.transfers.ask(request, messages.Fetched, heard)
            report.say("Verifying Checksum", name)
            growing.finish()
            self._began[layer.digest].set()
        except BaseException:
            growing.fail(SampanError(f"layer {name} did not arrive"))
            raise
        self._fetched.add(layer.digest)
        report.say("Download complete", name)

    async def _unpack(
        self,
        layer: Layer,
        growing: Growing | None,
        below: asyncio.Event | None,
        done: asyncio.Event,
    ) -> None:
        """One layer, while others are; it waits for the one below to take its place."""
        store, arrival = self._store, self._arrival
        if growing is not None:
            await self._began[layer.digest].wait()
        elif below is not None and not store.blobs.has(layer.digest):
            await below.wait()  # the second of two layers that are one blob
        async with self._engine.transfers.unpacking(layer.chain_id):
            if not store.layers.has(layer.chain_id):
                made: list[Unattached] = []

                def begin() -> None:
                    made.append(arrival.begin(store, layer, growing))

                def attach() -> None:
                    arrival.attach(store, layer, made.pop(), self._hold)

                try:
                    async with self._engine.transfers.turns:
                        await self._in_thread(begin, layer, growing)
                    if below is not None:
                        await below.wait()
                    await in_thread(attach, "attach")
                finally:
                    # Cancelled, perhaps at the very moment it was finished.
                    for unpacked in made:
                        store.layers.abandon(unpacked)
        done.set()
        self._report.say("Pull complete", short(layer.digest))

    async def _unpack_in_turn(self, missing: list[Layer], coming: dict[str, Growing]) -> None:
        for layer in missing:
            growing = coming.pop(layer.digest, None)
            receive = functools.partial(
                self._arrival.receive, self._store, layer, self._hold, growing
            )
            if growing is not None:
                await self._began[layer.digest].wait()
            await self._in_thread(receive, layer, growing)
            self._report.say("Pull complete", short(layer.digest))

    async def _in_thread(self, work: Callable[[], T], layer: Layer, growing: Growing | None) -> T:
        """Unpacking, with its figures told; cancelled, the next read of what comes is its last."""
        stop = None
        if growing is not None:
            stop = functools.partial(growing.fail, SampanError("cancelled"))
        counting = asyncio.create_task(self._count(layer, growing))
        try:
            return await in_thread(work, "unpack", stop)
        finally:
            counting.cancel()

    async def _count(self, layer: Layer, growing: Growing | None) -> None:
        """Tell how far unpacking is, once the download is not the news any more."""
        while growing is not None:
            if layer.digest in self._fetched:
                self._report.advance(
                    "Extracting", short(layer.digest), growing.position, layer.size
                )
            await asyncio.sleep(0.1)
