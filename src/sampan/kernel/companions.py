"""A program of ours in an interpreter of its own, with a socket to it (posix_spawn(3)).

It gets the socket as descriptor 3, /dev/null as standard input and output, our standard error, no
blocked signal and each signal's own disposition, and nothing else of ours.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel.processes import pidfd_open

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["start_companion"]

_SOCKET_FD = 3
_SAFE_FD = 16


def start_companion(
    module: str, kind: socket.SocketKind, environment: Mapping[str, str], *arguments: str
) -> tuple[socket.socket, int]:
    """Run ``python -m module 3 ARGUMENT…``: our end of a socket of this kind, and its pidfd.

    Raises KernelError.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise KernelError("socketpair", error.errno or 0, module) from error
    try:
        with theirs:
            return ours, _start(module, theirs, environment, arguments)
    except BaseException:
        ours.close()
        raise


def _start(
    module: str,
    theirs: socket.socket,
    environment: Mapping[str, str],
    arguments: tuple[str, ...],
) -> int:
    given = -1
    try:
        # Out of the way of the descriptor that the new process is given.
        given = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, _SAFE_FD)
        pid = os.posix_spawn(
            sys.executable,
            # Not from the working directory (-P): nobody said that it is ours.
            [sys.executable, "-P", "-B", "-m", module, str(_SOCKET_FD), *arguments],
            environment,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, given, _SOCKET_FD),
            ),
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise KernelError("posix_spawn", error.errno or 0, sys.executable) from error
    finally:
        if given >= 0:
            os.close(given)
    try:
        return pidfd_open(pid)
    except KernelError:
        os.kill(pid, signal.SIGKILL)  # nobody has waited for it: it is still that process
        os.waitpid(pid, 0)
        raise
