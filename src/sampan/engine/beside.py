"""Work that goes on beside other work, for as long as what it waits for is open.

A task that is cancelled has not ended yet: the event loop holds the descriptor it waits on until
the task had its turn. If that is closed before, its number is free, and whoever opens the next one
in the same turn is not watched: the loop believes that it watches that number already.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

__all__ = ["beside"]

T = TypeVar("T")


@asynccontextmanager
async def beside(work: Coroutine[object, object, T]) -> AsyncIterator[asyncio.Task[T]]:
    """``work`` has ended when the block is left, cancelled where it had not by itself."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
