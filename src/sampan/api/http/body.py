"""A request's body on its way from the connection to the handler.

What has come and was not read yet is bounded: above the high mark the connection stops reading
its socket, and the client has to wait. The first wait for a body that the client holds back
(``Expect: 100-continue``) asks for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.api.http.messages import HttpError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Body"]

_HIGH = 512 * 1024


class Body:
    """``flow`` is called when the body begins to have room again or has too little; ``ask`` before
    the first wait.
    """

    __slots__ = ("_ask", "_error", "_flow", "_parts", "_size", "_waiter", "ended", "full")

    def __init__(self, flow: Callable[[], None], ask: Callable[[], None]) -> None:
        self._flow = flow
        self._ask = ask
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: HttpError | ConnectionError | None = None
        self.ended = False
        self.full = False

    # -- the connection's side -------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self.full = self.full or self._size >= _HIGH
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: HttpError | ConnectionError) -> None:
        """Whoever reads gets ``error``, unless the body has ended."""
        if not self.ended and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the handler's side ------------------------------------------------------------------------

    async def next(self) -> bytes:
        """What has come, at least a byte; empty at the end.

        Raises HttpError when the body is malformed, ConnectionError when the client is gone.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            self._ask()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self.full:
            self.full = False
            self._flow()
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.next():
            yield data

    async def read(self, limit: int) -> bytes:
        """All of it. Raises HttpError (413) when it is more than ``limit`` bytes."""
        parts = []
        size = 0
        while data := await self.next():
            size += len(data)
            if size > limit:
                raise _too_large(limit)
            parts.append(data)
        return b"".join(parts)

    def whole(self, limit: int) -> bytes | None:
        """All of it, if it has ended already. Raises HttpError (413)."""
        if not self.ended:
            return None
        if self._size > limit:
            raise _too_large(limit)
        data = b"".join(self._parts)
        self.drop()
        return data

    def drop(self) -> None:
        """Forget what has come: nobody will read it."""
        self._parts.clear()
        self._size = 0
        self.full = False


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"the request's body is larger than {limit} bytes")
