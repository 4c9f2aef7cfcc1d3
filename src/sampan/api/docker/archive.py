"""Containers' files: ``archive`` (``docker cp``), ``export`` and ``changes`` (``docker diff``)."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from typing import TYPE_CHECKING

from sampan.api.docker.context import Context, empty, reply
from sampan.api.http.messages import Response
from sampan.engine.container import rfc3339
from sampan.engine.spec import MOUNT_POINTS
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sampan.api.http.stream import Answer
    from sampan.engine.archive import PathStat

__all__ = ["ROUTES", "go_mode"]

_STAT = "X-Docker-Container-Path-Stat"
_KINDS = {"C": 0, "A": 1, "D": 2}

# Go's os.FileMode: the kind and the three odd bits have places of their own.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def go_mode(mode: int) -> int:
    """``st_mode`` as Go writes a file's mode."""
    bits = sum(there for ours, there in _GO_BITS.items() if mode & ours)
    return mode & 0o777 | bits | _GO_KINDS.get(stat.S_IFMT(mode), 0)


def _shown(found: PathStat) -> dict[str, str]:
    """The header with what is at the path; names' bytes that are not UTF-8 as Go shows them."""
    text = json.dumps(
        {
            "name": _readable(found.name),
            "size": found.size,
            "mode": go_mode(found.mode),
            "mtime": rfc3339(found.mtime),
            "linkTarget": _readable(found.target),
        },
        separators=(",", ":"),
    )
    return {_STAT: base64.b64encode(text.encode()).decode()}


def _readable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _path(context: Context) -> str:
    path = context.request.query.path("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: path contains a NUL character")
    return path


async def info(context: Context) -> Answer:
    found = await context.engine.archives.stat(context.parameters[0], _path(context))
    return Response(200, headers=_shown(found))


async def get(context: Context) -> Answer:
    reading = context.engine.archives.reading(context.parameters[0], _path(context))
    async with reading as (found, chunks):
        return await _stream(context, chunks, "application/x-tar", _shown(found))


async def put(context: Context) -> Answer:
    await context.engine.archives.write(
        context.parameters[0],
        _path(context),
        aiter(context.request.body),
        keep_kinds=context.flag("noOverwriteDirNonDir"),
        as_user=context.flag("copyUIDGID"),
    )
    return empty(200)


async def export(context: Context) -> Answer:
    async with context.engine.archives.exporting(context.parameters[0]) as chunks:
        return await _stream(context, chunks, "application/octet-stream", {})


async def _stream(
    context: Context, chunks: AsyncIterator[bytes], media_type: str, headers: dict[str, str]
) -> Answer:
    """An error before the first byte is an answer of its own; after it, a cut connection."""
    first = await anext(chunks, b"")
    stream = context.connection.stream(context.request, media_type, headers)
    await stream.write(first)
    async for chunk in chunks:
        await stream.write(chunk)
    return stream


async def changes(context: Context) -> Answer:
    live = context.engine.registry.find(context.parameters[0])
    found = await asyncio.to_thread(context.engine.driver.changes, live.id, MOUNT_POINTS)
    return reply(
        [
            {"Path": "/" + change.path.decode("utf-8", "replace"), "Kind": _KINDS[change.kind]}
            for change in found
        ]
    )


ROUTES = (
    ("HEAD", "/containers/{id}/archive", info),
    ("GET", "/containers/{id}/archive", get),
    ("PUT", "/containers/{id}/archive", put),
    ("GET", "/containers/{id}/export", export),
    ("GET", "/containers/{id}/changes", changes),
)
