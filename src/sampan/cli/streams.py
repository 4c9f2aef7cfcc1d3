"""The raw stream of attach, exec and logs: frames apart, and both directions pumped at once.

Without a terminal the daemon sends frames of an 8-byte header (stream, three zeroes, length as
32-bit big-endian) and data; with one, bytes as they are (Docker Engine API, "attach").
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.http import Response

__all__ = ["DetachKeys", "Frames", "copy_frames", "pump"]

_CHUNK = 1 << 16
_DEFAULT_KEYS = "ctrl-p,ctrl-q"


class Frames:
    """Takes bytes as they come, writes each frame's data to its stream's descriptor."""

    def __init__(self, raw: bool) -> None:
        self.raw = raw
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Write what is complete, keep the rest."""
        if self.raw:
            _write(1, data)
            return
        data = self._buffer + data
        position = 0
        while len(data) - position >= 8:
            length = int.from_bytes(data[position + 4 : position + 8], "big")
            if len(data) - position - 8 < length:
                break
            start = position + 8
            _write(2 if data[position] == 2 else 1, data[start : start + length])
            position = start + length
        self._buffer = data[position:]


class DetachKeys:
    """Sees the keys that leave a terminal go by; the monitor, who gets them too, acts on them.

    The client must know, because an ended stream alone does not tell a detached container from
    one that has ended.
    """

    def __init__(self, keys: str) -> None:
        self._sequence = b"".join(map(_key, (keys or _DEFAULT_KEYS).split(",")))
        self._matched = 0
        self.pressed = False

    def feed(self, data: bytes) -> None:
        """Look at what is being sent."""
        for byte in data:
            if byte != self._sequence[self._matched]:
                self._matched = 0
            if byte == self._sequence[self._matched]:
                self._matched += 1
            if self._matched == len(self._sequence):
                self.pressed = True
                self._matched = 0


def _key(name: str) -> bytes:
    name = name.strip()
    if len(name) == 1:
        return name.encode()
    letter = name.removeprefix("ctrl-").upper()
    if name.startswith("ctrl-") and len(letter) == 1 and "@" <= letter <= "_":
        return bytes([ord(letter) - 64])
    raise InvalidArgument(
        f"--detach-keys: {name}: expected a character or ctrl-<a-z, @, [, ], ^, _>"
    )


def copy_frames(source: Response, raw: bool) -> None:
    """Copy a response's body to standard output and error until it ends."""
    frames = Frames(raw)
    while data := source.read1(_CHUNK):
        frames.feed(data)


def pump(
    sock: socket.socket, *, stdin: bool, raw: bool, detach_keys: DetachKeys | None = None
) -> None:
    """Copy standard input to the socket and its frames to standard output, until it ends.

    The end of standard input closes only our half: what the container still says arrives.
    """
    sock.setblocking(False)
    frames = Frames(raw)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    pending = b""
    if stdin:
        poller.register(0, select.POLLIN)
    while True:
        for descriptor, events in poller.poll():
            if descriptor == sock.fileno():
                if events & select.POLLOUT and pending:
                    pending = pending[_send(sock, pending) :]
                    if not pending:
                        poller.modify(sock, select.POLLIN)
                        poller.register(0, select.POLLIN)
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    data = _receive(sock)
                    if data == b"":
                        return
                    if data:
                        frames.feed(data)
            else:
                data = os.read(0, _CHUNK)
                if not data:
                    poller.unregister(0)
                    _half_close(sock)
                    continue
                if detach_keys is not None:
                    detach_keys.feed(data)
                pending = data[_send(sock, data) :]
                if pending:
                    # The container reads slower than we do: wait for it, not for the keyboard.
                    poller.unregister(0)
                    poller.modify(sock, select.POLLIN | select.POLLOUT)


def _receive(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(_CHUNK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def _send(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
    except (BrokenPipeError, ConnectionResetError):
        return len(data)  # the container is gone; its last words are still to be read


def _half_close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # closed by the other side already


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        # Who reads our output is gone (`sampan logs … | head`): end as other filters do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
