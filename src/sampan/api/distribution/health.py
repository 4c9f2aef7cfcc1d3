"""``/healthz``: the process answers. ``/readyz``: it may be sent requests, and could store them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sampan.api.http.messages import Response
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.api.distribution.context import Context
    from sampan.api.http.stream import Answer

__all__ = ["alive", "ready"]

_TEXT = "text/plain; charset=utf-8"


async def alive(context: Context) -> Answer:
    return Response(200, b"ok\n", _TEXT)


async def ready(context: Context) -> Answer:
    """A write to the database, since a full disk refuses that and nothing else."""
    if context.draining:
        return Response(503, b"stopping\n", _TEXT)
    try:
        await context.run(context.registry.place.check)
    except (SampanError, sqlite3.Error) as problem:
        return Response(503, f"{problem}\n".encode(), _TEXT)
    return Response(200, b"ready\n", _TEXT)
