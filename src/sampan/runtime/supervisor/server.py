"""The monitor's side of its connections: one socket to listen on, and the daemons connected.

The first connection comes with the spawn request; a daemon that was started again connects to
``monitor.sock`` in the container's run directory. All are equal: each may ask, and each is told
every event. A daemon that does not read is not waited for: messages are queued for it, and at
``QUEUE_LIMIT`` it is dropped and may connect anew.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument, KernelError
from sampan.runtime.supervisor import protocol
from sampan.runtime.supervisor.files import remove
from sampan.runtime.supervisor.loop import ERROR, HANGUP, READ, WRITE
from sampan.runtime.supervisor.messages import error_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.runtime.supervisor.loop import Loop

    Handler = Callable[["Connection", dict[str, Any], list[int]], None]

__all__ = ["SOCKET_NAME", "Connection", "Server", "listen", "peer_credentials"]

SOCKET_NAME = "monitor.sock"
QUEUE_LIMIT = 1024
_BACKLOG = 8
_CREDENTIALS = struct.Struct("iII")


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who connected, or listens, at the other end (SO_PEERCRED, unix(7))."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid


def listen(directory: int) -> socket.socket:
    """Listen at ``SOCKET_NAME`` in the directory of descriptor ``directory``, mode 0600.

    A socket of that name left by a monitor that died is replaced.
    """
    # The path through the descriptor keeps within the 108 bytes an address may have.
    path = f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    remove(SOCKET_NAME, directory)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise KernelError("bind", error.errno or 0, SOCKET_NAME) from error
    finally:
        os.umask(mask)
    return listener


class Connection:
    """One daemon's end; ``send`` never blocks."""

    __slots__ = ("_handler", "_loop", "_on_close", "_queue", "_socket")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        handler: Handler,
        on_close: Callable[[Connection], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._handler = handler
        self._on_close = on_close
        self._queue: deque[Mapping[str, object]] = deque()
        loop.watch(sock.fileno(), READ, self._ready)

    @property
    def pending(self) -> bool:
        """Whether messages wait for the daemon to read."""
        return bool(self._queue)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Mapping[str, object]) -> None:
        """Send now, or when the daemon has read what came before."""
        if self._socket.fileno() < 0:
            return
        self._queue.append(message)
        if len(self._queue) == 1:
            self._flush()
        elif len(self._queue) > QUEUE_LIMIT:
            self.close()

    def close(self) -> None:
        """Close; harmless when it is closed."""
        fd = self._socket.fileno()
        if fd >= 0:
            self._queue.clear()
            self._loop.forget(fd)
            self._socket.close()
            self._on_close(self)

    def _flush(self) -> None:
        try:
            while self._queue:
                protocol.send(self._socket, self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            self._loop.change(self._socket.fileno(), READ | WRITE)
            return
        except OSError:
            self.close()
            return
        self._loop.change(self._socket.fileno(), READ)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HANGUP | ERROR) and self._socket.fileno() >= 0:
            self.serve()

    def serve(self) -> bool:
        """Receive and handle one message; False when there is none now."""
        try:
            received = protocol.receive(self._socket)
        except BlockingIOError:
            return False
        except InvalidArgument as error:
            self.send({"reply": None, "error": error_fields(error)})
            return True
        except OSError:
            received = None
        if received is None:
            self.close()
            return False
        self._handler(self, *received)
        return self._socket.fileno() >= 0


class Server:
    """Accepts daemons, and tells all of them what happens."""

    __slots__ = ("_connections", "_directory", "_handler", "_listener", "_loop", "_on_gone")

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        directory: int,
        handler: Handler,
        on_gone: Callable[[], None],
    ) -> None:
        """Serve who connects to ``listener``, which is a socket of ``listen`` in ``directory``.

        ``on_gone`` is called when a daemon's connection has ended.
        """
        self._loop = loop
        self._on_gone = on_gone
        self._handler = handler
        self._directory = directory
        self._connections: list[Connection] = []
        self._listener = listener
        loop.watch(listener.fileno(), READ, self._accept)

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection, and own its socket."""
        connection = Connection(self._loop, sock, self._handler, self._closed)
        self._connections.append(connection)

    def _closed(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._on_gone()

    def broadcast(self, event: Mapping[str, object]) -> None:
        """Tell every daemon."""
        for connection in list(self._connections):
            connection.send(event)

    @property
    def pending(self) -> bool:
        """Whether any daemon has not yet read what was sent to it."""
        return any(connection.pending for connection in self._connections)

    @property
    def connections(self) -> list[int]:
        """The daemons' descriptors."""
        return [connection.fileno() for connection in self._connections]

    @property
    def deserted(self) -> bool:
        """Whether nobody is connected."""
        return not self._connections

    def close_listener(self) -> None:
        """Accept nobody any more, and remove the socket's name."""
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        remove(SOCKET_NAME, self._directory)

    def close(self) -> None:
        """Answer what was asked already, and close every connection."""
        for connection in list(self._connections):
            while connection.serve():
                pass
            connection.close()

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # Whoever it was is gone again, or no descriptor is left: it may try again.
        if peer_credentials(sock)[1] not in (0, os.geteuid()):
            sock.close()
            return
        self.adopt(sock)
