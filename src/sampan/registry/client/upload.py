"""A blob from a file to a registry (distribution specification, "Pushing blobs").

Asked for first (HEAD), then mounted from a repository that is known to have it, then sent in one
piece (POST, PUT). Where a connection breaks, the registry is asked how far it got and the rest
follows (PATCH with ``Content-Range``); one that takes no large bodies (413) gets pieces of 8 MiB,
or of what it names in ``OCI-Chunk-Min-Length``.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from sampan.errors import SampanError
from sampan.registry.client.errors import Refused, Transient, refusal
from sampan.registry.client.retries import Budget
from sampan.registry.client.session import pull_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sampan.registry.client.http import Response
    from sampan.registry.client.repository import Repository
    from sampan.registry.client.urls import Url

__all__ = ["FilePart", "Listener", "mount", "upload"]

_PIECE = 1 << 20
_WRITE = 1 << 16
_CHUNK = 8 << 20
_TOO_LARGE = 413
_reached = re.compile(r"(?:bytes=)?0-(\d{1,19})").fullmatch


class Listener(Protocol):
    """Who wants to know how it goes."""

    def grown(self, offset: int) -> None:
        """So many bytes are on their way."""

    def waiting(self, seconds: float, error: Transient) -> None:
        """An attempt failed, and the next begins in so many seconds."""


class FilePart:
    """A request's body: ``length`` bytes of a file from ``offset`` on."""

    def __init__(self, fd: int, offset: int, length: int, sent: Callable[[int], None]) -> None:
        self._fd = fd
        self._offset = offset
        self.length = length
        self._sent = sent

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        loop = asyncio.get_running_loop()
        at, end = self._offset, self._offset + self.length
        while at < end:
            count = min(_PIECE, end - at)
            data = memoryview(await loop.run_in_executor(None, os.pread, self._fd, count, at))
            if not data:
                raise SampanError("a blob's file became shorter while it was sent")
            for start in range(0, len(data), _WRITE):
                yield data[start : start + _WRITE]
            at += len(data)
            self._sent(at)


async def mount(
    repository: Repository, digest: str, origins: Sequence[str]
) -> tuple[str, Url | None]:
    """Have the registry take the blob from another of its repositories.

    The repository it was taken from, or nothing; and an upload that was begun instead, if any.
    """
    begun: Url | None = None
    for origin in origins:
        query = urlencode({"mount": digest, "from": origin})
        scopes = (*repository.push, pull_scope(origin))
        async with repository.session.request(
            "POST", f"{repository.path('blobs/uploads/')}?{query}", scopes=scopes
        ) as response:
            await response.read(1 << 16, cut=True)
            if response.status == 201:
                return origin, None
            if response.status == 202:
                begun = _location(response)
            # Anything else: this one cannot be had from there, which is no error.
    return "", begun


async def upload(
    repository: Repository,
    digest: str,
    fd: int,
    size: int,
    *,
    listener: Listener,
    attempts: int,
    begun: Url | None = None,
) -> None:
    """Send the blob that is all of the file ``fd``. Raises SampanError.

    ``begun`` is an upload that ``mount`` was given instead of the blob.
    """
    budget = Budget(attempts, listener.waiting)
    place, at, chunk = begun, 0, 0
    best = 0
    while True:
        try:
            if place is None:
                place, least = await _begin(repository)
                at, chunk = 0, max(chunk, least) if chunk else 0
            while chunk and size - at > chunk:
                part = FilePart(fd, at, chunk, listener.grown)
                place, at = await _patch(repository, place, part, at)
            if 0 < at < size:
                part = FilePart(fd, at, size - at, listener.grown)
                place, at = await _patch(repository, place, part, at)
            part = FilePart(fd, at, size - at, listener.grown)
            await _finish(repository, place, part, digest)
            return
        except Refused as error:
            if error.code != _TOO_LARGE or chunk:
                raise
            place, chunk = None, _CHUNK
        except Transient as error:
            reached = await _reached_so_far(repository, place) if place is not None else None
            brought, best = max(0, at - best), max(best, at)
            await budget.spend(error, brought)
            place, at = reached or (None, 0)


def _location(response: Response) -> Url:
    location = response.head.fields.get("location", "")
    if not location:
        raise SampanError(f"{response.url.shown}: an upload was begun, and not said where")
    return response.url.join(location)


async def _begin(repository: Repository) -> tuple[Url, int]:
    """Where to send it, and the least the registry wants a piece to be."""
    async with repository.session.request(
        "POST", repository.path("blobs/uploads/"), scopes=repository.push
    ) as response:
        if response.status != 202:
            raise await refusal(response, f"upload to {repository.name}")
        await response.read(1 << 16, cut=True)
        least = response.head.fields.get("oci-chunk-min-length", "")
        return _location(response), int(least) if least.isdecimal() and len(least) < 10 else 0


async def _patch(repository: Repository, place: Url, part: FilePart, start: int) -> tuple[Url, int]:
    fields = {
        "Content-Type": "application/octet-stream",
        "Content-Range": f"{start}-{start + part.length - 1}",
    }
    async with repository.session.request(
        "PATCH", place, fields, part, scopes=repository.push
    ) as response:
        if response.status != 202:
            raise await refusal(response, f"upload to {repository.name}")
        await response.read(1 << 16, cut=True)
        return _location(response), start + part.length


async def _finish(repository: Repository, place: Url, part: FilePart, digest: str) -> None:
    joint = "&" if "?" in place.target else "?"
    target = place._replace(target=f"{place.target}{joint}{urlencode({'digest': digest})}")
    fields = {"Content-Type": "application/octet-stream"}
    async with repository.session.request(
        "PUT", target, fields, part, scopes=repository.push
    ) as response:
        if response.status not in (201, 202, 204):
            raise await refusal(response, f"upload to {repository.name}")
        await response.read(1 << 16, cut=True)


async def _reached_so_far(repository: Repository, place: Url) -> tuple[Url, int] | None:
    """Where an interrupted upload goes on, and from which byte; None to begin anew."""
    try:
        async with repository.session.request("GET", place, scopes=repository.push) as response:
            await response.read(1 << 16, cut=True)
            found = _reached(response.head.fields.get("range", ""))
            if response.status not in (202, 204) or found is None:
                return None
            location = response.head.fields.get("location", "")
            return response.url.join(location) if location else place, int(found[1]) + 1
    except Transient:
        return None
