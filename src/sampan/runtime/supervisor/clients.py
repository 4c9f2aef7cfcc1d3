"""One attached client: a stream socket that takes a process's output and may give it input.

The socket is often the client's own HTTP connection, hijacked by the daemon and passed on, so its
open file description is shared: nothing here changes its flags, every call says MSG_DONTWAIT.

A client that ``is_patient`` may take as long as it likes, and the process waits for it: it attached
before the start, or asked for this exec, as in ``docker run … | slowly``. See ``streams`` for those
that came later.

Output is Docker's: with ``multiplex`` each piece has a header of 8 bytes, the stream's number (1 or
2), three zeros and the length, big-endian; without, bytes as they come (a terminal).
"""

from __future__ import annotations

import socket
import stat
import struct
from collections import deque
from os import close, fstat
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.runtime.supervisor.loop import ERROR, HANGUP, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.runtime.supervisor.loop import Loop

__all__ = ["Client", "DetachKeys", "stream_socket"]

_HEADER = struct.Struct(">BxxxI").pack
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_LEFTOVERS = 64 * 1024
_MOST_LEFTOVERS = 256  # so many pieces: 16 MiB
_PIECES = 64  # of pending output in one call; the kernel takes up to 1024


def stream_socket(fd: int) -> socket.socket:
    """Take ownership of ``fd``, which must be a connected TCP or Unix stream socket.

    Raises InvalidArgument, with ``fd`` closed, when it is anything else.
    """
    if not stat.S_ISSOCK(fstat(fd).st_mode):
        close(fd)
        raise InvalidArgument(f"attach: descriptor {fd} is not a socket")
    sock = socket.socket(fileno=fd)
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise InvalidArgument("attach: expected a stream socket")
    if sock.family != socket.AF_UNIX:
        # A peer that vanished without a word must not hold the monitor for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


class DetachKeys:
    """Finds a key sequence in what is typed, also where it is spread over several reads."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: Sequence[int]) -> None:
        """``keys``: bytes 0 to 255; none means that nothing detaches."""
        if any(not 0 <= key <= 255 for key in keys):
            raise InvalidArgument(f"detach_keys {list(keys)}: each must be a byte")
        self._keys = bytes(keys)
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What may go on to the process, and whether the sequence was completed.

        Bytes that may be the beginning of the sequence are held back until the next ones tell.
        """
        keys = self._keys
        if not keys:
            return data, False
        text = self._held + data
        found = text.find(keys)
        if found >= 0:
            self._held = b""
            return text[:found], True
        for length in range(min(len(keys) - 1, len(text)), 0, -1):
            if text.endswith(keys[:length]):
                self._held = text[-length:]
                return text[:-length], False
        self._held = b""
        return text, False


