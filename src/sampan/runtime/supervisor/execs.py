"""Further processes in a running container: their start, their I/O, and how each one ended.

A maker executes the process (``maker``); here is what becomes of it. A process that has ended is
remembered for the daemon's questions, the last ``KEPT`` of them.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from sampan.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, SampanError
from sampan.kernel.processes import pidfd_open, pidfd_send_signal
from sampan.runtime.supervisor import forks, protocol
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.loop import READ
from sampan.runtime.supervisor.messages import Exec
from sampan.runtime.supervisor.sample import EXEC
from sampan.runtime.supervisor.streams import STDERR, STDOUT, Stdio, child_pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.runtime.supervisor.loop import Loop, Timer

    Answer = Callable[[Mapping[str, object]], None]

__all__ = ["Execs", "exit_code"]

KEPT = 64
PATIENCE = 5.0
_LULL = 0.02
"""Seconds after which nobody asks at once for what was just prepared."""
_LATER = 0.01
"""Seconds that a maker's old self outlives the exec: its end takes a processor for a while, and
just now everybody else wants one, for a short command's output and end."""


def exit_code(status: int) -> tuple[int, int | None]:
    """(exit code, signal or None) of a wait status; a signalled process counts 128 + signal."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


class _Spare:
    """A maker that waits for an exec to be asked for, and the moment at which it has waited.

    ``draft``: what it knows of that exec already.
    """

    __slots__ = ("channel", "draft", "pidfd", "timer")

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self.channel = channel
        self.pidfd = pidfd_open(pid)
        self.timer: Timer | None = None
        self.draft: Exec | None = None

    def ask(self, request: Exec, with_stream: bool) -> bool:
        """Have it execute ``request``, its draft if it has one. False when it is not there."""
        asked: dict[str, object] = {"with_stream": with_stream}
        if self.draft is None:
            asked["request"] = request.to_json()
        return self.send(asked)

    def send(self, message: dict[str, object]) -> bool:
        """False when it is not there."""
        try:
            protocol.send(self.channel, message)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Have it end, if it was asked for nothing."""
        self.channel.close()
        os.close(self.pidfd)


class _Starting:
    """An exec whose maker has not yet said what became of it."""

    __slots__ = ("answer", "early", "fds", "made", "maker", "pidfd", "request", "stream")

    def __init__(
        self, request: Exec, spare: _Spare, stream: socket.socket | None, answer: Answer
    ) -> None:
        self.request = request
        self.maker = spare.channel
        self.pidfd = spare.pidfd
        self.stream = stream
        self.answer = answer
        # Of a process that its maker became, until it is executed.
        self.made: dict[str, Any] | None = None
        self.fds: list[int] = []
        # Children reaped since it was asked for: its own process may be one of them. Who had its
        # number before that is none.
        self.early: dict[int, int] = {}

    def take_up(self, made: dict[str, Any], fds: list[int]) -> None:
        """It has become the process, which talks on a connection of its own from here on."""
        place = made["fds"].index("channel")
        del made["fds"][place]
        self.maker.close()
        self.maker = protocol.connection(fds.pop(place))
        self.made, self.fds = made, fds

    def forsake(self, number: int) -> None:
        """Stop or kill what the maker was before it became the process, and tell that so.

        It need not be dead yet: it hangs in the kernel, and with either signal it does not come
        back from there.
        """
        try:
            pidfd_send_signal(self.pidfd, number)
            self.maker.send(b"x")
        except OSError:
            pass  # Killed with the container, either.

    def close(self) -> None:
        self.maker.close()
        if self.made is not None:
            try:
                pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except OSError:
                pass  # Killed with the container.
        os.close(self.pidfd)


class _Entry:
    __slots__ = ("code", "pid", "pidfd", "stdio")

    def __init__(self, pid: int, pidfd: int, stdio: Stdio) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.stdio = stdio
        self.code: int | None = None


