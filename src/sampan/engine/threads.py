"""Work that may wait for a stranger (a registry, a client's archive): a thread of its own each.

asyncio's own pool has a handful of threads for what ends soon: work that waits for a network would
take them all, and with them everybody else's turn.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(
    work: Callable[[], T], name: str, cancel: Callable[[], None] | None = None
) -> T:
    """The result of blocking work. Cancelled, it calls ``cancel`` and still waits for the thread:
    nobody goes on while it holds what it works on.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # None only where T allows it

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, value, None)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await asyncio.wait((result,))
        if not result.cancelled():
            result.exception()  # seen: the cancellation is what is told
        raise
