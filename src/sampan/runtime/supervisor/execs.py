"""Further processes in a running container: their start, their I/O, and how each one ended.

A process that has ended is remembered for the daemon's questions, the last ``KEPT`` of them.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from sampan.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from sampan.kernel.processes import pidfd_send_signal
from sampan.oci.runtime import ConsoleSize
from sampan.runtime.exec import execute
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.messages import window
from sampan.runtime.supervisor.streams import STDERR, STDOUT, Stdio, child_pipes, null_stdio

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.oci.runtime import Process
    from sampan.runtime.child import Child
    from sampan.runtime.exec import RunningContainer
    from sampan.runtime.supervisor.loop import Loop
    from sampan.runtime.supervisor.messages import Exec

__all__ = ["Execs", "exit_code"]

KEPT = 64


def exit_code(status: int) -> tuple[int, int | None]:
    """(exit code, signal or None) of a wait status; a signalled process counts 128 + signal."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


class _Entry:
    __slots__ = ("child", "code", "stdio")

    def __init__(self, child: Child, stdio: Stdio) -> None:
        self.child = child
        self.stdio = stdio
        self.code: int | None = None


class Execs:
    """The table of a container's further processes, by the daemon's names for them."""

    __slots__ = ("_entries", "_loop", "_on_exit")

    def __init__(self, loop: Loop, on_exit: Callable[[str, int], None]) -> None:
        """``on_exit(exec_id, code)`` is called before the clients of an ended process are."""
        self._loop = loop
        self._on_exit = on_exit
        self._entries: dict[str, _Entry] = {}

    def start(self, target: RunningContainer, request: Exec, fds: list[int]) -> int:
        """Execute a process and return its host pid; its stream socket is taken out of ``fds``.

        Raises CommandNotFound, CommandNotExecutable and what else ``execute`` says; AlreadyExists
        for a name in use.
        """
        entry = self._entries.get(request.exec_id)
        if entry is not None and entry.code is None:
            raise AlreadyExists(f"exec {request.exec_id}: already running")
        if len(fds) > 1:
            raise InvalidArgument(f"exec {request.exec_id}: one stream at most, not {len(fds)}")
        sock = stream_socket(fds.pop()) if fds else None
        stdio = Stdio(self._loop, None, stdin_once=True)
        theirs: tuple[int, int, int] | None = None
        try:
            if not request.terminal:
                if sock is None:
                    theirs = null_stdio()
                else:
                    theirs, ours = child_pipes(request.stdin)
                    stdio.use_pipes(ours)
            child = execute(target, _process(request), theirs)
        except BaseException:
            stdio.finish(all_dead=True)
            if sock is not None:
                sock.close()
            raise
        finally:
            for fd in theirs or ():
                os.close(fd)
        if child.console >= 0:
            stdio.use_terminal(child.console, request.stdin)
        if sock is not None:
            stdio.attach(
                sock,
                stdin=request.stdin,
                streams=frozenset((STDOUT, STDERR)),
                multiplex=request.multiplex,
                detach_keys=request.detach_keys,
            )
        self._entries[request.exec_id] = _Entry(child, stdio)
        return child.pid

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Set the size of a process's terminal."""
        entry = self._entries.get(exec_id)
        if entry is None:
            raise NotFound(f"exec {exec_id}: not found in this container")
        if entry.code is not None:
            raise Conflict(f"exec {exec_id}: has ended")
        entry.stdio.resize(rows, columns)

    def status(self) -> dict[str, object]:
        """``{exec_id: {"pid", "running", "code"}}``."""
        return {
            name: {"pid": entry.child.pid, "running": entry.code is None, "code": entry.code}
            for name, entry in self._entries.items()
        }

    def reaped(self, pid: int, status: int, *, all_dead: bool = False) -> None:
        """A child of the monitor was reaped; nothing happens when it is none of these."""
        for name, entry in self._entries.items():
            if entry.child.pid == pid and entry.code is None:
                entry.code = exit_code(status)[0]
                os.close(entry.child.pidfd)
                self._on_exit(name, entry.code)
                entry.stdio.finish(all_dead=all_dead)
                break
        else:
            return
        ended = [name for name, entry in self._entries.items() if entry.code is not None]
        for name in ended[:-KEPT]:
            if not self._entries[name].stdio.has_clients:
                self._entries.pop(name).stdio.finish(all_dead=True)

    def end(self) -> None:
        """The container ended: end, reap and report whatever still runs."""
        for entry in self._entries.values():
            if entry.code is None:
                pidfd_send_signal(entry.child.pidfd, signal.SIGKILL)
        for entry in list(self._entries.values()):
            if entry.code is None:
                _, status = os.waitpid(entry.child.pid, 0)
                self.reaped(entry.child.pid, status, all_dead=True)
            else:
                entry.stdio.finish(all_dead=True)

    @property
    def has_clients(self) -> bool:
        """Whether a client is still taking a process's last output."""
        return any(entry.stdio.has_clients for entry in self._entries.values())


def _process(request: Exec) -> Process:
    process = request.process.replace(terminal=request.terminal)
    if request.console_size is not None:
        rows, columns = window(request.console_size)
        process = process.replace(console_size=ConsoleSize(height=rows, width=columns))
    return process
