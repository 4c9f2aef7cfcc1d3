"""Answers whose body is a part of a file: sendfile(2) where the bytes go out as they are.

Through TLS they are read on a thread and written. A client that takes nothing for two minutes is
let go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.api.http.connection import Stream
    from sampan.api.http.messages import Request

__all__ = ["File", "send_file"]

_PIECE = 4 << 20
_READ = 256 * 1024
_STALL_SECONDS = 120.0


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
) -> Stream:
    """Answer with ``count`` bytes of ``file``. Raises ConnectionError when the client is gone, or
    takes nothing, and when the file is shorter.
    """
    connection = request.connection
    stream = connection.begin(request, status, headers, count)
    transport = connection.transport
    if request.method == "HEAD" or not count or transport is None:
        return stream
    direct = file.fileno() >= 0 and transport.get_extra_info("socket") is not None
    loop = asyncio.get_running_loop()
    try:
        while count:
            if direct:
                piece = min(count, _PIECE)
                async with asyncio.timeout(_STALL_SECONDS):
                    sent = await loop.sendfile(transport, _Plain(file), offset, piece)  # type: ignore[arg-type]  # it asks for no more
            else:
                data = await asyncio.to_thread(file.read, offset, min(count, _READ))
                sent = len(data)
                async with asyncio.timeout(_STALL_SECONDS):
                    await stream.write(data)
            if not sent:
                raise ConnectionAbortedError("the file ended before its answer did")
            offset += sent
            count -= sent
    except TimeoutError as error:
        raise ConnectionAbortedError("the client takes nothing") from error
    return stream


class _Plain:
    """A file for asyncio's sendfile, which would move the position of one that has any."""

    def __init__(self, file: File) -> None:
        self._file = file

    def fileno(self) -> int:
        return self._file.fileno()
