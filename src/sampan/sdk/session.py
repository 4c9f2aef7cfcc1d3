"""Sessions, and the processes started in them: the objects a program holds, in both forms.

    Session, Process               return when it is done
    AsyncSession, AsyncProcess     are awaited

What they do is written once (``sampan.sdk.steps``). The *default* session is the one of
``sampan.run`` and ``sampan.start``: begun when it is first needed, ended with the program.
"""

from __future__ import annotations

import atexit
import os
import signal as signals
import threading
import weakref
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from sampan.errors import Unavailable
from sampan.sdk import execution
from sampan.sdk.apart import apart
from sampan.sdk.home import DEFAULT_DATA_ROOT, Home
from sampan.sdk.options import Request, RunOptions, StartOptions, read_options
from sampan.sdk.result import Chunk, Result, Usage
from sampan.sdk.steps import (
    AsyncHeld,
    AsyncSource,
    Awaiting,
    Held,
    Source,
    Steps,
    operation,
    work,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from sampan.sdk.execution import Execution

__all__ = ["AsyncProcess", "AsyncSession", "Process", "Session", "default_session"]

Command = Iterable[str | os.PathLike[str]]


class _Lines:
    """Cuts chunks into lines, each stream's apart; the last of one may have no end."""

    def __init__(self) -> None:
        self._rest: dict[str, bytes] = {}

    def feed(self, chunk: Chunk) -> list[Chunk]:
        *lines, rest = (self._rest.get(chunk.stream, b"") + chunk.data).split(b"\n")
        self._rest[chunk.stream] = rest
        return [Chunk(chunk.stream, line + b"\n") for line in lines]

    def end(self) -> list[Chunk]:
        return [Chunk(stream, rest) for stream, rest in self._rest.items() if rest]


class _Process:
    """A running container: its output is an iteration, ``wait`` gives its result.

    One thread or task at a time may wait here; ``kill`` may be called by any.
    """

    __slots__ = ("_execution",)

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def id(self) -> str:
        """Its name: also its host name, unless another was given."""
        return self._execution.id

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Send a signal to its first process; SIGKILL ends all of it. No error if it has ended."""
        self._execution.kill(signal)

    def close_stdin(self) -> None:
        """No more input: it reads the end of file."""
        self._execution.close_stdin()

    @operation
    def read(self) -> Steps[Chunk | None]:
        """The next piece of output; None when there will be none."""
        return self._execution.chunk()

    @operation
    def write(self, data: bytes) -> Steps[None]:
        """Give bytes to its standard input (``stdin=True``), and wait until it has taken them."""
        return self._execution.write(data)

    @operation
    def usage(self) -> Steps[Usage]:
        """What it has used until now. Raises Conflict when it has ended."""
        return self._execution.usage()

    @operation
    def wait(self) -> Steps[Result]:
        """Wait for its end; its result, with the output that was not read before."""
        return self._execution.finish()

    @operation
    def close(self) -> Steps[None]:
        """Kill it if it runs; nothing of it is left."""
        return self._execution.destroy()


class Process(_Process, Source):
    """A running container, and its output as an iteration of chunks."""

    __slots__ = ()

    def lines(self) -> Iterator[Chunk]:
        """Its output in lines, each with its end."""
        lines = _Lines()
        for chunk in self:
            yield from lines.feed(chunk)
        yield from lines.end()


class AsyncProcess(_Process, AsyncSource):
    """A running container, and its output as an asynchronous iteration of chunks."""

    __slots__ = ()

    async def lines(self) -> AsyncIterator[Chunk]:
        """Its output in lines, each with its end."""
        lines = _Lines()
        async for chunk in self:
            for line in lines.feed(chunk):
                yield line
        for line in lines.end():
            yield line


class Starting:
    """A process that is being started: to be awaited, or entered with ``async with``."""

    __slots__ = ("_process", "_steps")

    def __init__(self, steps: Steps[Execution]) -> None:
        self._steps = steps
        self._process: AsyncProcess | None = None

    def __await__(self) -> Generator[Any, None, AsyncProcess]:
        return self._start().__await__()

    async def _start(self) -> AsyncProcess:
        return AsyncProcess(await Awaiting._take(self._steps))

    async def __aenter__(self) -> AsyncProcess:
        self._process = await self._start()
        return self._process

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            await self._process.close()


class _Owner:
    """Opens a home when it is first needed, and closes it once."""

    def __init__(self, data_root: str | None, scratch: str | None = None) -> None:
        self._data_root = data_root
        self._scratch = scratch
        self._lock = threading.Lock()
        self._home: Home | None = None
        self._closed = False
        self.pid = os.getpid()
        _owners.add(self)

    def home(self) -> Home:
        with self._lock:
            if self._closed:
                raise Unavailable("this session is closed")
            if self._home is None:
                root = self._data_root or os.environ.get("SAMPAN_DATA_ROOT") or DEFAULT_DATA_ROOT
                self._home = Home(root, self._scratch or os.environ.get("SAMPAN_SCRATCH"))
            return self._home

    def close(self) -> None:
        with self._lock:
            self._closed = True
            home, self._home = self._home, None
        if home is not None:
            home.close()

    def forget(self) -> None:
        """In a fork: what this holds is the parent's."""
        self._lock = threading.Lock()
        if self._home is not None:
            self._home.forget()


class _Session:
    """What a program holds to run containers: docs/sdk.md, "Sessions". For any thread or task."""

    __slots__ = ("_owner",)

    def __init__(
        self,
        data_root: str | os.PathLike[str] | None = None,
        *,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        """``data_root``: where images are; else SAMPAN_DATA_ROOT, /var/lib/sampan. ``scratch``:
        where containers write, on a tmpfs for instance; else SAMPAN_SCRATCH, the data root."""
        self._owner = _Owner(
            None if data_root is None else os.fspath(data_root),
            None if scratch is None else os.fspath(scratch),
        )

    @operation
    def open(self) -> Steps[None]:
        """Begin it now, which takes a tenth of a second, instead of when it is first used.

        Raises PermissionDenied, InvalidArgument, KernelError.
        """
        yield from work(self._owner.home)

    @operation
    def close(self) -> Steps[None]:
        """Kill all its containers; nothing of it is left."""
        yield from work(self._owner.close)

    @operation
    def run(
        self, image: str, command: Command = (), **options: Unpack[RunOptions]
    ) -> Steps[Result]:
        """Run a command in a new container, and wait for its end."""
        return self._run(read_options(image, command, options))

    def _run(self, request: Request) -> Steps[Result]:
        home = yield from work(self._owner.home)
        return (yield from execution.run(home, request))

    def _start(self, request: Request) -> Steps[Execution]:
        home = yield from work(self._owner.home)
        return (yield from execution.start(home, request))


class Session(_Session, Held):
    __doc__ = _Session.__doc__
    __slots__ = ()

    def start(self, image: str, command: Command = (), **options: Unpack[StartOptions]) -> Process:
        """Start a command in a new container: use it in a ``with`` statement."""
        return Process(self._take(self._start(read_options(image, command, options))))

    def __enter__(self) -> Self:
        self.open()
        return self


class AsyncSession(_Session, AsyncHeld):
    __doc__ = _Session.__doc__
    __slots__ = ()

    def start(self, image: str, command: Command = (), **options: Unpack[StartOptions]) -> Starting:
        """Start a command in a new container: await it, or use it with ``async with``."""
        return Starting(self._start(read_options(image, command, options)))

    async def __aenter__(self) -> Self:
        await self.open()
        return self


S = TypeVar("S", bound=_Session)

_owners: weakref.WeakSet[_Owner] = weakref.WeakSet()
_default_lock = threading.Lock()
_default: list[_Owner] = []


def default_session() -> Session:
    """The session of ``sampan.run`` and ``sampan.start``."""
    return _with_default(Session.__new__(Session))


def default_async_session() -> AsyncSession:
    """The same session, for ``sampan.aio``."""
    return _with_default(AsyncSession.__new__(AsyncSession))


def _with_default(session: S) -> S:
    with _default_lock:
        if not _default:
            _default.append(_Owner(None))
        session._owner = _default[0]
        return session


def _after_fork() -> None:
    global _default_lock  # noqa: PLW0603 - another thread may have held it
    _default_lock = threading.Lock()
    for owner in list(_owners):
        owner.forget()
    _default.clear()


def _at_exit() -> None:
    for owner in list(_owners):
        if owner.pid == os.getpid():
            _, error, interrupt = apart(owner.close)
            error = error or interrupt
            if error is not None:
                raise error


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
