"""A transport for connections of this machine: accepted, told of and read in one turn of the loop.

asyncio's own takes four turns, a task and a future from a connection to its first request; each
turn asks epoll. A client that connects for one request waits for all of it, and has sent that
request before it is accepted. Otherwise this is what asyncio's is to its protocol (asyncio
documentation, "Transports and Protocols"): flow control both ways, half-closes, an end that is told
once and never from within the protocol's own call.
"""

from __future__ import annotations

import asyncio
import socket
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LocalListener", "LocalTransport"]

_READ = 64 * 1024
_HIGH = 64 * 1024
_FULL = {EMFILE, ENFILE, ENOBUFS, ENOMEM}
_PATIENCE = 1.0
"""Seconds until the next try, when this process or the machine can hold no more connections."""


class LocalListener:
    """Accepts connections of a listening Unix socket, which is its own, until ``close``.

    ``report`` hears when there can be no more of them for a moment.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        report: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._factory = factory
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._begin()

    def _begin(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        # One: mostly no other has come, and who has is reported again.
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client has gone again
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._report(error)
            self._loop.remove_reader(self._sock.fileno())
            self._timer = self._loop.call_later(_PATIENCE, self._begin)
            return
        LocalTransport(self._loop, sock, self._factory()).begin()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


class LocalTransport(asyncio.Transport):
    """One connection; ``begin`` makes it its protocol's. The socket is its own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol
    ) -> None:
        super().__init__({"socket": sock})
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._unsent = bytearray()
        self._high, self._low = _HIGH, _HIGH // 4
        self._watched = False  # by the loop, for what there is to read
        self._waiting = False  # for room to write to
        self._paused = False
        self._ended = False  # the client has said all
        self._said = False  # we have
        self._slow = False  # the protocol was told to wait
        self._closing = False
        self._lost = False  # nothing can be sent any more
        self._over = False  # the protocol knows

    def begin(self) -> None:
        """Tell the protocol of the connection, and of what has come already."""
        self._protocol.connection_made(self)
        if not self._paused and not self._closing:
            self._read()

    # -- in ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            self._watch()
            return
        except OSError as error:
            self._fail(error)
            return
        try:
            if data:
                self._protocol.data_received(data)
            else:
                self._ended = True
                if not self._protocol.eof_received():
                    self.close()
        except BaseException:
            self.abort()  # A bug, which the loop reports: nobody else is to wait for it.
            raise
        self._watch()

    def _watch(self) -> None:
        """Have the loop read when there is something, as long as it is wanted."""
        wanted = not (self._paused or self._ended or self._closing)
        if wanted != self._watched:
            self._watched = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._read)
            else:
                self._loop.remove_reader(self._fd)

    def pause_reading(self) -> None:
        self._paused = True
        self._watch()

    def resume_reading(self) -> None:
        self._paused = False
        self._watch()

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    # -- out ---------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._said or not data:
            return
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._unsent += data
        self._wait()
        self._slow_down()

    def _wait(self) -> None:
        """Have the loop send what is unsent when there is room."""
        wanted = bool(self._unsent)
        if wanted != self._waiting:
            self._waiting = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        del self._unsent[:sent]
        if self._slow and len(self._unsent) <= self._low:
            self._slow = False
            self._protocol.resume_writing()
        self._wait()
        if self._unsent or self._lost:
            return
        if self._closing:
            self._end(None)
        elif self._said:
            self._shut()

    def _slow_down(self) -> None:
        if len(self._unsent) > self._high and not self._slow:
            self._slow = True
            self._protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        self._slow_down()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._said:
            self._said = True
            if not self._unsent:
                self._shut()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    # -- ends --------------------------------------------------------------------------------------

    def close(self) -> None:
        """When all is sent."""
        if not self._closing:
            self._closing = True
            self._watch()
            if not self._unsent:
                self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        self._fail(None)

    def _fail(self, error: OSError | None) -> None:
        """Now, whatever is unsent."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._unsent.clear()
        self._wait()
        self._watch()
        self._loop.call_soon(self._end, error)

    def _end(self, error: OSError | None) -> None:
        if not self._over:
            self._over = self._lost = True
            try:
                self._protocol.connection_lost(error)
            finally:
                self._sock.close()

    def is_closing(self) -> bool:
        return self._closing

    # -- who is at its end -------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``; a Unix socket's peer has no name."""
        return self._sock if name == "socket" and not self._over else default
