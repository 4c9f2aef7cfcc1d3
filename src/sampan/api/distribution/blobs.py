"""Blobs: end-2 and end-10 of the distribution specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution import ranges
from sampan.api.distribution.context import Context, digest_of
from sampan.api.http.files import send_file
from sampan.api.http.messages import Response
from sampan.registry.cache.counts import HIT, MISS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sampan.api.http.stream import Answer
    from sampan.registry.server.storage.base import Reader

__all__ = ["delete", "get", "head"]


def _fields(digest: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }


async def head(context: Context) -> Answer:
    digest = digest_of(context.reference)
    links = context.registry.links
    if context.cache is not None:
        size = await context.cache.blob_size(context.name, digest)
        return context.request.connection.begin(context.request, 200, _fields(digest), size)
    blob = await context.read(links.find, context.name, digest)
    if links.due(blob):
        await context.run(links.renew, blob)
    return context.request.connection.begin(context.request, 200, _fields(digest), blob.size)


async def get(context: Context) -> Answer:
    """All of it, or one range; or where it is."""
    digest = digest_of(context.reference)
    request, links = context.request, context.registry.links
    fetch = None
    if context.cache is not None:
        fetch = await context.cache.blob(context.name, digest)
    if fetch is not None:
        reader = await fetch.open()
        return await _send(context, digest, reader, fetch.size, how=MISS, available=fetch.available)
    blob = await context.read(links.find, context.name, digest)
    if links.due(blob):
        await context.run(links.renew, blob)
    fields = _fields(digest)
    if request.headers.get("if-none-match") == fields["ETag"]:
        return Response(304, headers=fields)
    url = None
    if context.registry.place.storage.stateful:
        # To sign an address takes a while, and may take credentials from somewhere.
        url = await context.load(links.url, blob)
    if url is not None:
        return Response(307, headers={"Location": url, "Docker-Content-Digest": digest})
    reader = await context.load(links.open, context.name, digest)
    return await _send(context, digest, reader, reader.size, how=HIT)


async def _send(
    context: Context,
    digest: str,
    reader: Reader,
    size: int,
    *,
    how: str,
    available: Callable[[int], Awaitable[int]] | None = None,
) -> Answer:
    """All or a range of what ``reader``, which is closed then, has or will have; ``how`` is for a
    cache to count.
    """
    request = context.request
    fields = _fields(digest)
    status, offset, count = 200, 0, size
    try:
        condition = request.headers.get("if-range", fields["ETag"])
        field = request.headers.get("range") if condition == fields["ETag"] else None
        part = ranges.wanted(field, size)
        if part is not None:
            status, (offset, count) = 206, part
            if not count:
                return Response(416, headers=fields | {"Content-Range": f"bytes */{size}"})
            fields["Content-Range"] = f"bytes {offset}-{offset + count - 1}/{size}"
        answer = await send_file(
            request, status, fields, reader, offset=offset, count=count, available=available
        )
        if context.cache is not None:
            context.cache.counts.sent[how] += count
        return answer
    finally:
        reader.close()


async def delete(context: Context) -> Answer:
    digest = digest_of(context.reference)
    await context.run(context.registry.links.unlink, context.name, digest)
    return Response(202, headers={"Docker-Content-Digest": digest})
