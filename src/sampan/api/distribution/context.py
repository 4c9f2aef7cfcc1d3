"""What every route is handed, and the form of answers and errors.

Errors have the body of the distribution specification ("Error Codes"); what is not in its list gets
a code of the same form.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec

from sampan.api.http.messages import HttpError, Response
from sampan.oci import digest as digests
from sampan.registry.server.errors import DigestInvalid, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from concurrent.futures import Executor

    from sampan.api.distribution.access import Gate
    from sampan.api.distribution.health import Readiness
    from sampan.api.distribution.threads import Threads
    from sampan.api.distribution.visitors import Visitor
    from sampan.api.http.messages import Request
    from sampan.errors import SampanError
    from sampan.registry.cache.cache import Cache
    from sampan.registry.server.core import Registry

__all__ = ["HEADERS", "Context", "Trace", "digest_of", "error", "reply"]

P = ParamSpec("P")
T = TypeVar("T")

HEADERS = {
    "Docker-Distribution-Api-Version": "registry/2.0",
    "X-Content-Type-Options": "nosniff",
}
_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NOT_FOUND",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}
_STALL_SECONDS = 60.0


class Trace:
    """What becomes known of a request while it is answered: for logs. ``account`` is the one whose
    password was guessed wrong, ``said`` is what an error's message was.
    """

    __slots__ = ("account", "handler", "name", "reference", "said", "user")

    def __init__(self) -> None:
        self.user = self.account = self.name = self.reference = self.said = ""
        self.handler: Callable[..., object] | None = None


class Context:
    """One request: ``name`` is the repository's, ``reference`` what stands behind it."""

    __slots__ = (
        "cache",
        "draining",
        "gate",
        "name",
        "pulled",
        "readiness",
        "reference",
        "registry",
        "request",
        "threads",
        "trace",
        "visitor",
    )

    def __init__(
        self,
        registry: Registry,
        threads: Threads,
        request: Request,
        *,
        trace: Trace,
        visitor: Visitor,
        gate: Gate | None,
        cache: Cache | None,
        pulled: Callable[[str, str], None],
        draining: bool,
        readiness: Readiness,
    ) -> None:
        self.registry = registry
        self.threads = threads
        self.request = request
        self.trace = trace
        self.name = trace.name
        self.reference = trace.reference
        self.visitor = visitor
        self.gate = gate
        self.cache = cache
        self.pulled = pulled
        self.draining = draining
        self.readiness = readiness

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """On a thread, since it may wait for the database."""
        return await self._on(self.threads.rows, work, *args, **kwargs)

    async def store(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``run`` for an upload: its bytes, or whoever has its lock, may wait for the storage."""
        return await self._on(self.threads.uploads, work, *args, **kwargs)

    async def load(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``run`` for what reads from the storage."""
        return await self._on(self.threads.blobs, work, *args, **kwargs)

    async def _on(
        self, pool: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A few rows: at once, where no network is between."""
        if self.registry.place.database.shared:
            return await self.run(work, *args, **kwargs)
        return work(*args, **kwargs)

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes. A client that sends nothing for long gets a 408."""
        while data := await self._next():
            yield data

    async def whole_body(self, limit: int) -> bytes:
        """Raises HttpError (413)."""
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                return await self.request.body.read(limit)
        except TimeoutError as problem:
            raise HttpError(408, "the request's body did not arrive in time") from problem

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                return await self.request.body.next()
        except TimeoutError as problem:
            raise HttpError(408, "the request's body stopped arriving") from problem

    def number(self, name: str, default: int, most: int) -> int:
        """A parameter that is a count. Raises HttpError."""
        text = self.request.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal()):
            raise Refusal400(f'{name}={text}: expected a number, not "{text}"')
        return min(int(text[:18]), most)

    def next_link(self, **parameters: object) -> str:
        """The field Link of a page that is not the last (RFC 8288)."""
        query = urllib.parse.urlencode(parameters)
        path = urllib.parse.quote(self.request.path)
        return f'<{path}?{query}>; rel="next"'


class Refusal400(Refusal):
    """A page's size that is none."""

    status = 400
    code = "PAGINATION_NUMBER_INVALID"


def digest_of(text: str | None) -> str:
    """Raises DigestInvalid."""
    if text is None:
        raise DigestInvalid("the parameter digest is missing")
    if not digests.is_digest(text):
        raise DigestInvalid(f'"{text}" is not a digest: expected sha256:<64 hex digits>')
    return text


def reply(
    value: object,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    return Response(status, msgspec.json.encode(value), media_type, headers)


def error(problem: SampanError) -> Response:
    """The answer for an error."""
    code = getattr(problem, "code", "") or _CODES.get(problem.status, "UNKNOWN")
    said: dict[str, object] = {"code": code, "message": problem.message}
    detail = getattr(problem, "detail", None)
    if detail is not None:
        said["detail"] = detail
    return reply({"errors": [said]}, problem.status)
