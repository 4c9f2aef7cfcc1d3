"""``/api/v1/openapi.json``: everything this server answers, as an OpenAPI 3.1 document.

The file beside this module, as it is: written by hand, and served by the server that it is about,
so that whoever has the one has the other. ``tests/registry/server/description.py`` holds every
answer of the registry's tests against it, and its paths against the table of routes.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
from typing import TYPE_CHECKING

from sampan.api.http.messages import Response

if TYPE_CHECKING:
    from sampan.api.distribution.context import Context

__all__ = ["document"]

_NAME = "openapi.json"


@functools.cache
def _file() -> tuple[str, bytes]:
    """Its digest, and itself packed with gzip."""
    data = importlib.resources.files("sampan.api.distribution").joinpath(_NAME).read_bytes()
    return hashlib.sha256(data).hexdigest()[:16], gzip.compress(data, mtime=0)


async def document(context: Context) -> Response:
    version, packed = await context.run(_file)
    is_packed = "gzip" in context.request.headers.get("accept-encoding", "")
    tag = f'"{version}{"-gzip" if is_packed else ""}"'
    fields = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if context.request.headers.get("if-none-match") == tag:
        return Response(304, headers=fields)
    if is_packed:
        fields["Content-Encoding"] = "gzip"
    data = packed if is_packed else gzip.decompress(packed)
    return Response(200, data, "application/json", fields)
