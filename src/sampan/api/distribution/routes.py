"""Which path is whose: the routes of the distribution API, of the page, and of ``/api/v1``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sampan.api.distribution import (
    blobs,
    catalogue,
    description,
    health,
    manifests,
    page,
    search,
    session,
    uploads,
)
from sampan.api.distribution.access import token
from sampan.api.distribution.context import Context, reply
from sampan.api.distribution.visitors import CATALOG, LIST
from sampan.errors import NotFound
from sampan.oci.reference import is_path
from sampan.registry.server.errors import NameInvalid, Unsupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Answer

    Handler = Callable[[Context], Awaitable[Answer]]

__all__ = [
    "DELETE",
    "FREE",
    "LOGIN",
    "PATHS",
    "PULL",
    "PUSH",
    "Path",
    "Route",
    "find",
    "kind",
    "routes_of",
]

PULL, PUSH, DELETE = "pull", "push", "delete"
LOGIN = ""
"""Nothing, but one has to be somebody."""
FREE = "free"


async def _probe(context: Context) -> Answer:
    return reply({})


class Route(NamedTuple):
    """``action`` is what a client has to be allowed to do."""

    action: str
    handler: Handler


class Path(NamedTuple):
    pattern: re.Pattern[str]
    methods: dict[str, Route]


def _path(pattern: str, **methods: tuple[str, Handler]) -> Path:
    """What can be got has a head too (RFC 9110, section 9.3.2): of its own, or GET's."""
    if "GET" in methods:
        methods = {"GET": methods["GET"], "HEAD": methods["GET"], **methods}
    return Path(re.compile(pattern), {method: Route(*route) for method, route in methods.items()})


PATHS = (
    _path(r"/v2/?", GET=(LOGIN, _probe)),
    _path(r"/v2/_catalog", GET=(CATALOG, manifests.catalog)),
    _path(r"/v2/(.+)/tags/list", GET=(PULL, manifests.tags)),
    _path(
        r"/v2/(.+)/manifests/([^/]+)",
        GET=(PULL, manifests.get),
        HEAD=(PULL, manifests.head),
        PUT=(PUSH, manifests.put),
        DELETE=(DELETE, manifests.delete),
    ),
    _path(r"/v2/(.+)/referrers/([^/]+)", GET=(PULL, manifests.referrers)),
    _path(r"/v2/(.+)/blobs/uploads/?", POST=(PUSH, uploads.begin)),
    _path(
        r"/v2/(.+)/blobs/uploads/([^/]+)",
        GET=(PUSH, uploads.status),
        PATCH=(PUSH, uploads.continue_),
        PUT=(PUSH, uploads.finish),
        DELETE=(PUSH, uploads.cancel),
    ),
    _path(
        r"/v2/(.+)/blobs/([^/]+)",
        GET=(PULL, blobs.get),
        HEAD=(PULL, blobs.head),
        DELETE=(DELETE, blobs.delete),
    ),
    _path(r"/token", GET=(FREE, token), POST=(FREE, token)),
    _path(r"/v1/_ping", GET=(FREE, search.ping)),
    _path(r"/healthz", GET=(FREE, health.alive)),
    _path(r"/readyz", GET=(FREE, health.ready)),
    _path(r"/", GET=(FREE, page.index)),
    _path(r"/web/[^/]+/[^/]+", GET=(FREE, page.part)),
    _path(
        r"/api/v1/session",
        GET=(FREE, session.show),
        POST=(FREE, session.begin),
        DELETE=(FREE, session.end),
    ),
    _path(r"/api/v1/repositories", GET=(LIST, catalogue.repositories)),
    _path(r"/api/v1/repositories/(.+)/tags", GET=(PULL, catalogue.tags)),
    _path(r"/api/v1/repositories/(.+)/manifests/([^/]+)", GET=(PULL, catalogue.manifest)),
    _path(r"/api/v1/openapi\.json", GET=(FREE, description.document)),
    _path(r"/v1/search", GET=(CATALOG, search.find)),
)


def find(request: Request) -> tuple[Route, str, str]:
    """Raises NotFound, NameInvalid, Unsupported."""
    for pattern, methods in PATHS:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        name, reference = (*match.groups(), "", "")[:2]
        if pattern.groups and not is_path(name):
            raise NameInvalid(f'"{name}" is not a repository\'s name', {"name": name})
        route = methods.get(request.method)
        if route is None:
            raise Unsupported(f"{request.method} is not for {request.path}: {', '.join(methods)}")
        return route, name, reference
    raise NotFound(f"there is nothing at {request.path}")


def routes_of(path: str) -> Iterator[tuple[str, Route]]:
    """What there is at a path, by method."""
    for pattern, methods in PATHS:
        if pattern.fullmatch(path) is not None:
            yield from methods.items()
            return


def kind(path: str) -> str:
    """What a request is about, for counting."""
    if path.startswith("/api/"):
        return "catalogue"
    for word in ("manifests", "blobs/uploads", "blobs", "tags", "referrers"):
        if f"/{word}/" in path:
            return word
    return path[1:] if path in ("/v2/_catalog", "/v1/search", "/token") else "other"
