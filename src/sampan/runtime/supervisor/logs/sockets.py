"""A connection to a log's server, kept without ever blocking: connected again when it is lost.

Sockets are of the kinds that syslog uses: a stream or datagrams, over a Unix socket or the network.
"""

from __future__ import annotations

import errno
import select
import socket
import time

from sampan.runtime.supervisor.loop import WRITE

__all__ = ["Address", "Link", "connect"]

Address = tuple[socket.AddressFamily, socket.SocketKind, str | tuple[str, int]]
"""Family, type, and what connect(2) takes: a path, or a numeric host and a port."""

_AGAIN = 0.5
_PATIENCE = 10.0
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def connect(address: Address) -> socket.socket:
    """Connect, and wait for it. Raises OSError."""
    family, kind, where = address
    sock = socket.socket(family, kind)
    try:
        sock.settimeout(_PATIENCE)
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    sock.settimeout(None)
    return sock


class Link:
    """See the module's text. ``problem`` is why the last attempt to send failed."""

    __slots__ = ("_address", "_connected", "_next", "_socket", "problem")

    def __init__(self, address: Address, sock: socket.socket | None) -> None:
        self._address = address
        self._socket = sock
        self._connected = sock is not None
        self._next = 0.0
        self.problem = ""

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def waits_for(self) -> tuple[int, int] | None:
        """A descriptor that tells when ``send`` may succeed."""
        return (self._socket.fileno(), WRITE) if self._socket is not None else None

    def send(self, data: bytes | memoryview) -> int:
        """Bytes that were taken; 0 when the server takes none now, -1 when it is gone."""
        sock = self._ready()
        if sock is None:
            return -1
        try:
            return sock.send(data, _FLAGS)
        except BlockingIOError:
            self.problem = "its server takes no more"
            return 0
        except OSError as error:
            return self._refused(sock, data, error)

    def _refused(self, sock: socket.socket, data: bytes | memoryview, error: OSError) -> int:
        """A send failed. UDP reports so that an earlier datagram was for nobody."""
        if self._address[0] != socket.AF_UNIX and self._address[1] == socket.SOCK_DGRAM:
            if error.errno == errno.ECONNREFUSED:
                try:
                    sock.send(data, _FLAGS)
                except OSError as again:
                    self.problem = again.strerror or ""
            return len(data)  # What becomes of a datagram nobody knows.
        self.drop(error)
        return -1

    def drop(self, error: OSError | None = None) -> None:
        """Close; the next ``send`` connects anew, but not at once."""
        if error is not None:
            self.problem = error.strerror or str(error)
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._connected = False

    def _ready(self) -> socket.socket | None:
        """The socket, when it is connected."""
        if self._socket is None:
            self._begin()
        if self._socket is not None and not self._connected:
            self._settle(self._socket)
        if self._socket is not None and self._connected and self._hung_up(self._socket):
            self.drop(ConnectionResetError(errno.ECONNRESET, "its server closed the connection"))
            self._begin()
        return self._socket if self._connected else None

    def _begin(self) -> None:
        """Begin to connect, unless that was tried a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _AGAIN
        family, kind, where = self._address
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        try:
            sock.connect(where)
        except BlockingIOError:
            if family == socket.AF_UNIX:  # Its backlog is full; this does not go on by itself.
                sock.close()
                return
            self._socket = sock
        except OSError as error:
            sock.close()
            self.problem = error.strerror or str(error)
        else:
            self._socket, self._connected = sock, True

    def _settle(self, sock: socket.socket) -> None:
        """See whether a connection that was begun is there."""
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        if not poller.poll(0):
            return
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.drop(OSError(number, errno.errorcode.get(number, str(number))))
        else:
            self._connected = True

    def _hung_up(self, sock: socket.socket) -> bool:
        """Whether a server closed its end of a stream: what is sent to it then is lost unseen."""
        if self._address[1] != socket.SOCK_STREAM:
            return False
        try:
            return not sock.recv(1, socket.MSG_PEEK | _FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
