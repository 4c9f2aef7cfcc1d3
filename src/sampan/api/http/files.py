"""Answers whose body is a part of a file: sendfile(2) where the bytes go out as they are.

Through TLS they are read on a thread and written. A client that takes nothing for two minutes is
let go.

asyncio's own sendfile registers the socket with epoll, and forgets it, for each call, which costs
as much as the call. Here a duplicate of the socket's descriptor stays registered from the first
byte to the last, and each call offers the kernel much: it takes what the socket's buffer has room
for. A third less processor time a byte (``python -m bench.registry``).

sendfile(2) does not wait for the client, but it waits for the disk, and the loop would wait with
it. So the kernel is asked first what is in memory (``resident``); what is not is sent by one of a
few threads, which is also how it is brought in. A disk that hangs holds those, and the answers that
need it, and nobody else; so does a bucket, whose bytes the same threads read.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from sampan.api.http.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sampan.api.http.messages import Request
    from sampan.api.http.stream import Stream

__all__ = ["File", "send_file", "settle"]

_COLD = 1 << 20
"""Bytes that a thread sends before another answer has its turn."""
_READ = 256 * 1024
_STALL_SECONDS = 120.0
_THREADS = 16
_POOL = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")
_under_way: set[Future[Any]] = set()

P = ParamSpec("P")
T = TypeVar("T")


class File(Protocol):
    """``fileno`` is -1 where there is no descriptor."""

    def fileno(self) -> int: ...
    def read(self, offset: int, count: int) -> bytes: ...


async def send_file(
    request: Request,
    status: int,
    headers: Mapping[str, str],
    file: File,
    *,
    offset: int,
    count: int,
    available: Callable[[int], Awaitable[int]] | None = None,
) -> Stream:
    """Answer with ``count`` bytes of ``file``. Raises ConnectionError when the client is gone, or
    takes nothing, and when the file is shorter.

    Of a file that grows, ``available`` waits until there is something behind an offset and says
    where that ends.
    """
    connection = request.connection
    stream = connection.begin(request, status, headers, count)
    transport = connection.transport
    if request.method == "HEAD" or not count or transport is None:
        return stream
    sock = transport.get_extra_info("socket")
    try:
        if available is None and file.fileno() >= 0 and sock is not None:
            async with asyncio.timeout(_STALL_SECONDS):
                await connection.flush()
            await _Sending(os.dup(sock.fileno()), file.fileno(), offset, count).ended()
            return stream
        while count:
            ready = count if available is None else await available(offset) - offset
            size = min(count, ready, _READ)
            data = await _on_a_thread(file.read, offset, size)
            if not data:
                raise _short()
            async with asyncio.timeout(_STALL_SECONDS):
                await stream.write(data)
            offset += len(data)
            count -= len(data)
    except TimeoutError as error:
        raise _stalled() from error
    return stream


def settle() -> None:
    """Until no thread waits for a disk or a bucket any more, which may be never."""
    wait(list(_under_way))


def _on_a_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    future = _POOL.submit(work, *args, **kwargs)
    _under_way.add(future)
    future.add_done_callback(_under_way.remove)
    return asyncio.wrap_future(future)


def _short() -> ConnectionError:
    return ConnectionAbortedError("the file ended before its answer did")


def _stalled() -> ConnectionError:
    return ConnectionAbortedError("the client takes nothing")


class _Sending:
    """A part of a file on its way into a socket that nobody else writes to meanwhile.

    ``target`` is its own: the transport's descriptor may be closed, and its number used again,
    while this waits.
    """

    def __init__(self, target: int, source: int, offset: int, count: int) -> None:
        self._target = target
        self._source = source
        self._offset = offset
        self._end = offset + count
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._aside: asyncio.Future[int] | None = None
        """What a thread sends at the moment."""
        self._resident = Resident(source, offset, count)

    async def ended(self) -> None:
        """Until the last byte is in the socket. Raises ConnectionError."""
        self._loop.add_writer(self._target, self._send)
        self._watch()
        try:
            await self._done
        finally:
            self._timer.cancel()
            self._loop.remove_writer(self._target)
            os.close(self._target)
            self._resident.close()

    def _send(self) -> None:
        """The socket has room."""
        if self._done.done():
            return
        ready = self._resident.ready(self._offset, self._loop.time())
        if not ready:
            self._send_aside()
            return
        try:
            sent = os.sendfile(self._target, self._source, self._offset, ready)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._done.set_exception(error)
            return
        self._sent(sent)

    def _sent(self, count: int) -> None:
        self._resident.sent(count)
        self._offset += count
        if not count:
            self._done.set_exception(_short())
        elif self._offset == self._end:
            self._done.set_result(None)

    # -- what is not in memory ---------------------------------------------------------------------

    def _send_aside(self) -> None:
        """On a thread, whose descriptors are its own: we may be gone before it is done."""
        self._loop.remove_writer(self._target)
        offset, count = self._offset, min(self._end - self._offset, _COLD)
        owned: list[int] = []
        try:
            for descriptor in (self._target, self._source):
                owned.append(os.dup(descriptor))
        except OSError as error:
            for descriptor in owned:
                os.close(descriptor)
            self._done.set_exception(error)
            return
        self._aside = _on_a_thread(_sendfile, owned, offset, count)
        self._aside.add_done_callback(self._back)

    def _back(self, aside: asyncio.Future[int]) -> None:
        self._aside = None
        error = aside.exception()
        if self._done.done():
            return
        if error is None:
            self._sent(aside.result())
        elif not isinstance(error, (BlockingIOError, InterruptedError)):
            self._done.set_exception(error)
        if not self._done.done():
            self._loop.add_writer(self._target, self._send)

    # -- a client that takes nothing ---------------------------------------------------------------

    def _watch(self) -> None:
        self._timer = self._loop.call_later(_STALL_SECONDS, self._look, self._offset)

    def _look(self, before: int) -> None:
        if self._offset > before or self._aside is not None:
            self._watch()
        elif not self._done.done():
            self._done.set_exception(_stalled())


def _sendfile(owned: list[int], offset: int, count: int) -> int:
    target, source = owned
    try:
        return os.sendfile(target, source, offset, count)
    finally:
        os.close(target)
        os.close(source)
