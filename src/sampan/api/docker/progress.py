"""Long operations as the API tells them: JSON messages, one a line, while they go on.

As dockerd does it: an operation that fails before its first message is an error with a status of
its own; one that fails later has 200 already, and says so in the stream (``errorDetail``).
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine.progress import Reporter
from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sampan.api.docker.context import Context
    from sampan.api.http.stream import Answer, Stream
    from sampan.engine.progress import Progress

__all__ = ["follow"]

_encode = msgspec.json.Encoder().encode
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_BAR = 50


async def follow(context: Context, work: Callable[[Reporter], Awaitable[None]]) -> Answer:
    """Run ``work`` and tell what it reports; a client that goes away cancels it."""
    reporter = Reporter()
    task = asyncio.ensure_future(work(reporter))
    lost = context.connection.lost
    stream: Stream | None = None
    try:
        while not task.done() and not lost.done():
            news = asyncio.ensure_future(reporter.wait())
            await asyncio.wait((task, news, lost), return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            stream = await _tell(context, stream, reporter)
    finally:
        reporter.close()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    if task.cancelled():
        raise ConnectionResetError("the client is gone")
    error = task.exception()
    reporter.flush()
    stream = await _tell(context, stream, reporter)
    if error is not None:
        if stream is None or not isinstance(error, SampanError | OSError | sqlite3.Error):
            raise error
        detail = {"errorDetail": {"message": str(error)}, "error": str(error)}
        await stream.write(_encode(detail) + b"\r\n")
    return stream or context.stream()


async def _tell(context: Context, stream: Stream | None, reporter: Reporter) -> Stream | None:
    messages = reporter.take()
    if messages:
        stream = stream or context.stream()
        await stream.write(b"".join(_encode(_drawn(message)) + b"\r\n" for message in messages))
    return stream


def _drawn(message: Progress) -> dict[str, Any]:
    if message.stream:
        return {"stream": message.stream}
    shown: dict[str, Any] = {}
    if message.status:
        shown["status"] = message.status
    if message.part or message.aux is not None:
        shown["progressDetail"] = {}
    if message.current is not None:
        shown["progressDetail"] = {"current": message.current, "total": message.total}
        shown["progress"] = _bar(message.current, message.total)
    if message.id:
        shown["id"] = message.id
    if message.aux is not None:
        shown["aux"] = message.aux
    return shown


def _bar(current: int, total: int) -> str:
    """``[=====>     ]  1.2MB/3.4MB``: for clients that print what they are given."""
    if total <= 0:
        return f"{_size(current):>8}"
    done = min(current * _BAR // total, _BAR)
    return f"[{'=' * done}>{' ' * (_BAR - done)}] {_size(current):>8}/{_size(total)}"


def _size(count: int) -> str:
    """Four digits and a unit of a thousand."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.4g}{_UNITS[unit]}"
