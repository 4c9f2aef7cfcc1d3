"""Threads of their own, for work that may hang in somebody else's file system.

The pool that ``asyncio.to_thread`` takes from is small and everybody's: a container that never
answers (a FUSE mount of its own, a network file system) must not take its threads away. Nobody
waits for these at the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["on_thread"]

T = TypeVar("T")


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
