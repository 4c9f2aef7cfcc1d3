"""A number of things at once, first come first served; the number may change (SIGHUP)."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Slots"]


class Slots:
    def __init__(self) -> None:
        self._taken = 0
        self._limit = 1
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self, limit: int) -> AsyncIterator[None]:
        """Wait for a slot, and keep it inside; ``limit`` is how many there are now."""
        self._limit = max(limit, 1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_out()
        try:
            await turn
            yield
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._taken -= 1
            self._hand_out()

    def _hand_out(self) -> None:
        """A slot is taken in the name of who waits, so that nobody comes between."""
        while self._waiting and self._taken < self._limit:
            turn = self._waiting.popleft()
            self._taken += 1
            if not turn.done():
                turn.set_result(None)
