"""The distribution API as an HTTP server's handler: paths to routes, errors to bodies."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from sampan.api.distribution import audit, health, manifests, page, session
from sampan.api.distribution.access import token
from sampan.api.distribution.context import HEADERS, Context, Trace, error
from sampan.api.distribution.rates import Brake, address_of
from sampan.api.distribution.routes import DELETE, FREE, PUSH, find, kind, routes_of
from sampan.api.distribution.threads import Threads
from sampan.api.distribution.visitors import EVERYBODY
from sampan.api.http.server import Limits, Server
from sampan.engine.log import log
from sampan.errors import InvalidArgument, SampanError, Unavailable
from sampan.registry.server.errors import (
    TooManyRequests,
    Unauthorized,
    Unsupported,
    WrongPassword,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.api.distribution.access import Gate
    from sampan.api.distribution.routes import Route
    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Answer
    from sampan.registry.cache.cache import Cache
    from sampan.registry.server.audit import AuditLog
    from sampan.registry.server.core import Registry

    Observer = Callable[[str, str, int, float], None]

__all__ = ["DistributionServer"]

_END_SECONDS = 3.0
"""For what threads still do when no request is left."""
_UNCOUNTED = (health.alive, health.ready, page.index, page.part)
"""By rates of requests: whoever shows a page has asked for a dozen files."""


class DistributionServer(Server):
    """The protocol factory for ``loop.create_server``.

    Without a ``gate`` everybody may do everything. ``observer`` is told of each request's method,
    what it is about, status and seconds.
    """

    def __init__(
        self, registry: Registry, *, gate: Gate | None = None, read_only: bool = False
    ) -> None:
        super().__init__(
            self._dispatch, error, _report, fields=HEADERS, limits=Limits(idle_seconds=120.0)
        )
        self.gate = gate
        self.observer: Observer | None = None
        self.access_log = False
        self.audit_log: AuditLog | None = None
        self.cache: Cache | None = None
        self.draining = False
        self.hanging = False
        """After ``shutdown``: threads wait for a bucket or a database that does not answer."""
        self._registry = registry
        self._read_only = read_only
        self._brake = Brake(registry.place)
        self._threads = Threads()
        self._readiness = health.Readiness(registry.place, self._threads.rows)
        self._pulls: dict[tuple[str, str], int] = {}

    async def _dispatch(self, request: Request) -> Answer:
        before = time.monotonic()
        trace = Trace()
        status = audit.GONE
        answer: Answer | None = None
        try:
            answer = await self._answer(request, trace)
            status = answer.status
        finally:
            seconds = time.monotonic() - before
            if self.observer is not None:
                self.observer(request.method, kind(request.path), status, seconds)
            if self.access_log:
                self._log(request, trace, status, seconds)
            if self.audit_log is not None:
                self._audit(
                    self.audit_log, dict(audit.fields(request, trace, status, answer)), request
                )
        return answer

    def _log(self, request: Request, trace: Trace, status: int, seconds: float) -> None:
        log.info(
            "request",
            client=address_of(request, self._registry.place),
            user=trace.user,
            method=request.method,
            path=request.path,
            status=status,
            ms=f"{seconds * 1000:.1f}",
            agent=request.headers.get("user-agent", ""),
        )

    def _audit(self, audit_log: AuditLog, fields: dict[str, object], request: Request) -> None:
        if fields:
            fields["client"] = address_of(request, self._registry.place)
            was_good = not audit_log.lost
            if not audit_log.record(**fields) and was_good:
                log.error("the audit log cannot be written: nothing is changed until it can")

    async def _answer(self, request: Request, trace: Trace) -> Answer:
        action = ""
        try:
            route, trace.name, trace.reference = find(request)
            if self.cache is not None:
                trace.name = self.cache.home(trace.name)
            action, trace.handler = route.action, route.handler
            visitor = EVERYBODY
            if self.gate is not None and _has_password(request, route):
                self._brake.before_password(request)
            if self.gate is not None and action != FREE:
                visitor = await self.gate.admit(request, action, trace)
            self._count(request, route, visitor.user)
            if action in (PUSH, DELETE):
                self._check_change()
            context = Context(
                self._registry,
                self._threads,
                request,
                trace=trace,
                visitor=visitor,
                gate=self.gate,
                cache=self.cache,
                pulled=self._pulled,
                draining=self.draining,
                readiness=self._readiness,
            )
            return await route.handler(context)
        except SampanError as problem:
            trace.said = problem.message
            return self._refuse(problem, request, trace, action)
        except ConnectionError:
            raise
        except (OSError, sqlite3.Error) as problem:
            trace.said = str(problem)
            log.error("request failed", method=request.method, path=request.path, error=problem)
            return error(SampanError(f"{request.method} {request.path}: {problem}"))

    def _refuse(self, problem: SampanError, request: Request, trace: Trace, action: str) -> Answer:
        if isinstance(problem, WrongPassword):
            trace.account = problem.account
        if isinstance(problem, Unauthorized):
            return self._challenge(problem, request, trace.name, action)
        if isinstance(problem, TooManyRequests):
            return self._too_many(problem)
        if problem.status >= 500:
            log.error("request failed", path=request.path, error=problem.message)
        answer = error(problem)
        if answer.status == 405:
            answer.headers["Allow"] = ", ".join(self._methods(request.path))
        return answer

    def _methods(self, path: str) -> Iterator[str]:
        """What may be done with ``path`` (RFC 9110, section 15.5.6)."""
        for method, route in routes_of(path):
            changes = route.action in (PUSH, DELETE)
            if not (changes and (self._read_only or self.cache is not None)):
                yield method

    def _check_change(self) -> None:
        """Raises Unsupported, Unavailable."""
        if self._read_only:
            raise Unsupported("this registry is read-only")
        if self.cache is not None:
            raise Unsupported(f"this is a cache of {self.cache.upstream.url}: push there")
        if self.audit_log is not None and not self.audit_log.is_good():
            raise Unavailable("the audit log cannot be written: nothing is changed until it can")

    def _count(self, request: Request, route: Route, user: str) -> None:
        """Raises TooManyRequests."""
        if route.handler in _UNCOUNTED:
            return
        pull = route.handler is manifests.get and request.method == "GET"
        self._brake.count(request, user, "requests", *(("pulls",) if pull else ()))

    def _too_many(self, problem: TooManyRequests) -> Answer:
        answer = error(problem)
        answer.headers["Retry-After"] = str(problem.after)
        return answer

    def _challenge(self, problem: Unauthorized, request: Request, name: str, action: str) -> Answer:
        """A 401, and how to do better."""
        if isinstance(problem, WrongPassword):
            self._brake.wrong_password(request)
        try:
            if action != FREE:
                self._brake.count(request, "", "requests")
        except TooManyRequests as more:
            return self._too_many(more)
        answer = error(problem)
        if self.gate is None:
            return answer
        try:
            challenge = self.gate.challenge(request, name, "" if action == FREE else action)
        except InvalidArgument as worse:
            return error(worse)
        answer.headers["WWW-Authenticate"] = challenge
        return answer

    def _pulled(self, name: str, digest: str) -> None:
        key = (name, digest)
        self._pulls[key] = self._pulls.get(key, 0) + 1

    async def tend(self) -> None:
        """What is to be done now and then: note the time and the pulls, forget dead uploads."""
        pulls, self._pulls = self._pulls, {}
        await asyncio.get_running_loop().run_in_executor(
            self._threads.rows, self._registry.tend, pulls
        )

    async def evict(self, keep: float, size: int) -> None:
        """What a cache forgets."""
        from sampan.registry.cache.eviction import evict

        manifests, freed = await asyncio.get_running_loop().run_in_executor(
            self._threads.rows, evict, self._registry.place, keep, size
        )
        if manifests or freed:
            log.info("forgotten", manifests=manifests, bytes=freed)

    async def collect(self, upload_seconds: float) -> None:
        """A collection, beside the requests."""
        removed = await asyncio.get_running_loop().run_in_executor(
            self._threads.rows, self._registry.collect, upload_seconds
        )
        for one in removed:
            log.debug("collected", what=one.what, why=one.why, bytes=one.bytes)
        if removed:
            log.info("collected", things=len(removed), bytes=sum(one.bytes for one in removed))

    async def retain(self) -> None:
        """Retention, beside the requests."""
        removed = await asyncio.get_running_loop().run_in_executor(
            self._threads.rows, self._registry.retain
        )
        for one in removed:
            what = one.tag or one.digest
            log.info("retention removed", repository=one.repository, what=what, why=one.why)
            if self.audit_log is not None:
                self.audit_log.record(
                    action="delete",
                    repository=one.repository,
                    tag=one.tag,
                    digest=one.digest,
                    by="retention",
                    why=one.why,
                    outcome="done",
                )

    async def shutdown(self, timeout: float, patience: float = 0.0) -> None:
        await super().shutdown(timeout, patience)
        if self.cache is not None:
            await self.cache.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.tend()
        except (TimeoutError, SampanError, sqlite3.Error) as problem:
            log.error("the last pulls are not counted", error=problem)
        self.hanging = not self._threads.shutdown(_END_SECONDS)


def _has_password(request: Request, route: Route) -> bool:
    """In a field, or in the body of what logs in."""
    in_body = request.method == "POST" and route.handler in (token, session.begin)
    return in_body or "authorization" in request.headers


def _report(problem: BaseException) -> None:
    """A bug: the whole of it goes where the log goes."""
    log.error("a request crashed", error=repr(problem))
    sys.excepthook(type(problem), problem, problem.__traceback__)
