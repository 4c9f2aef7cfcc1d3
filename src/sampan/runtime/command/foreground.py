"""Staying with a process until it ends: its terminal, its signals, its exit status.

With a terminal ours becomes raw and every byte is relayed to and from the container's (termios(3));
each signal we get goes on to the process, but those about ourselves.
"""

from __future__ import annotations

import os
import select
import signal
from errno import EAGAIN, EIO, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import terminals
from sampan.kernel.processes import pidfd_send_signal

if TYPE_CHECKING:
    from types import FrameType

    from sampan.runtime.child import Child

__all__ = ["follow", "pass_signals"]

_CHUNK = 65536
# SIGCHLD, SIGPIPE and SIGURG are about ourselves; the job control signals stop us and not it.
_OURS = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


def pass_signals(child: Child) -> None:
    """From now on our signals and our terminal's size are ``child``'s. Before it starts: a signal
    that came between would end us and leave it alone, and its first look would be at a terminal
    without a size."""

    def forward(number: int, _: FrameType | None) -> None:
        try:
            pidfd_send_signal(child.pidfd, number)
        except KernelError as error:
            if error.errno != ESRCH:
                raise

    for number in signal.valid_signals() - _OURS:
        signal.signal(number, forward)

    def resize(*_: object) -> None:
        terminals.set_window_size(child.console, *terminals.get_window_size(0))

    if child.console >= 0 and os.isatty(0):
        signal.signal(signal.SIGWINCH, resize)  # First, so that no change is missed.
        resize()


def follow(child: Child) -> int:
    """Wait for ``child``; its exit status, or 128 and the signal's number."""
    if child.console >= 0:
        return _with_terminal(child)
    return _reap(child.pid)


def _reap(wanted: int) -> int:
    """Wait for ``wanted`` and every orphan that becomes ours meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == wanted:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _with_terminal(child: Child) -> int:
    master = child.console
    saved = terminals.set_raw(0) if os.isatty(0) else None
    try:
        _relay(master, child.pidfd)
    finally:
        if saved is not None:
            terminals.restore(0, saved)
    return _reap(child.pid)


def _relay(master: int, pidfd: int) -> None:
    """Copy until the process has ended and its terminal has nothing more to say."""
    poll = select.poll()
    for fd in (0, master, pidfd):
        poll.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if master in ready and not _copy(master, 1):
            poll.unregister(master)
            return
        if 0 in ready and not _copy(0, master):
            poll.unregister(0)
        if pidfd in ready and master not in ready:
            return


def _copy(source: int, target: int) -> bool:
    """One chunk; False at the end of the source."""
    try:
        data = os.read(source, _CHUNK)
    except OSError as error:
        if error.errno == EIO:  # no process has the terminal open any more
            return False
        if error.errno == EAGAIN:
            return True
        raise
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
    return bool(data)
