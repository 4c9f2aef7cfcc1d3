"""The asker's side: ``Unpackers.apply`` is ``apply_layer``, done by a process of its own.

It blocks, so each call has a thread of its own. However a call ends, its child has ended before:
whoever gave the directory may remove it. The server is started by the first call and ends when
there was none for some seconds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from errno import ECONNRESET, EPIPE
from typing import TYPE_CHECKING

from sampan.errors import KernelError, SampanError, Unavailable, by_name
from sampan.kernel.companions import start_companion
from sampan.storage.growing import Growing
from sampan.storage.unpacking import messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sampan.storage.archive.applied import Applied, WhiteoutStyle

__all__ = ["Unpackers"]

IDLE_SECONDS = 5.0
_INTERPRETERS = ("PYTHON", "LC_", "LD_")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What an interpreter goes by, and no more: a daemon's proxies have passwords."""
    kept = {name: value for name, value in ours.items() if name.startswith(_INTERPRETERS)}
    kept |= {name: ours[name] for name in ("PATH", "LANG") if name in ours}
    return {**kept, "MALLOC_ARENA_MAX": "2"}


@contextlib.contextmanager
def _told(call: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(call, error.errno or 0, "for an unpacker") from error


class _Server:
    def __init__(self) -> None:
        self._socket, self._pidfd = start_companion(
            "sampan.storage.unpacking", socket.SOCK_SEQPACKET, _environment(os.environ)
        )

    def begin(self) -> tuple[socket.socket, int] | None:
        """A child: the socket to tell it what, and a pipe that ends with it. None: the server is
        dead. Raises KernelError."""
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            with _told("socketpair"):
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.enter_context(ours)
            given.enter_context(theirs)
            with _told("pipe2"):
                alive, held = os.pipe2(os.O_CLOEXEC)
            kept.callback(os.close, alive)
            given.callback(os.close, held)
            try:
                with _told("sendmsg"):
                    socket.send_fds(self._socket, [b"job"], [theirs.fileno(), held])
            except KernelError as error:
                if error.errno in (EPIPE, ECONNRESET):
                    return None
                raise
            kept.pop_all()
            return ours, alive

    def close(self) -> None:
        self._socket.close()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)


class Unpackers:
    """Any number of threads may call ``apply``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
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

        Raises what ``apply_layer`` raises, Unavailable when the child died, and at once what the
        growing one's ``fail`` is told.
        """
        growing: Growing | None = None
        if isinstance(source, Growing):
            growing = source
            available, final, fd = growing.wait(0)
        else:
            available, final, fd = os.fstat(source).st_size, True, source
        job = messages.Job(style, diff_id, require_end, relative_names, loose, available, final)
        sock, alive = self._begin()
        try:
            with sock, _interruptible(sock, growing):
                _send(sock, job, [fd, target, *lower[: messages.FDS - 2]])
                for start in range(messages.FDS - 2, len(lower), messages.FDS):
                    _send(sock, messages.Lower(), lower[start : start + messages.FDS])
                _send(sock, messages.Go())
                return _result(sock, growing)
        except Unavailable:
            if growing is not None and growing.error is not None:
                raise growing.error from None
            raise
        finally:
            os.read(alive, 1)  # nothing is ever written: it returns when the child has ended
            os.close(alive)
            self._end()

    def _begin(self) -> tuple[socket.socket, int]:
        with self._lock:
            if self._closed:
                raise Unavailable("nothing is unpacked any more: the daemon ends")
            begun = None if self._server is None else self._server.begin()
            if begun is None:
                if self._server is not None:
                    # It died (of a full machine, most likely); the next one may do better.
                    self._server.close()
                    self._server = None
                self._server = _Server()
                begun = self._server.begin()
            if begun is None:
                raise _died()
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
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
            self._closed = True
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


@contextlib.contextmanager
def _interruptible(sock: socket.socket, growing: Growing | None) -> Iterator[None]:
    if growing is None:
        yield
        return
    # Shut down, not closed: who waits for an answer sees its end, and the child does.
    with growing.interrupted(lambda: sock.shutdown(socket.SHUT_RDWR)):
        yield


def _result(sock: socket.socket, growing: Growing | None) -> Applied:
    while True:
        match messages.receive(sock):
            case None:
                raise _died()
            case messages.Done() as answer:
                return answer.applied
            case messages.Failed() as answer:
                raise by_name(answer.kind, answer.message)
            case messages.Position() as answer:
                if growing is not None:
                    growing.position = answer.position
            case messages.Need() as answer:
                if growing is None:
                    raise SampanError("the process that unpacked a layer wants more than all of it")
                growing.position = answer.position
                available, final, _ = growing.wait(answer.position)
                _send(sock, messages.Available(available, final))
