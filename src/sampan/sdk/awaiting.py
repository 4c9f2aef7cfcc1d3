"""Steps taken in an event loop: the other half of ``sampan.sdk.steps``, and all of it that knows
asyncio."""

from __future__ import annotations

import asyncio
import select
import time
from typing import TYPE_CHECKING, TypeVar

from sampan.sdk.steps import Wait, Work

if TYPE_CHECKING:
    from sampan.sdk.steps import Steps

__all__ = ["take"]

T = TypeVar("T")


async def take(steps: Steps[T]) -> T:
    """Take all steps; what they return. Cancelled, it returns when they have cleaned up.

    Work on a thread cannot be cancelled: what it made is given to the steps first, and the
    cancellation is raised where they wait next.
    """
    value: object = None
    error: BaseException | None = None
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            if cancelled is not None:
                raise cancelled from None
            result: T = end.value
            return result
        except Exception:
            if cancelled is not None:
                raise cancelled from None
            raise
        value = error = None
        try:
            if isinstance(step, Work):
                value, error, late = await _work(step)
                cancelled = cancelled or late
            elif cancelled is None:
                value = await _wait(step)
            else:
                error, cancelled = cancelled, None
        except BaseException as raised:  # noqa: BLE001 - it is raised again, where it belongs
            error = raised


async def _wait(step: Wait) -> dict[int, int]:
    # Ready already, or only to be looked at: no need to tell the loop.
    ready = Wait(step.fds, time.monotonic()).perform()
    if ready or (step.deadline is not None and time.monotonic() >= step.deadline):
        return ready
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    for fd, events in step.fds.items():
        loop.add_reader(fd, wake)
        if events & select.POLLOUT:
            loop.add_writer(fd, wake)
    timer = None
    if step.deadline is not None:
        timer = loop.call_later(max(0.0, step.deadline - time.monotonic()), wake)
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()
        for fd in step.fds:
            loop.remove_reader(fd)
            loop.remove_writer(fd)
    return Wait(step.fds, time.monotonic()).perform()


async def _work(
    step: Work,
) -> tuple[object, BaseException | None, asyncio.CancelledError | None]:
    """(what the call returned, what it raised, the cancellation that came meanwhile)."""
    task = asyncio.ensure_future(asyncio.to_thread(step.call))
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as raised:
            cancelled = raised
    error = task.exception()
    return None if error else task.result(), error, cancelled
