"""What comes as it happens: logs that are followed, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from sampan.sdk.steps import AsyncSource, Source, Steps, operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.sdk.remote.wire import Answer

__all__ = ["AsyncStream", "JsonLines", "Stream"]

T = TypeVar("T")


class _Stream(Generic[T]):
    """Values that come as they happen; closed at the end of a ``with``, or when they end."""

    def __init__(self, opening: Steps[Answer], read: Callable[[bytes], list[T]]) -> None:
        self._opening: Steps[Answer] | None = opening
        self._answer: Answer | None = None
        self._read = read
        self._ready: list[T] = []

    @operation
    def read(self) -> Steps[T | None]:
        """The next value; None when there will be none."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            self._answer = yield from opening
        while not self._ready and self._answer is not None:
            piece = yield from self._answer.piece()
            if piece:
                self._ready += self._read(piece)
            else:
                self._hang_up()
        return self._ready.pop(0) if self._ready else None

    def close(self) -> None:
        """Hang up. No error if it has ended."""
        self._hang_up()
        self._ready.clear()

    def _hang_up(self) -> None:
        answer, self._answer, self._opening = self._answer, None, None
        if answer is not None:
            answer.close()


class Stream(_Stream[T], Source):
    pass


class AsyncStream(_Stream[T], AsyncSource):
    pass


class JsonLines(Generic[T]):
    """Takes a body of JSON values, one a line, as it comes."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._rest = b""

    def feed(self, data: bytes) -> list[T]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [self._decoder.decode(line) for line in lines if line.strip()]
