"""A container's standard streams, at our ends of its pipes: nothing here waits.

What is still to be written to its standard input; what it has written and nobody has taken yet
(``chunks``); and, from ``keep`` on, what of that is kept for its result, up to a limit.

A descriptor is forgotten before it is closed: an interrupt in between loses it, and the other way
round it would be closed once more, when it is somebody else's.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from sampan.sdk.result import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.sdk.making import Pipes

__all__ = ["Streams"]

_READ_SIZE = 1 << 16
_OUTPUTS = ("stdout", "stderr")
_HUNG = select.POLLHUP | select.POLLERR


class Streams:
    """See the module's text. ``stdin`` is -1 once it is closed; ``outputs`` names those open."""

    def __init__(self, pipes: Pipes, given: bytes, *, more: bool, limit: int) -> None:
        """``given`` is its input, to which ``more`` may follow; ``limit``: bytes kept of each."""
        self.outputs = {fd: name for name, fd in zip(_OUTPUTS, pipes[1:], strict=True) if fd >= 0}
        self.stdin = pipes.stdin
        self.input = memoryview(given)
        self.input_ends = not more
        self.chunks: deque[Chunk] = deque()
        self.queued = 0
        self.kept = {name: bytearray() for name in _OUTPUTS}
        self.sizes = dict.fromkeys(_OUTPUTS, 0)
        self._limit = limit
        self._keeping = False
        if self.input_ends and not self.input:
            self._close_stdin()

    def interests(self, outputs: Iterable[int]) -> dict[int, int]:
        """What to wait for with poll(2): these of its outputs, and what its input can take."""
        fds: dict[int, int] = dict.fromkeys(outputs, select.POLLIN)
        if self.stdin >= 0:
            fds[self.stdin] = select.POLLOUT if self.input else 0
        return fds

    def happened(self, fd: int, events: int) -> bool:
        """Do what can be done at a descriptor; False if it is none of these."""
        if fd == self.stdin:
            self._write(events)
        elif fd in self.outputs:
            self._read(fd)
        else:
            return False
        return True

    def take(self) -> Chunk | None:
        """The oldest piece of output that nobody has had; None: there is none now."""
        if not self.chunks:
            return None
        chunk = self.chunks.popleft()
        self.queued -= len(chunk.data)
        return chunk

    def keep(self) -> None:
        """Keep what was not taken, and what comes, for the result."""
        self._keeping = True
        while self.chunks:
            chunk = self.chunks.popleft()
            self._keep(chunk.stream, chunk.data)

    def end_input(self) -> None:
        """Nothing follows what is still to be written."""
        self.input_ends = True
        if not self.input:
            self._close_stdin()

    def drain(self) -> None:
        """Read what its outputs hold, and close them: its writers are gone."""
        for fd in list(self.outputs):
            while fd in self.outputs and self._read(fd):
                pass
        self.close_outputs()

    def close_outputs(self) -> None:
        for fd in list(self.outputs):
            del self.outputs[fd]
            os.close(fd)

    def close(self) -> None:
        """Close what is open; no error if nothing is."""
        self._close_stdin()
        self.close_outputs()

    def _read(self, fd: int) -> bool:
        """Read once; False when there is nothing now, or for ever."""
        try:
            data = os.read(fd, _READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            del self.outputs[fd]
            os.close(fd)
        elif self._keeping:
            self._keep(self.outputs[fd], data)
        else:
            self.chunks.append(Chunk(self.outputs[fd], data))
            self.queued += len(data)
        return bool(data)

    def _keep(self, name: str, data: bytes) -> None:
        kept = self.kept[name]
        self.sizes[name] += len(data)
        room = self._limit - len(kept)
        if room > 0:
            kept += data[:room]

    def _write(self, events: int) -> None:
        if self.input and not events & _HUNG:
            try:
                self.input = self.input[os.write(self.stdin, self.input) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                events |= _HUNG
        if events & _HUNG or (self.input_ends and not self.input):
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin >= 0:
            fd, self.stdin = self.stdin, -1
            os.close(fd)
