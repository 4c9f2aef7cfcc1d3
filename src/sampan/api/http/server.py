"""Connections' beginning and end: a protocol factory for listeners, the loop's and ``local``'s."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from sampan.api.http.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from sampan.api.http.messages import HttpError, Request, Response
    from sampan.api.http.stream import Answer

    Handler = Callable[[Request], Response | Awaitable[Answer]]

__all__ = ["Limits", "Server"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Limits(NamedTuple):
    """``head`` in bytes: a request's head, and what is kept of requests sent ahead.

    ``head_seconds`` from a head's first byte (the first head: from the connection) to its last;
    ``drain_seconds`` for a client to end what nobody reads any more. A connection between two
    requests may stay as long as it likes, or for ``idle_seconds``.
    """

    head: int = 64 * 1024
    head_seconds: float = 60.0
    drain_seconds: float = 5.0
    idle_seconds: float | None = None


class Server:
    """``handler`` answers requests, ``refusal`` words what cannot become one.

    ``fields`` stand in every answer. A handler that has nothing to wait for returns its answer,
    which is sent in the turn of the loop that brought the request; others return what is awaited.
    One that raises is a bug (but for ConnectionError): the client gets a 500, ``report`` the error.
    """

    def __init__(
        self,
        handler: Handler,
        refusal: Callable[[HttpError], Response],
        report: Callable[[BaseException], None],
        *,
        fields: Mapping[str, str],
        limits: Limits = Limits(),  # noqa: B008 - a value
    ) -> None:
        self.handler = handler
        self.refusal = refusal
        self.limits = limits
        self.connections: set[Connection] = set()
        self.stopping = False
        self._report = report
        self._common = "".join(f"\r\n{name}: {value}" for name, value in fields.items())
        self._second = 0
        self._fields = ""
        self._tasks: dict[asyncio.Task[None], Connection] = {}

    def __call__(self) -> Connection:
        return Connection(self, asyncio.get_running_loop())

    def fields(self) -> str:
        """The lines that stand in every answer, with the time (RFC 9110, section 6.6.1)."""
        second = int(time.time())
        if second != self._second:
            moment = time.gmtime(second)
            self._second = second
            self._fields = (
                f"Date: {_DAYS[moment.tm_wday]}, {moment.tm_mday:02d} {_MONTHS[moment.tm_mon - 1]} "
                f"{moment.tm_year} {moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} GMT"
                f"{self._common}"
            )
        return self._fields

    def ask(self, connection: Connection, request: Request) -> Response | Awaitable[Answer] | None:
        """What the handler says; None when it failed, which is dealt with."""
        try:
            return self.handler(request)
        except Exception as error:  # noqa: BLE001 - a bug, told to the client and reported
            self._failed(connection, error)
            return None

    def _failed(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, ConnectionError):
            connection.abort()
        else:
            self._report(error)
            connection.crashed()

    def run(self, connection: Connection, work: Coroutine[object, object, None]) -> None:
        """Handle a request, and outlive its connection."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task, None)
            if task.cancelled():
                connection.abort()
            elif (error := task.exception()) is not None:
                self._failed(connection, error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = connection
        task.add_done_callback(done)

    async def shutdown(self, timeout: float, patience: float = 0.0) -> None:
        """Answer what is being answered, and close everything.

        Streams have ``timeout`` seconds to end; ``patience`` is for requests that are not answered
        yet at all.
        """
        self.stopping = True
        for connection in list(self.connections):
            if connection.idle:
                connection.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        silent = [task for task, of in self._tasks.items() if not of.answering]
        if silent and patience > timeout:
            await asyncio.wait(silent, timeout=patience - timeout)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
