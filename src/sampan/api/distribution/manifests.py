"""Manifests, tags and lists: end-3, end-7, end-8, end-9 and end-12 of the distribution
specification, and Docker's ``_catalog``.

A manifest is answered as it was put, whatever Accept says: its bytes are what its digest is of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.distribution.context import Context, digest_of, reply
from sampan.api.http.messages import HttpError, Response
from sampan.oci import digest as digests
from sampan.oci.image import INDEX
from sampan.oci.reference import is_tag
from sampan.registry.cache import counts
from sampan.registry.server import listing
from sampan.registry.server.errors import ManifestInvalid, ManifestTooLarge, ManifestUnknown
from sampan.registry.types import MANIFEST_LIMIT

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer

__all__ = ["catalog", "delete", "get", "head", "put", "referrers", "tags"]

_OLD = {"Warning": '110 - "Response is Stale"'}
"""Of a cache whose other registry is down (RFC 7234, section 5.5.1)."""
_PAGE = 10_000
_CATALOG_PAGE = 100
_TAGS_AT_ONCE = 100


def _fields(digest: str, media_type: str) -> dict[str, str]:
    return {
        "Content-Type": media_type,
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        # Whoever pushes says the type, text/html too: no script of his runs beside our page.
        "Content-Security-Policy": "sandbox",
    }


_CAME = {
    counts.HIT: {"Cache-Status": "sampan; hit"},
    counts.SAME: {"Cache-Status": 'sampan; fwd=stale; detail="the same"'},
    counts.MISS: {"Cache-Status": "sampan; fwd=miss; stored"},
    counts.OLD: {"Cache-Status": 'sampan; hit; detail="no answer there"', **_OLD},
}
"""Fields by how a manifest came to be here (RFC 9211)."""


async def _fetched(context: Context) -> dict[str, str]:
    """For a cache: see that the manifest is here; the fields that tell how it came."""
    if context.cache is None:
        return {}
    return _CAME[await context.cache.manifest(context.name, context.reference)]


async def head(context: Context) -> Answer:
    came = await _fetched(context)
    found = await context.read(
        context.registry.manifests.get, context.name, context.reference, head=True
    )
    fields = _fields(found.digest, found.media_type) | came
    return context.request.connection.begin(context.request, 200, fields, found.size)


async def get(context: Context) -> Answer:
    came = await _fetched(context)
    found = await context.read(context.registry.manifests.get, context.name, context.reference)
    context.pulled(context.name, found.digest)
    fields = _fields(found.digest, found.media_type) | came
    if context.request.headers.get("if-none-match") == fields["ETag"]:
        return Response(304, headers=fields)
    return Response(200, found.data, headers=fields)


async def put(context: Context) -> Answer:
    """By tag, or by digest with any number of tags (``tag=``)."""
    request = context.request
    tags = request.query.all("tag")
    digest = context.reference if ":" in context.reference else None
    if digest is not None:
        digest_of(digest)
    else:
        tags = [context.reference, *tags]
    for tag in tags:
        if not is_tag(tag):
            raise ManifestInvalid(f'"{tag}" is not a tag')
    if len(tags) > _TAGS_AT_ONCE:
        raise ManifestInvalid(f"at most {_TAGS_AT_ONCE} tags at once")
    try:
        data = await context.whole_body(MANIFEST_LIMIT)
    except HttpError as problem:
        if problem.status != 413:
            raise
        raise ManifestTooLarge(f"the manifest is larger than {MANIFEST_LIMIT} bytes") from problem
    media_type = request.media_type if "content-type" in request.headers else ""
    # It reads the image's configuration.
    done = await context.load(
        context.registry.manifests.put, context.name, media_type, data, digest=digest, tags=tags
    )
    fields = {
        "Location": f"/v2/{context.name}/manifests/{done.digest}",
        "Docker-Content-Digest": done.digest,
    }
    if done.subject is not None:
        fields["OCI-Subject"] = done.subject
    if request.query.all("tag"):
        fields["OCI-Tag"] = ", ".join(tags)
    return Response(201, headers=fields)


async def delete(context: Context) -> Answer:
    """A digest: the manifest and its tags. A tag: the tag."""
    manifests = context.registry.manifests
    if digests.is_digest(context.reference):
        await context.run(manifests.delete, context.name, context.reference)
    elif is_tag(context.reference):
        await context.run(manifests.untag, context.name, context.reference)
    else:
        raise ManifestUnknown(f'"{context.reference}" is neither a tag nor a digest')
    return Response(202)


async def tags(context: Context) -> Answer:
    limit = context.number("n", _PAGE, _PAGE)
    last = context.request.query.get("last") or ""
    if context.cache is not None:
        found, stale = await context.cache.tags(context.name, limit, last)
        answer = _names(context, {"name": context.name, "tags": found.names}, found, limit)
        answer.headers |= _OLD if stale else {}
        return answer
    found = await context.read(listing.tags, context.registry.place, context.name, limit, last)
    return _names(context, {"name": context.name, "tags": found.names}, found, limit)


async def catalog(context: Context) -> Answer:
    limit = context.number("n", _CATALOG_PAGE, _PAGE)
    last = context.request.query.get("last") or ""
    found = await context.read(listing.catalog, context.registry.place, limit, last)
    return _names(context, {"repositories": found.names}, found, limit)


def _names(context: Context, value: object, found: listing.Names, limit: int) -> Response:
    fields = {}
    if found.more and found.names:
        fields["Link"] = context.next_link(n=limit, last=found.names[-1])
    return reply(value, headers=fields)


async def referrers(context: Context) -> Answer:
    digest = digest_of(context.reference)
    kind = context.request.query.get("artifactType") or ""
    after = context.number("after", 0, 1 << 62)
    if context.cache is not None:
        return Response(200, await context.cache.referrers(context.name, digest, kind), INDEX)
    found = await context.run(
        listing.referrers, context.registry.place, context.name, digest, kind, after
    )
    fields = {"OCI-Filters-Applied": "artifactType"} if kind else {}
    if found.next:
        more = {"artifactType": kind} if kind else {}
        fields["Link"] = context.next_link(after=found.next, **more)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found.descriptors}
    return reply(index, headers=fields, media_type=INDEX)
