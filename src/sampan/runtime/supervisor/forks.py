"""The forks of a monitor in which its makers work (``maker`` says why), and their last words.

A fork dies with its monitor. What went wrong in it is told as an error of ours; the traceback of a
fault of ours goes to standard error, which is the daemon's log.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from sampan.errors import KernelError, SampanError
from sampan.kernel.bare import fork
from sampan.kernel.processes import set_parent_death_signal
from sampan.runtime.supervisor import messages, protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CRASHED", "become_maker", "end", "fork_maker", "in_tree", "lost"]

CRASHED = 70
"""The exit status of a maker that had no last word (sysexits.h, EX_SOFTWARE)."""


def fork_maker(work: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Run ``work`` with a socket in a fork of this process; returns our end, which blocks, and
    its pid.

    Raises KernelError when it cannot be forked. The fork is reaped as any child is, and a bare one.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = fork()
    except KernelError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _run(work, ours, theirs)
    theirs.close()
    return ours, pid


def lost() -> dict[str, Any]:
    """What stands for the last word of a maker that was killed before it could speak."""
    return {"failed": messages.error_fields(SampanError("its maker was killed; all is undone"))}


def in_tree(error: SampanError | OSError) -> SampanError:
    """An operating system's error as one of ours, so that it can be told to the daemon."""
    if isinstance(error, SampanError):
        return error
    return KernelError("monitor", error.errno or 0, str(error.filename or ""))


def _run(
    work: Callable[[socket.socket], None], monitor: socket.socket, channel: socket.socket
) -> NoReturn:
    code = CRASHED
    try:
        become_maker()
        monitor.close()
        try:
            work(channel)
        except (SampanError, OSError) as error:
            protocol.send(channel, {"failed": messages.error_fields(in_tree(error))})
        code = 0
    finally:
        end(code)


def become_maker() -> None:
    """Die with the monitor, and have its signals do nothing of what they do there."""
    set_parent_death_signal(signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def end(code: int) -> NoReturn:
    """End this process; a status other than 0 with the error that is being handled, if one is."""
    if code and (error := sys.exception()) is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
    os._exit(code)
