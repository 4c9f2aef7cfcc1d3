"""How often something is tried again, and how long is waited before (docs/registry.md)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from sampan.registry.client.errors import NoConnection, Transient, Unanswered, UnknownHost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["PROGRESS", "Budget", "retry"]

T = TypeVar("T")

PROGRESS = 1 << 20
"""Bytes that make an attempt count as a success, though it broke off."""
_FINAL = (Unanswered, UnknownHost)
_FIRST = 0.5
_LONGEST = 30.0
_LONGEST_ASKED = 60.0


class Budget:
    """Attempts in a row that may fail. ``waiting`` hears how many seconds are waited, and why."""

    def __init__(
        self, attempts: int, waiting: Callable[[float, Transient], None] | None = None
    ) -> None:
        self._attempts = max(attempts, 1)
        self._waiting = waiting
        self._failed = 0

    async def spend(self, error: Transient, brought: int = 0) -> None:
        """After a failed attempt that brought some bytes: wait, or raise ``error`` for good."""
        if brought >= PROGRESS:
            self._failed = 0
        self._failed += 1
        if self._failed >= self._attempts or isinstance(error, _FINAL):
            raise error
        if error.after is not None:
            delay = min(error.after, _LONGEST_ASKED)
        else:
            delay = min(_FIRST * 2 ** (self._failed - 1), _LONGEST)
        if self._waiting is not None:
            self._waiting(delay, error)
        await asyncio.sleep(delay)


async def retry(
    work: Callable[[], Awaitable[T]],
    attempts: int,
    waiting: Callable[[float, Transient], None] | None = None,
    *,
    first: bool = False,
) -> T:
    """Do something whole until it works, or the budget is spent.

    With ``first`` nobody has answered yet: where nobody does, nothing is tried again.
    """
    budget = Budget(attempts, waiting)
    while True:
        try:
            return await work()
        except Transient as error:
            if first and isinstance(error, NoConnection):
                raise
            await budget.spend(error)
