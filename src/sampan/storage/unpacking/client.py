"""The asker's side: ``Unpackers.apply`` is ``apply_layer``, done by a process of its own.

It blocks, so each call has a thread of its own. However a call ends, its child has ended before:
whoever gave the directory may remove it. The server is started by the first call and ends when
there was none for half a minute.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from sampan.errors import KernelError, Unavailable, by_name
from sampan.kernel.processes import pidfd_open
from sampan.storage.growing import Growing
from sampan.storage.unpacking import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.storage.archive.apply import Applied, WhiteoutStyle

__all__ = ["Unpackers"]

IDLE_SECONDS = 30.0
_SOCKET_FD = 3
_SAFE_FD = 16


class _Server:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, _SAFE_FD)
        theirs.close()
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-B", "-m", "sampan.storage.unpacking", str(_SOCKET_FD)],
                {**os.environ, "MALLOC_ARENA_MAX": "2"},
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, given, _SOCKET_FD),
                ),
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as error:
            ours.close()
            raise KernelError("posix_spawn", error.errno or 0, sys.executable) from error
        finally:
            os.close(given)
        self._socket = ours
        self._pidfd = pidfd_open(pid)

    def begin(self) -> tuple[socket.socket, int]:
        """A child: the socket to tell it what, and a pipe that ends with it. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, held = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._socket, [b"job"], [theirs.fileno(), held])
        except OSError:
            ours.close()
            os.close(alive)
            raise
        finally:
            theirs.close()
            os.close(held)
        return ours, alive

    def close(self) -> None:
        self._socket.close()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)


class Unpackers:
    """Any number of threads may call ``apply``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._busy = 0
        self._idle: threading.Timer | None = None

    def apply(
        self,
        source: int | Growing,
        target: int,
        *,
        style: WhiteoutStyle,
        diff_id: str | None = None,
        lower: Sequence[int] = (),
        require_end: bool = True,
        relative_names: bool = False,
        loose: bool = False,
    ) -> Applied:
        """As ``apply_layer``; ``source`` is a file that is there, or one that still grows.

        Raises what ``apply_layer`` raises, Unavailable when the child died.
        """
        growing = source if isinstance(source, Growing) else None
        if growing is not None:
            available, final, fd = growing.wait(0)
        else:
            assert isinstance(source, int)
            available, final, fd = os.fstat(source).st_size, True, source
        job = messages.Job(style, diff_id, require_end, relative_names, loose, available, final)
        sock, alive = self._begin()
        try:
            with sock:
                _send(sock, job, [fd, target, *lower[: messages.FDS - 2]])
                for start in range(messages.FDS - 2, len(lower), messages.FDS):
                    _send(sock, messages.Lower(), lower[start : start + messages.FDS])
                _send(sock, messages.Go())
                return _result(sock, growing)
        finally:
            os.read(alive, 1)  # nothing is ever written: it returns when the child has ended
            os.close(alive)
            self._end()

    def _begin(self) -> tuple[socket.socket, int]:
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            if self._server is None:
                self._server = _Server()
            try:
                begun = self._server.begin()
            except OSError:
                # It died (of a full machine, most likely); the next one may do better.
                self._server.close()
                self._server = _Server()
                begun = self._server.begin()
            self._busy += 1
            return begun

    def _end(self) -> None:
        with self._lock:
            self._busy -= 1
            if not self._busy and self._server is not None:
                self._idle = threading.Timer(IDLE_SECONDS, self._expire)
                self._idle.daemon = True
                self._idle.start()

    def _expire(self) -> None:
        with self._lock:
            server = None
            if not self._busy and self._idle is not None:
                server, self._server, self._idle = self._server, None, None
        if server is not None:
            server.close()

    def close(self) -> None:
        """End the server; calls under way end with it."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            server, self._server = self._server, None
        if server is not None:
            server.close()


def _send(
    sock: socket.socket,
    order: messages.Job | messages.Lower | messages.Go | messages.Available,
    fds: Sequence[int] = (),
) -> None:
    try:
        socket.send_fds(sock, [messages.encode(order)], list(fds))
    except OSError as error:
        raise _died() from error


def _died() -> Unavailable:
    return Unavailable("the process that unpacked a layer ended before it; see the daemon's log")


def _result(sock: socket.socket, growing: Growing | None) -> Applied:
    while True:
        try:
            data = sock.recv(messages.LIMIT)
        except ConnectionResetError:
            # It ended without having read our last word; its own last word is still to be read.
            continue
        if not data:
            raise _died()
        answer = messages.decode_answer(data)
        match answer:
            case messages.Done():
                return answer.applied
            case messages.Failed():
                raise by_name(answer.kind, answer.message)
            case messages.Position():
                if growing is not None:
                    growing.position = answer.position
            case messages.Need():
                assert growing is not None
                growing.position = answer.position
                available, final, _ = growing.wait(answer.position)
                _send(sock, messages.Available(available, final))
