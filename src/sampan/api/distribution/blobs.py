"""Blobs: end-2 and end-10 of the distribution specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution import ranges
from sampan.api.distribution.context import Context, digest_of
from sampan.api.http.files import send_file
from sampan.api.http.messages import Response

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

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
    blob = await context.read(links.find, context.name, digest)
    if links.due(blob):
        await context.run(links.renew, blob)
    return context.request.connection.begin(context.request, 200, _fields(digest), blob.size)


async def get(context: Context) -> Answer:
    """All of it, or one range; or where it is."""
    digest = digest_of(context.reference)
    request, links = context.request, context.registry.links
    blob = await context.read(links.find, context.name, digest)
    if links.due(blob):
        await context.run(links.renew, blob)
    fields = _fields(digest)
    if request.headers.get("if-none-match") == fields["ETag"]:
        return Response(304, headers=fields)
    url = await context.read(links.url, blob)
    if url is not None:
        return Response(307, headers={"Location": url, "Docker-Content-Digest": digest})
    reader = await context.run(links.open, context.name, digest)
    try:
        condition = request.headers.get("if-range", fields["ETag"])
        field = request.headers.get("range") if condition == fields["ETag"] else None
        part = ranges.wanted(field, reader.size)
        if part is None:
            return await send_file(request, 200, fields, reader, offset=0, count=reader.size)
        offset, count = part
        if not count:
            return Response(416, headers=fields | {"Content-Range": f"bytes */{reader.size}"})
        fields["Content-Range"] = f"bytes {offset}-{offset + count - 1}/{reader.size}"
        return await send_file(request, 206, fields, reader, offset=offset, count=count)
    finally:
        reader.close()


async def delete(context: Context) -> Answer:
    digest = digest_of(context.reference)
    await context.run(context.registry.links.unlink, context.name, digest)
    return Response(202, headers={"Docker-Content-Digest": digest})
