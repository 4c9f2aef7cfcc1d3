"""Work that waits, written once for programs with asyncio and without.

What has to wait is a generator that yields *what for*, and is sent what came of it: a core without
a loop of its own. ``take`` drives it in the calling thread, ``sampan.sdk.awaiting.take`` in an
event loop. What is raised while it waits (KeyboardInterrupt, a task's cancellation) is raised
inside it, at the ``yield``, and it may wait again to clean up before it lets that pass.

Work is done to its end, whatever is raised meanwhile (``sampan.sdk.apart``): what it made is given
to the generator first, and the interrupt is raised where that waits next, or behind its end.

``operation`` makes a method of such a generator function: one that returns in a ``Blocking``
object, one to be awaited in an ``Awaiting`` one. What has a ``close`` is used in a ``with``
statement of its form (``Held``, ``AsyncHeld``), what has a ``read`` is an iteration (``Source``,
``AsyncSource``).
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from sampan.sdk.apart import apart, is_interruptible

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = [
    "AsyncHeld",
    "AsyncSource",
    "Awaiting",
    "Blocking",
    "Held",
    "Source",
    "Steps",
    "Wait",
    "Work",
    "operation",
    "take",
    "wait",
    "work",
]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")


class Wait:
    """Wait until a descriptor is ready: ``fds`` gives the events of poll(2) wanted of each.

    Sent back: the descriptors that are ready, with their events; none at ``deadline``, a moment of
    ``time.monotonic``.
    """

    __slots__ = ("deadline", "fds")

    def __init__(self, fds: Mapping[int, int], deadline: float | None) -> None:
        self.fds = fds
        self.deadline = deadline

    def perform(self) -> dict[int, int]:
        """Wait in this thread."""
        poll = select.poll()
        for fd, events in self.fds.items():
            poll.register(fd, events)
        if self.deadline is None:
            return dict(poll.poll())
        left = self.deadline - time.monotonic()
        return dict(poll.poll(max(0, math.ceil(left * 1000))))


class Work:
    """Do something that blocks, or must not be left half done: on a thread where it could be."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call


Steps = Generator[Wait | Work, Any, T]


def wait(fds: Mapping[int, int], deadline: float | None = None) -> Steps[dict[int, int]]:
    """The step ``Wait``."""
    ready: dict[int, int] = yield Wait(fds, deadline)
    return ready


def work(call: Callable[[], T]) -> Steps[T]:
    """The step ``Work``; what ``call`` returns or raises."""
    result: T = yield Work(call)
    return result


def take(steps: Steps[T]) -> T:
    """Take all steps in this thread; what they return."""
    value: object = None
    error: BaseException | None = None
    interrupt: BaseException | None = None
    interruptible = is_interruptible()
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            if interrupt is not None:
                raise interrupt from None
            result: T = end.value
            return result
        except Exception:
            if interrupt is not None:
                raise interrupt from None
            raise
        value = error = None
        try:
            if isinstance(step, Work):
                if interruptible:
                    value, error, late = apart(step.call)
                    interrupt = interrupt or late
                else:
                    value = step.call()
            elif interrupt is None:
                value = step.perform()
            else:
                error, interrupt = interrupt, None
        except BaseException as raised:  # noqa: BLE001 - it is raised again, where it belongs
            error = raised


class Blocking:
    """Base of objects whose operations return when they are done."""

    __slots__ = ()

    @staticmethod
    def _take(steps: Steps[T]) -> T:
        return take(steps)


class Awaiting:
    """Base of objects whose operations are awaited."""

    __slots__ = ()

    @staticmethod
    def _take(steps: Steps[T]) -> Coroutine[Any, Any, T]:
        from sampan.sdk import awaiting

        return awaiting.take(steps)


class _Closing(Protocol):
    def close(self) -> object: ...


class _AsyncClosing(Protocol):
    def close(self) -> Coroutine[Any, Any, None] | None: ...


class _Reading(Protocol[T_co]):
    def read(self) -> T_co | None: ...


class _AsyncReading(Protocol[T_co]):
    def read(self) -> Coroutine[Any, Any, T_co | None]: ...


class Held(Blocking):
    """Closed at the end of a ``with``."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self: _Closing,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncHeld(Awaiting):
    """Closed at the end of an ``async with``."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self: _AsyncClosing,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = self.close()
        if ending is not None:
            await ending


class Source(Held):
    """An iteration of what ``read`` gives."""

    __slots__ = ()

    def __iter__(self: _Reading[T]) -> Iterator[T]:
        while (value := self.read()) is not None:
            yield value


class AsyncSource(AsyncHeld):
    """An asynchronous iteration of what ``read`` gives."""

    __slots__ = ()

    async def __aiter__(self: _AsyncReading[T]) -> AsyncIterator[T]:
        while (value := await self.read()) is not None:
            yield value


class operation(Generic[S, P, T]):
    """A method written as steps."""

    def __init__(self, function: Callable[Concatenate[S, P], Steps[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> operation[S, P, T]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        def method(*arguments: P.args, **more: P.kwargs) -> Any:
            return instance._take(self._function(instance, *arguments, **more))

        return method
