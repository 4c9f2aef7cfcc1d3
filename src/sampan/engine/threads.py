"""Threads of their own, for work that may wait for a stranger: a registry, a client's archive, a
file system that never answers (FUSE, a network's).

The pool that ``asyncio.to_thread`` takes from is small and everybody's: such work would take all
its threads, and with them everybody else's turn. Nobody waits for these at the process's end.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread", "on_thread"]

T = TypeVar("T")


async def in_thread(
    work: Callable[[], T], name: str, cancel: Callable[[], None] | None = None
) -> T:
    """The result of blocking work. Cancelled, it calls ``cancel`` and still waits for the thread:
    nobody goes on while it holds what it works on.
    """
    result = on_thread(work, name)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await asyncio.wait((result,))
        if not result.cancelled():
            result.exception()  # seen: the cancellation is what is told
        raise


def on_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run ``work`` on a new thread; its future, which may be given up without ending the work."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # a T when there is no error

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - carried to who waits
            problem = error
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            return  # the loop has ended, and nobody waits

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