class Client:
    """See the module's text. ``on_input`` is called when there may be input to ``receive``, ``on_
    drained`` when the peer took some of what was pending, ``on_gone`` once when it is closed."""

    __slots__ = (
        "_closing",
        "_fd",
        "_held",
        "_loop",
        "_multiplex",
        "_on_drained",
        "_on_gone",
        "_on_input",
        "_output_held",
        "_pending",
        "_socket",
        "_watched",
        "detach",
        "is_patient",
        "peer_gone",
        "pending_size",
        "sent",
        "streams",
        "wants_input",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        streams: frozenset[int],
        multiplex: bool,
        wants_input: bool,
        detach: DetachKeys,
        is_patient: bool,
        on_input: Callable[[Client], None],
        on_drained: Callable[[], None],
        on_gone: Callable[[Client], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._multiplex = multiplex
        self._pending: deque[bytes | memoryview] = deque()
        self._closing = False
        self._held = False
        self._output_held = False
        self._on_input = on_input
        self._on_drained = on_drained
        self._on_gone = on_gone
        self.streams = streams
        self.wants_input = wants_input
        self.detach = detach
        self.is_patient = is_patient
        self.pending_size = 0
        self.sent = 0
        self.peer_gone = False
        self._watched = READ if wants_input else 0
        loop.watch(self._fd, self._watched, self._ready)

    def send(self, stream: int, data: bytes) -> None:
        """Pass output on: now as far as the socket takes it, the rest when it will."""
        if self._closing or self.peer_gone:
            return
        parts: list[bytes | memoryview] = [data]
        size = len(data)
        if self._multiplex:
            parts.insert(0, _HEADER(stream, size))
            size += 8
        if not self._pending and not self._output_held:
            sent = self._try(parts)
            if sent < 0 or sent == size:
                return
            size -= sent
            if self._multiplex:
                if sent < 8:
                    parts[0] = parts[0][sent:]
                else:
                    parts = [memoryview(data)[sent - 8 :]]
            else:
                parts = [memoryview(data)[sent:]]
        self._pending.extend(parts)
        self.pending_size += size
        self._watch()

    def receive(self, limit: int) -> bytes | None:
        """Input from the peer: ``b""`` at its half-close, ``None`` when there is none now."""
        try:
            return self._socket.recv(limit, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def hold_input(self, held: bool) -> None:
        """Leave input where it is, while the process does not read its own; or take it again."""
        self._held = held
        self._watch()
        if not held and self.wants_input:
            self._on_input(self)

    def hold_output(self) -> None:
        """Keep output back until ``release_output``."""
        self._output_held = True

    @property
    def is_held(self) -> bool:
        """Whether output is kept back."""
        return self._output_held

    def release_output(self) -> None:
        """Send what was kept back, and what comes, as it comes."""
        self._output_held = False
        self._flush()

    def abandon(self) -> None:
        """Leave the connection to its other holders, and what was kept back unsent."""
        if self._socket.fileno() < 0:
            return
        self.wants_input = self._output_held = False
        self._loop.forget(self._fd)
        self._socket.close()
        self._on_gone(self)

    def end_input(self) -> None:
        """No more input is taken from this client."""
        self.wants_input = False
        if self.peer_gone:
            self.close()
        else:
            self._watch()

    def close_when_sent(self) -> None:
        """No more output will come: end the connection when what is pending was taken, and where
        it is kept back, after that."""
        self._closing = True
        self.wants_input = False
        if (self._pending or self._output_held) and not self.peer_gone:
            self._watch()
        else:
            self.close()

    def close(self) -> None:
        """End the connection now, both ways, also for other holders of the same socket."""
        if self._socket.fileno() < 0:
            return
        self.wants_input = self._output_held = False
        self._loop.forget(self._fd)
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The peer is gone.
        # Input left unread would turn the close into a reset, which a peer that still sends takes
        # for an error, and which destroys output that is on its way by TCP. From here on a Unix
        # socket takes no more, so this is what its buffer held.
        for _ in range(_MOST_LEFTOVERS):
            if not self.receive(_LEFTOVERS):
                break
        self._socket.close()
        self._on_gone(self)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._socket.fileno() < 0:
            return
        if events & (HANGUP | ERROR):
            self._lost()
        elif events & READ:
            self._on_input(self)

    def _lost(self) -> None:
        """The peer closed both ways: nobody takes output; input it sent before may remain."""
        self.peer_gone = True
        self._pending.clear()
        self.pending_size = 0
        # A hang-up cannot be masked in epoll, and would be reported without end.
        self._loop.forget(self._fd)
        self._on_drained()
        if not self.wants_input:
            self.close()
        elif not self._held:
            self._on_input(self)

    def _flush(self) -> None:
        if self.peer_gone:
            return
        pieces = min(_PIECES, len(self._pending))
        sent = self._try([self._pending[i] for i in range(pieces)])
        if sent < 0:
            return
        self.pending_size -= sent
        while self._pending and sent >= len(self._pending[0]):
            sent -= len(self._pending.popleft())
        if sent:
            self._pending[0] = memoryview(self._pending[0])[sent:]
        if not self._pending and self._closing:
            self.close()
            return
        self._watch()
        self._on_drained()

    def _try(self, parts: Sequence[bytes | memoryview]) -> int:
        """Bytes sent: 0 when the socket is full, -1 when the peer is gone."""
        if not parts:
            return 0
        try:
            sent = self._socket.sendmsg(parts, [], _FLAGS)
            self.sent += sent
            return sent
        except BlockingIOError:
            return 0
        except OSError:
            self._lost()
            return -1

    def _watch(self) -> None:
        if self.peer_gone:
            return
        reads = self.wants_input and not self._held
        writes = self._pending and not self._output_held
        wanted = (READ if reads else 0) | (WRITE if writes else 0)
        if wanted != self._watched:
            self._watched = wanted
            self._loop.change(self._fd, wanted)
