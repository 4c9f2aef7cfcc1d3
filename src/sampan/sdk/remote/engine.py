"""A daemon."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.sdk.remote.containers import AsyncContainer, AsyncContainers, Container, Containers
from sampan.sdk.remote.images import AsyncImages, Images
from sampan.sdk.remote.stream import AsyncStream, JsonLines, Stream
from sampan.sdk.remote.values import Event, Version
from sampan.sdk.remote.wire import Filters, Wire, filter_query
from sampan.sdk.steps import Awaiting, Blocking, Steps, operation

__all__ = ["AsyncEngine", "Engine"]


class _Engine:
    """A daemon: ``containers``, ``images``, ``events``. Any thread or task may use it."""

    def __init__(self, host: str | None = None, *, start: bool = True) -> None:
        """``host``: ``unix:///path`` or ``tcp://host:port``; else SAMPAN_HOST, DOCKER_HOST, the
        context in use, our own socket. ``start``: a daemon is started where none is and this
        program may, for our own socket only; that is said on standard error."""
        self._wire = Wire(host, start)

    @operation
    def version(self) -> Steps[Version]:
        """What it is."""
        data = yield from self._wire.call("GET", "/version")
        return msgspec.json.decode(data, type=Version)

    @operation
    def info(self) -> Steps[dict[str, Any]]:
        """All it tells of itself and its machine."""
        return self._wire.json("/info")

    def _events(self, since: float | None, until: float | None, filters: Filters | None) -> Any:
        query = {"since": since, "until": until, "filters": filter_query(filters)}
        return self._wire.open("GET", "/events", query), JsonLines(Event).feed


class Engine(_Engine, Blocking):
    __doc__ = _Engine.__doc__

    @property
    def containers(self) -> Containers:
        return Containers(self._wire, Container)

    @property
    def images(self) -> Images:
        return Images(self._wire)

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Filters | None = None,
    ) -> Stream[Event]:
        """What happens, from now or ``since`` on (seconds since 1970), to ``until`` or for ever."""
        return Stream(*self._events(since, until, filters))


class AsyncEngine(_Engine, Awaiting):
    __doc__ = _Engine.__doc__

    @property
    def containers(self) -> AsyncContainers:
        return AsyncContainers(self._wire, AsyncContainer)

    @property
    def images(self) -> AsyncImages:
        return AsyncImages(self._wire)

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Filters | None = None,
    ) -> AsyncStream[Event]:
        """What happens, from now or ``since`` on (seconds since 1970), to ``until`` or for ever."""
        return AsyncStream(*self._events(since, until, filters))
