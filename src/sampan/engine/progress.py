"""How far a long operation has come, for one listener who may be slow.

Statements are kept in their order; of an ID's figures only the latest are, so what waits for the
listener is bounded by the operation's parts and not by its length.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

__all__ = ["Progress", "Reporter"]

PERIOD = 0.1
"""Seconds between figures; the clients draw no faster."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One message: a status, of the part ``id`` if it is about one (``total`` 0: not known), or a
    line of text (``stream``).
    """

    status: str = ""
    id: str = ""
    current: int | None = None
    total: int = 0
    part: bool = False
    stream: str = ""
    aux: dict[str, Any] | None = None


class Reporter:
    """The operation says, the listener takes."""

    def __init__(self) -> None:
        self._waiting: list[Progress] = []
        self._figures: dict[str, Progress] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def say(self, status: str, id: str = "", *, part: bool = True) -> None:
        """A statement, about a part of the operation or (no ID, or not ``part``) all of it."""
        if id:
            self._figures.pop(id, None)
        self._put(Progress(status=status, id=id, part=bool(id) and part))

    def advance(self, status: str, id: str, current: int, total: int) -> None:
        """Figures of a part."""
        self._figures[id] = Progress(status=status, id=id, current=current, total=total, part=True)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._due)

    def line(self, text: str) -> None:
        """A line for people to read."""
        self._put(Progress(stream=f"{text}\n"))

    def advance_from_thread(self, status: str, id: str, current: int, total: int) -> None:
        """``advance``, for work that is done on another thread than the event loop's."""
        self._loop.call_soon_threadsafe(self.advance, status, id, current, total)

    def hand_over(self, aux: dict[str, Any]) -> None:
        """Something for programs."""
        self._put(Progress(aux=aux))

    def _put(self, message: Progress) -> None:
        self._waiting.append(message)
        self._news.set()

    def _due(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Figures that wait for their time are to be taken now."""
        if self._figures:
            self._waiting += self._figures.values()
            self._figures.clear()
            self._news.set()

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._news.wait()

    def take(self) -> list[Progress]:
        """What there is."""
        taken, self._waiting = self._waiting, []
        self._news.clear()
        return taken

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
