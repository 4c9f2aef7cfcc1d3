"""Uploads: end-4, end-5, end-6, end-11, end-13 and end-14 of the distribution specification.

What came of a request that broke off counts: its client asks how much that is, and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution import ranges
from sampan.api.distribution.context import Context, digest_of, error
from sampan.api.http.messages import HttpError, Response
from sampan.errors import SampanError
from sampan.oci import digest as digests
from sampan.registry.server.errors import (
    Denied,
    DigestInvalid,
    RangeInvalid,
    Refusal,
    SizeInvalid,
)

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer
    from sampan.registry.server.uploads import Upload

__all__ = ["begin", "cancel", "continue_", "finish", "status"]


def _created(context: Context, digest: str) -> Response:
    fields = {
        "Location": f"/v2/{context.name}/blobs/{digest}",
        "Docker-Content-Digest": digest,
    }
    return Response(201, headers=fields)


def _fields(context: Context, identifier: str, offset: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{context.name}/blobs/uploads/{identifier}",
        # An inclusive range cannot say "nothing": this is what Docker's registry says then.
        "Range": f"0-{max(0, offset - 1)}",
        "Docker-Upload-UUID": identifier,
    }


async def begin(context: Context) -> Answer:
    """Begin an upload; with ``mount`` link a blob instead, with ``digest`` do all of it at once."""
    query, registry = context.request.query, context.registry
    mount = query.get("mount")
    if mount is not None:
        source = query.get("from")
        # From nowhere in particular only where that tells nobody what he may not see.
        visitor = context.visitor
        allowed = visitor.sees_all() if source is None else visitor.may(source, "pull")
        if allowed and await context.run(
            registry.links.mount, context.name, digest_of(mount), source
        ):
            return _created(context, mount)
    digest = query.get("digest")
    if digest is not None:
        digest_of(digest)
    algorithm = digests.parse(digest)[0] if digest else query.get("digest-algorithm") or "sha256"
    if algorithm not in ("sha256", "sha512"):
        raise DigestInvalid(f"digest-algorithm={algorithm}: use sha256 or sha512")
    upload = await context.run(registry.uploads.begin, context.name, algorithm)
    if digest is not None and mount is None:
        await _receive(context, upload, last=True)
        await context.store(registry.uploads.commit, upload, digest)
        return _created(context, digest)
    return Response(202, headers=_fields(context, upload.identifier, 0))


async def status(context: Context) -> Answer:
    uploads = context.registry.uploads
    upload = await context.read(uploads.find, context.name, context.reference)
    size = await context.store(uploads.size, upload)
    return Response(204, headers=_fields(context, upload.identifier, size))


async def continue_(context: Context) -> Answer:
    upload = await context.read(context.registry.uploads.find, context.name, context.reference)
    try:
        offset = await _receive(context, upload)
    except RangeInvalid as problem:
        return _elsewhere(context, upload, problem)
    return Response(202, headers=_fields(context, upload.identifier, offset))


async def finish(context: Context) -> Answer:
    """The rest of the bytes, if any, and the digest of all."""
    digest = digest_of(context.request.query.get("digest"))
    uploads = context.registry.uploads
    upload = await context.read(uploads.find, context.name, context.reference)
    try:
        await _receive(context, upload, last=True)
    except RangeInvalid as problem:
        return _elsewhere(context, upload, problem)
    await context.store(uploads.commit, upload, digest)
    return _created(context, digest)


async def cancel(context: Context) -> Answer:
    uploads = context.registry.uploads
    upload = await context.read(uploads.find, context.name, context.reference)
    await context.store(uploads.cancel, upload)
    return Response(204)


def _elsewhere(context: Context, upload: Upload, problem: RangeInvalid) -> Response:
    answer = error(problem)
    answer.headers |= _fields(context, upload.identifier, problem.offset)
    return answer


async def _receive(context: Context, upload: Upload, *, last: bool = False) -> int:
    """Append the request's body; the upload's length then. The ``last`` is for a commit to close.

    Raises RangeInvalid, SizeInvalid, UploadInvalid when another request has taken over, Denied by
    a quota.
    """
    uploads = context.registry.uploads
    fields = context.request.headers
    if "transfer-encoding" not in fields and not fields.get("content-length", "0").strip("0"):
        return await context.store(uploads.size, upload)
    part = ranges.chunk(fields.get("content-range"))
    length = fields.get("content-length")
    if part is not None and length is not None and int(length) != part[1]:
        raise SizeInvalid(f"Content-Range is {part[1]} bytes, Content-Length {length}")
    turn = await context.store(uploads.take, upload)
    try:
        if part is not None:
            uploads.expect(turn, part[0])
        if length is not None:
            await context.run(uploads.expect_length, turn, int(length))
        came = 0
        async for data in context.body():
            came += len(data)
            if part is not None and came > part[1]:
                raise SizeInvalid(f"the chunk is longer than the {part[1]} bytes of Content-Range")
            await context.store(turn.write, data)
            if uploads.is_stale(upload):
                await context.run(uploads.touch, upload)
        if part is not None and came < part[1]:
            raise SizeInvalid(f"the chunk has {came} bytes, Content-Range {part[1]}")
        offset = turn.offset
        if last:
            turn.last = True
        elif context.registry.place.storage.stateful:
            await context.store(turn.close)  # what is answered for is kept
        return offset
    except HttpError as problem:
        raise SizeInvalid(problem.message) if problem.status == 400 else problem from problem
    except Denied:
        await context.store(uploads.cancel, upload)  # it will never fit
        raise
    except Refusal:
        raise  # what has come stays
    except SampanError:
        # The disk is full, or fails: others need the room more than this client its beginning.
        await context.store(uploads.cancel, upload)
        raise
    finally:
        if not turn.last:
            context.threads.uploads.submit(turn.close)
