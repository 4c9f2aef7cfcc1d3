"""``sampan`` for programs with asyncio: the same functions, to be awaited (docs/sdk.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from sampan.sdk.session import (
    AsyncProcess,
    AsyncSession,
    Command,
    Starting,
    default_async_session,
)

if TYPE_CHECKING:
    from sampan.sdk.options import RunOptions, StartOptions
    from sampan.sdk.remote.engine import AsyncEngine
    from sampan.sdk.result import Result

__all__ = ["AsyncProcess", "AsyncSession", "Process", "Session", "connect", "run", "start"]

Process = AsyncProcess
Session = AsyncSession


async def run(image: str, command: Command = (), **options: Unpack[RunOptions]) -> Result:
    """Run a command in a new container, and wait for its end: ``sampan.run``.

    When it is cancelled the container is killed, and gone before the cancellation passes.
    """
    return await default_async_session().run(image, command, **options)


def start(image: str, command: Command = (), **options: Unpack[StartOptions]) -> Starting:
    """Start a command in a new container: await it, or use it with ``async with``.

    async with sampan.aio.start("host", ["make", "test"]) as process:
        async for line in process.lines():
            print(line.text, end="")
    """
    return default_async_session().start(image, command, **options)


def connect(host: str | None = None, *, start: bool = True) -> AsyncEngine:
    """A daemon, for containers that outlive this program: ``sampan.connect``."""
    from sampan.sdk.remote.engine import AsyncEngine

    return AsyncEngine(host, start=start)
