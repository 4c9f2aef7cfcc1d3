"""The Docker Engine API as an HTTP server's handler: versions, routes, errors."""

from __future__ import annotations

import sqlite3
import sys
import time
from errno import ENOSPC
from typing import TYPE_CHECKING

from sampan.api.docker import (
    archive,
    attach,
    build,
    containers,
    events,
    execs,
    images,
    info,
    logs,
    networks,
    registries,
    stats,
    swarm,
    system,
    usage,
    versions,
    volumes,
)
from sampan.api.docker.context import HEADERS, Context, error, reply
from sampan.api.docker.routing import Router
from sampan.api.http.messages import Response
from sampan.api.http.server import Server
from sampan.engine.log import log
from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine

    Problem = SampanError | OSError | sqlite3.Error
    Observer = Callable[[str, str, int, float], None]

__all__ = ["PARTS", "ApiServer"]

PARTS = (
    archive,
    attach,
    build,
    containers,
    events,
    execs,
    images,
    info,
    logs,
    networks,
    registries,
    stats,
    swarm,
    system,
    usage,
    volumes,
)


class ApiServer(Server):
    """The protocol factory for the daemon's doors.

    ``observer`` is told each answer's method, path, status and seconds.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(self._dispatch, error, _report, fields=HEADERS)
        self._engine = engine
        self.observer: Observer | None = None
        self._router = Router()
        for part in PARTS:
            self._router.add(part.ROUTES)

    def _dispatch(self, request: Request) -> Response | Awaitable[Answer]:
        before = time.monotonic()
        try:
            version, path = versions.split_version(request.path)
            handler, parameters = self._router.find(request.method, path)
            answer = handler(Context(self._engine, request, version, parameters))
        except (SampanError, OSError, sqlite3.Error) as problem:
            answer = self._refusal(request, problem)
        if not isinstance(answer, Response):
            return self._later(request, answer, before)
        self._observe(request, answer, before)
        return answer

    async def _later(self, request: Request, given: Awaitable[Answer], before: float) -> Answer:
        try:
            answer = await given
        except (SampanError, OSError, sqlite3.Error) as problem:
            answer = self._refusal(request, problem)
        self._observe(request, answer, before)
        return answer

    def _observe(self, request: Request, answer: Answer, before: float) -> None:
        if self.observer is None and not log.debugging:
            return
        seconds = time.monotonic() - before
        if self.observer is not None:
            self.observer(request.method, request.path, answer.status, seconds)
        log.debug(
            "request answered",
            method=request.method,
            path=request.path,
            status=answer.status,
            client=request.headers.get("user-agent", ""),
            ms=f"{seconds * 1000:.1f}",
        )

    def _refusal(self, request: Request, problem: Problem) -> Response:
        if isinstance(problem, ConnectionError):
            raise problem  # The client is gone.
        if isinstance(problem, SampanError):
            log.debug(
                "request refused", method=request.method, path=request.path, error=problem.message
            )
            return error(problem)
        # A full disk, a limit of this process: the client's answer has the usual form.
        log.error("request failed", method=request.method, path=request.path, error=problem)
        said = f"{request.method} {request.path}: {problem}"
        if _is_full(problem):
            root = self._engine.settings.data_root
            said = f"no space left on device: free some space in {root}, or move it"
        return reply({"message": said}, 500)


def _is_full(problem: OSError | sqlite3.Error) -> bool:
    if isinstance(problem, OSError):
        return problem.errno == ENOSPC
    return getattr(problem, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def _report(problem: BaseException) -> None:
    """A bug: the whole of it goes where the log goes."""
    log.error("a request crashed", error=repr(problem))
    sys.excepthook(type(problem), problem, problem.__traceback__)
