"""The page at ``/``: the files of the directory ``web`` beside this module, as they are.

Read at the first request, packed once, kept. The document names all others by a directory that is
their digest, so a browser keeps those for ever and asks for the document alone, by its ETag. The
policy (Content Security Policy 3, Trusted Types) lets nothing run or show that is not one of these
files: names, labels and histories were written by whoever pushed.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
from typing import TYPE_CHECKING, NamedTuple

from sampan.api.http.messages import Response
from sampan.errors import NotFound

if TYPE_CHECKING:
    from sampan.api.distribution.context import Context
    from sampan.api.http.messages import Request

__all__ = ["index", "part"]

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_DOCUMENT = "index.html"
_PLACE = "@version@"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_FIELDS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}


class _File(NamedTuple):
    """``packed`` with gzip."""

    data: bytes
    packed: bytes
    media_type: str
    tag: str


@functools.cache
def _files() -> tuple[str, dict[str, _File]]:
    """Their common version, and each by its name."""
    place = importlib.resources.files("sampan.api.distribution").joinpath("web")
    found = {one.name: one.read_bytes() for one in place.iterdir() if _ending(one.name) in _TYPES}
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\0" + found[name])
    version = digest.hexdigest()[:16]
    found[_DOCUMENT] = found[_DOCUMENT].replace(_PLACE.encode(), version.encode())
    return version, {
        name: _File(data, gzip.compress(data, mtime=0), _TYPES[_ending(name)], version)
        for name, data in found.items()
    }


def _ending(name: str) -> str:
    return name.rpartition(".")[2]


async def index(context: Context) -> Response:
    _, files = await context.run(_files)
    return _answer(context.request, files[_DOCUMENT], "no-cache")


async def part(context: Context) -> Response:
    version, files = await context.run(_files)
    _, _, directory, name = context.request.path.split("/")
    if directory != version or name not in files or name == _DOCUMENT:
        raise NotFound(f"there is nothing at {context.request.path}")
    return _answer(context.request, files[name], "public, max-age=31536000, immutable")


def _answer(request: Request, file: _File, cache: str) -> Response:
    packed = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{file.tag}{"-gzip" if packed else ""}"'
    fields = _FIELDS | {"Cache-Control": cache, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(304, headers=fields)
    if packed:
        fields["Content-Encoding"] = "gzip"
    return Response(200, file.packed if packed else file.data, file.media_type, fields)