class Execs:
    """The table of a container's further processes, by the daemon's names for them."""

    __slots__ = (
        "_entries",
        "_loop",
        "_on_detach",
        "_on_exit",
        "_spare",
        "_starting",
        "_work",
    )

    def __init__(
        self,
        loop: Loop,
        work: Callable[[socket.socket], None],
        on_exit: Callable[[str, int], None],
        on_detach: Callable[[str], None],
    ) -> None:
        """``work(channel)`` is what a maker does (``exec_maker``). ``on_exit(exec_id, code)`` is
        called before the clients of an ended process are told; ``on_detach(exec_id)`` when a client
        has typed its detach keys."""
        self._loop = loop
        self._work = work
        self._spare: _Spare | None = None
        self._on_exit = on_exit
        self._on_detach = on_detach
        self._entries: dict[str, _Entry] = {}
        self._starting: dict[str, _Starting] = {}

    def prepare(self, draft: object = None) -> None:
        """Have a maker ready: an exec is about to be asked for. It waits ``PATIENCE`` seconds.

        With ``draft``, an ``Exec`` in JSON, it does what can be done before that is asked for; the
        draft of another exec stays where there is one. Raises InvalidArgument, KernelError when no
        maker can be forked.
        """
        spare = self._spare
        if spare is None:
            spare = self._spare = self._fork()
            self._loop.call_later(_LULL, self._rehearse)
        elif spare.timer is not None:
            self._loop.cancel(spare.timer)
        spare.timer = self._loop.call_later(PATIENCE, self._dismiss)
        if draft is not None and spare.draft is None:
            # At once: the client is on its way. If the maker is not there any more, that is
            # noticed when it is to go on.
            spare.send({"request": draft, "with_stream": None})
            try:
                spare.draft = Exec.from_json(draft)
            except InvalidArgument:
                self._dismiss()  # It does not understand it either.
                raise

    def draft(self, exec_id: str) -> Exec:
        """What ``prepare`` was told of an exec. Raises NotFound when no maker waits with it."""
        draft = self._spare.draft if self._spare is not None else None
        if draft is None or draft.exec_id != exec_id:
            raise NotFound(f"exec {exec_id}: nothing was prepared for it")
        return draft

    def _rehearse(self) -> None:
        """What the next exec takes of this process, to no effect.

        The maker that waits shares its memory, and who first writes to a page gets a copy of it:
        that costs as much as the work, and nobody waits for it now.
        """
        if self._spare is None:
            return
        try:
            ours, theirs = protocol.pair()
            stream, client = socket.socketpair()
            inner, outer = child_pipes(False)
        except OSError:
            return  # Too many descriptors are open: the exec itself will say so.
        with ours, theirs, client:
            with stream:
                protocol.send(ours, EXEC, (stream.fileno(),))
            message, (fd,) = protocol.receive(theirs) or ({}, (-1,))
            request = Exec.from_json(message)
            copy = stream_socket(fd)
            protocol.send(ours, {"request": request.to_json(), "with_stream": True})
            protocol.receive(theirs)
            stdio = Stdio(self._loop, None, stdin_once=True, on_detach=_nobody)
            stdio.use_pipes(outer)
            self._attach(stdio, copy, request)
            for fd in inner:
                os.close(fd)
            stdio.finish(all_dead=True)

    def _fork(self) -> _Spare:
        return _Spare(*forks.fork_maker(self._work))

    def _dismiss(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.timer is not None:
                self._loop.cancel(spare.timer)
            spare.close()

    def _ask(self, request: Exec, with_stream: bool) -> _Spare:
        """A maker that was asked; the one that waits, if it still does."""
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.timer is not None:
                self._loop.cancel(spare.timer)
            if (spare.draft is None or spare.draft is request) and spare.ask(request, with_stream):
                return spare
            spare.close()  # It was killed; or it had something to say, and so will the next.
        spare = self._fork()
        # If it has ended, then what it said is read as any other's word is.
        spare.ask(request, with_stream)
        return spare

    def start(self, request: Exec, fds: list[int], answer: Answer) -> None:
        """Have ``request`` executed; ``answer`` gets the pid, or the error.

        The stream socket is taken out of ``fds``. Raises AlreadyExists for a name in use.
        """
        name = request.exec_id
        entry = self._entries.get(name)
        if name in self._starting or (entry is not None and entry.code is None):
            raise AlreadyExists(f"exec {name}: already running")
        if len(fds) > 1:
            raise InvalidArgument(f"exec {name}: one stream at most, not {len(fds)}")
        stream = stream_socket(fds.pop()) if fds else None
        try:
            spare = self._ask(request, stream is not None)
        except SampanError:
            if stream is not None:
                stream.close()
            raise
        self._starting[name] = _Starting(request, spare, stream, answer)
        self._loop.watch(spare.channel.fileno(), READ, lambda _: self._on_maker(name))

    def _on_maker(self, name: str) -> None:
        starting = self._starting[name]
        try:
            received = protocol.receive(starting.maker)
        except (InvalidArgument, OSError):
            received = None
        word, fds = received if received is not None else ({}, [])
        if "made" in word and word["made"]["succeeds"]:
            self._loop.forget(starting.maker.fileno())
            starting.take_up(word["made"], fds)
            starting.forsake(signal.SIGSTOP)
            self._loop.watch(starting.maker.fileno(), READ, lambda _: self._on_maker(name))
            return  # It runs when this connection ends.
        if word.get("succeeds") and starting.made is None:
            starting.forsake(signal.SIGKILL)
        self._loop.forget(starting.maker.fileno())
        del self._starting[name]
        if "made" in word:
            self._add(starting, word["made"], fds)
        elif starting.made is not None and "failed" not in word:
            self._add(starting, starting.made, starting.fds)
        else:
            for fd in starting.fds:
                os.close(fd)
            if starting.stream is not None:
                starting.stream.close()
            starting.answer({"error": (word or forks.lost())["failed"]})
        if starting.made is None:
            starting.close()
        else:
            self._loop.call_later(_LATER, starting.close)

    def _add(self, starting: _Starting, made: dict[str, Any], received: list[int]) -> None:
        request = starting.request
        fds = dict(zip(made["fds"], received, strict=True))
        name = request.exec_id
        stdio = Stdio(self._loop, None, stdin_once=True, on_detach=lambda: self._on_detach(name))
        if "terminal" in fds:
            stdio.use_terminal(fds["terminal"], request.stdin)
        elif "stdout" in fds:
            stdio.use_pipes((fds.get("stdin", -1), fds["stdout"], fds["stderr"]))
        if starting.stream is not None:
            self._attach(stdio, starting.stream, request)
        pid: int = made["pid"]
        self._entries[request.exec_id] = _Entry(pid, fds["pidfd"], stdio)
        starting.answer({"pid": pid})
        if pid in starting.early:
            self.reaped(pid, starting.early[pid])

    @staticmethod
    def _attach(stdio: Stdio, stream: socket.socket, request: Exec) -> None:
        stdio.attach(
            stream,
            stdin=request.stdin,
            streams=frozenset((STDOUT,) * request.stdout + (STDERR,) * request.stderr),
            multiplex=request.multiplex,
            detach_keys=request.detach_keys,
            is_patient=True,
        )

    def kill(self, exec_id: str, number: int) -> None:
        """Signal a process and, as it leads a session, those of its group that it started."""
        entry = self._entries.get(exec_id)
        if entry is None:
            raise NotFound(f"exec {exec_id}: not found in this container")
        if entry.code is not None:
            raise Conflict(f"exec {exec_id}: has ended")
        # Its number is its own as long as it is not reaped, and that is done here.
        os.killpg(entry.pid, number)

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
            name: {"pid": entry.pid, "running": entry.code is None, "code": entry.code}
            for name, entry in self._entries.items()
        }

    @property
    def is_idle(self) -> bool:
        """Whether none runs or is about to, and nobody takes a last output."""
        busy = self._spare or self._starting or self.has_clients
        return not busy and not any(
            entry.code is None or entry.stdio.is_open for entry in self._entries.values()
        )

    def rest(self) -> dict[str, tuple[int, int]]:
        """Of each that has ended its pid and exit code, while it ``is_idle``."""
        return {
            name: (entry.pid, entry.code)
            for name, entry in self._entries.items()
            if entry.code is not None
        }

    def go_on(self, rest: dict[str, tuple[int, int]]) -> None:
        """Remember what was at ``rest``."""
        for name, (pid, code) in rest.items():
            stdio = Stdio(self._loop, None, stdin_once=True, on_detach=_nobody)
            entry = self._entries[name] = _Entry(pid, -1, stdio)
            entry.code = code

    def reaped(self, pid: int, status: int, *, all_dead: bool = False) -> None:
        """A child of the monitor was reaped that is not init: one of these, a maker, an orphan."""
        for name, entry in self._entries.items():
            if entry.pid == pid and entry.code is None:
                entry.code = exit_code(status)[0]
                os.close(entry.pidfd)
                self._on_exit(name, entry.code)
                entry.stdio.finish(all_dead=all_dead)
                break
        else:
            for starting in self._starting.values():
                starting.early[pid] = status
            return
        ended = [name for name, entry in self._entries.items() if entry.code is not None]
        for name in ended[:-KEPT]:
            if not self._entries[name].stdio.has_clients:
                self._entries.pop(name).stdio.finish(all_dead=True)

    def end(self) -> None:
        """The container ended: end, reap and report whatever still runs."""
        self._dismiss()
        for name in list(self._starting):
            # Its maker may be about to say so, or to say that there is no container any more.
            while name in self._starting:
                self._on_maker(name)
        for entry in self._entries.values():
            if entry.code is None:
                pidfd_send_signal(entry.pidfd, signal.SIGKILL)
        for entry in list(self._entries.values()):
            if entry.code is None:
                _, status = os.waitpid(entry.pid, 0)
                self.reaped(entry.pid, status, all_dead=True)
            else:
                entry.stdio.finish(all_dead=True)

    @property
    def has_clients(self) -> bool:
        """Whether a client is still taking a process's last output."""
        return any(entry.stdio.has_clients for entry in self._entries.values())


def _nobody() -> None:
    """A process that has ended has no client that could detach."""
