"""Layers out of the store into a repository.

What was never compressed is compressed into a file without a name first: only then its digest is
known, by which the registry may already have it, and an upload that breaks can go on where it was.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import TYPE_CHECKING

from sampan.oci import digest as digests
from sampan.registry.carrier import messages
from sampan.registry.client.retries import retry
from sampan.registry.client.upload import mount, upload
from sampan.storage.archive.compression import Compressor, Unpacker
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.errors import SampanError
    from sampan.registry.carrier.messages import Event
    from sampan.registry.carrier.slots import Slots
    from sampan.registry.client.repository import Repository
    from sampan.registry.client.urls import Url
    from sampan.storage.blobs import BlobStore

__all__ = ["Sending"]

_TELL_SECONDS = 0.05


class _Listener:
    def __init__(self, number: int, tell: Callable[[Event], None]) -> None:
        self._number = number
        self._tell = tell
        self._told = 0.0

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._told < _TELL_SECONDS:
            return False
        self._told = now
        return True

    def grown(self, offset: int) -> None:
        if self._due():
            self._tell(messages.Grown(number=self._number, offset=offset))

    def packing(self, offset: int, total: int) -> None:
        if self._due():
            self._tell(messages.Packing(number=self._number, offset=offset, total=total))

    def waiting(self, seconds: float, error: SampanError) -> None:
        self._tell(messages.Waiting(number=self._number, seconds=seconds, reason=error.message))


class Sending:
    """See the module's text."""

    def __init__(self, blobs: BlobStore, slots: Slots) -> None:
        self._blobs = blobs
        self._slots = slots

    async def send(
        self, request: messages.Send, repository: Repository, tell: Callable[[Event], None]
    ) -> Event:
        """Have the layer in the repository. Raises SampanError."""
        policy = request.where.policy
        listener = _Listener(request.number, tell)
        async with self._slots.one(policy.uploads):
            begun: Url | None = None
            for choice in request.choices:
                offer = functools.partial(_offer, request.number, repository, choice)
                found, begun = await retry(offer, policy.attempts, listener.waiting)
                if found is not None:
                    return found
            fd = self._blobs.open(request.blob)
            try:
                digest, size = request.blob, os.fstat(fd).st_size
                if request.pack:
                    fd, plain = self._blobs.scratch(), fd
                    try:
                        digest, size = await _pack(plain, fd, listener)
                        tell(messages.Packed(number=request.number, size=size))
                    finally:
                        os.close(plain)
                    if await retry(
                        lambda: repository.has_blob(digest), policy.attempts, listener.waiting
                    ):
                        return messages.Sent(
                            number=request.number, state="exists", digest=digest, size=size
                        )
                await upload(
                    repository,
                    digest,
                    fd,
                    size,
                    listener=listener,
                    attempts=policy.attempts,
                    begun=begun,
                )
            finally:
                os.close(fd)
        return messages.Sent(number=request.number, state="pushed", digest=digest, size=size)


async def _offer(
    number: int, repository: Repository, choice: messages.Choice
) -> tuple[Event | None, Url | None]:
    """Whether the registry has the blob, here or where it can be mounted from."""
    digest, size = choice.digest, choice.size
    if await repository.has_blob(digest):
        return messages.Sent(number=number, state="exists", digest=digest, size=size), None
    origin, begun = await mount(repository, digest, choice.origins)
    if origin:
        sent = messages.Sent(
            number=number, state="mounted", digest=digest, size=size, origin=origin
        )
        return sent, None
    return None, begun


async def _pack(plain: int, packed: int, listener: _Listener) -> tuple[str, int]:
    """Compress a file into another; digest and size of what came out. A thread's work."""
    loop = asyncio.get_running_loop()
    running = digests.new_hash()
    total = os.fstat(plain).st_size
    stopped = False

    def out(data: bytes) -> None:
        running.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(packed, view) :]
        except OSError as error:
            raise explain(error, "write", "a layer", "while compressing a layer") from error

    def work() -> int:
        compressor = Compressor(out)
        with Unpacker(plain) as pieces:  # it may be packed as no registry takes it (xz, bzip2)
            for piece in pieces:
                if stopped:
                    return 0
                compressor.write(piece)
                loop.call_soon_threadsafe(listener.packing, pieces.packed, total)
        compressor.close()
        return compressor.packed

    future = loop.run_in_executor(None, work)
    try:
        size = await asyncio.shield(future)
    except asyncio.CancelledError:
        stopped = True
        await asyncio.wait((future,))
        raise
    return f"sha256:{running.hexdigest()}", size
