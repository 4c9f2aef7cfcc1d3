"""``/healthz``: the process answers. ``/readyz``: it may be sent requests, and could store them.

A bucket that hangs keeps each look at it waiting for minutes, and whoever watches a server asks
every few seconds: so there is one look at a time, and its answer is for all who wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from sampan.api.http.messages import Response
from sampan.errors import SampanError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sampan.api.distribution.context import Context
    from sampan.api.http.stream import Answer
    from sampan.registry.server.place import Place

__all__ = ["Readiness", "alive", "ready"]

_TEXT = "text/plain; charset=utf-8"


class Readiness:
    """Whether rows and bytes could be stored; looked at on a thread of ``pool``."""

    def __init__(self, place: Place, pool: Executor) -> None:
        self._place = place
        self._pool = pool
        self._look: asyncio.Future[None] | None = None

    async def check(self) -> None:
        """Raises what says why not."""
        if self._look is None:
            self._look = asyncio.get_running_loop().run_in_executor(self._pool, self._place.check)
            self._look.add_done_callback(self._looked)
        await asyncio.shield(self._look)

    def _looked(self, look: asyncio.Future[None]) -> None:
        self._look = None


async def alive(context: Context) -> Answer:
    return Response(200, b"ok\n", _TEXT)


async def ready(context: Context) -> Answer:
    """A write to the database, since a full disk refuses that and nothing else."""
    if context.draining:
        return Response(503, b"stopping\n", _TEXT)
    try:
        await context.readiness.check()
    except (SampanError, sqlite3.Error) as problem:
        return Response(503, f"{problem}\n".encode(), _TEXT)
    return Response(200, b"ready\n", _TEXT)
