"""The monitor: parent of one container's init from its making to its end.

It has the container made (``maker``), owns its standard I/O and log, serves the daemon's requests,
reaps, and records how it ended. It needs nobody: the zygote that forked it and the daemon that
asked for it may die, and it goes on logging and records the exit all the same. If it dies itself,
the kernel kills init (PR_SET_PDEATHSIG), and with it every process of its pid namespace.

The life of a container, as ``state``:

    (creating) ──► created ──► running ◄──► paused
        │             │           │           │
        ▼             ▼           ▼           ▼
      failed     failed, stopped        stopped

``failed`` undoes everything and leaves no trace but the event. ``stopped`` kills what is left in
the cgroup, passes on all output, removes the cgroup, writes ``exit.json`` and tells every daemon,
in this order: who hears of the exit finds everything done. Only clients that have not yet taken the
last output are waited for after that.

Before there is work for it a monitor is ``asleep``, and costs little.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from sampan.errors import KernelError, SampanError
from sampan.kernel import cgroups
from sampan.kernel.processes import set_child_subreaper
from sampan.oci.runtime import Spec
from sampan.runtime import hooks
from sampan.runtime.supervisor import maker, messages, rest
from sampan.runtime.supervisor.execs import Execs, exit_code
from sampan.runtime.supervisor.files import (
    EXIT_FILE,
    MONITOR_FILE,
    remove,
    remove_directory,
    write_json,
)
from sampan.runtime.supervisor.logs.drivers import Logs, resume_logs
from sampan.runtime.supervisor.loop import READ, Loop
from sampan.runtime.supervisor.requests import Requests
from sampan.runtime.supervisor.server import Server
from sampan.runtime.supervisor.streams import Stdio
from sampan.runtime.supervisor.warm import hierarchy

if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping

    from sampan.kernel.cgroups import Group
    from sampan.runtime.supervisor.asleep import Container
    from sampan.runtime.supervisor.clients import Client
    from sampan.runtime.supervisor.requests import Reply

__all__ = ["Monitor"]

_LAST_TURN = 0.5
"""Seconds in which clients take the last output before the disk is synced, at an overlay's end."""


class Monitor(Requests):
    """A monitor that is awake: see the module's text."""

    def __init__(self, container: Container) -> None:
        made, fds = container.made()
        known = made.get("rest", {})
        self._made = made
        self._fds = fds
        self._keeper = container.keeper
        self._container = container
        self._maker: _socket.socket | None = None
        self._state = known.get("state", "created")
        self._failure: Mapping[str, object] | None = None
        self._start_reply: Reply | None = None
        self._is_to_start = bool(made["start"])
        self._init_status = container.init_status
        self._oom_seen = known.get("oom_seen", 0)
        self._pid: int = made["pid"]
        self._pidfd = fds["pidfd"]
        self._directory = fds["directory"]
        self._roots = [fd for name, fd in fds.items() if name.startswith("root")]
        self._group: Group | None = None
        if made["cgroup"]:
            self._group = hierarchy().group(made["cgroup"])
        self._log: Logs | None = None
        if made["log"] is not None:
            options = messages.LogOptions.from_json(made["log"], "log")
            self._log = resume_logs(options, fds, self._pid)
            if known:
                self._log.go_on(known["log"])
        self._loop = Loop()
        self._stdio = Stdio(
            self._loop, self._log, stdin_once=made["stdin_once"], on_detach=self._on_detach
        )
        self._held: dict[int, Client] = {}
        self._attachments = known.get("attachments", 0)
        self._early: list[tuple[messages.Attach, socket.socket, Reply]] = []
        if self._log is not None:
            self._log.attend(self._loop, self._on_log_room, self._on_log_loss)
        if "terminal" in fds:
            self._stdio.use_terminal(fds["terminal"], made["stdin"], fds.get("slave", -1))
        else:
            self._stdio.use_pipes([fds.get(name, -1) for name in maker.STDIO])
        # Before the daemon's connection, and so before it in the loop's order.
        word = container.last_word() if container.channel is not None else None
        if word is None and container.channel is not None:
            self._maker = container.channel
            self._loop.watch(self._maker.fileno(), READ, self._on_maker)
        self._execs = Execs(self._loop, self._make_exec, self._on_exec_exit, self._on_detach)
        self._execs.go_on(known.get("execs", {}))
        listener = socket.socket(fileno=fds["listener"])
        self._server = Server(
            self._loop, listener, self._directory, self._on_request, self._on_daemon_gone
        )
        if container.control >= 0 and made.get("control", True):
            self._server.adopt(socket.socket(fileno=container.control))
        for fd in made.get("connections", ()):
            self._server.adopt(socket.socket(fileno=fd))
        if word is not None:
            self._take_word(word)
        set_child_subreaper()
        self._wakeup = _watch_children()
        self._loop.watch(self._wakeup, READ, self._on_children)
        if self._keeper is not None:
            self._loop.watch(self._keeper.fileno(), READ, self._on_init_end)
        self._oom_fd = fds.get("oom", -1)
        if self._oom_fd >= 0:
            self._loop.watch(self._oom_fd, made["oom_events"], self._on_oom)

    def run(self) -> bool:
        """Stay with the container to its end, or until there is nothing to do and somebody else
        to stay: whether that is so."""
        self._on_children(0)
        while self._failure is None and (self._init_status is None or self._maker is not None):
            # Before anything is waited for: its asker may have left before this process was awake.
            if self._made["bound"] and self._server.deserted and self._init_status is None:
                self._signal(signal.SIGKILL)
                self._thaw()
            if self._keeper is None or not self._is_idle:
                self._loop.turn()
            elif not self._loop.turn(rest.PATIENCE) and self._leave(self._keeper):
                return True
        if self._failure is not None:
            self._undo(self._failure)
        elif self._init_status is not None:
            self._end(self._init_status)
        # Everything is told: who hears of it goes first.
        os.sched_yield()
        while self._server.pending:
            self._loop.turn()
        self._server.close()
        # Who takes the last output at once goes before the disk; the next start waits for nobody
        # who does not.
        self._loop.call_later(_LAST_TURN, self._let_go_of_roots)
        while self._stdio.has_clients or self._execs.has_clients:
            self._loop.turn()
        self._let_go_of_roots()
        return False

    def _let_go_of_roots(self) -> None:
        """And then of the claim on them, for which the container's next start waits."""
        for fd in self._roots:
            os.close(fd)
        self._roots.clear()
        claim = self._fds.pop("claim", -1)
        if claim >= 0:
            os.close(claim)

    # Rest

    @property
    def _is_idle(self) -> bool:
        """Whether whoever is awake next will know all that counts (``_leave``)."""
        if self._state not in ("running", "paused") or self._maker is not None:
            return False
        if self._early or self._held or self._server.pending or self._loop.has_timers:
            return False
        parts = (self._stdio, self._execs, self._log)
        return all(part is None or part.is_idle for part in parts)

    def _leave(self, keeper: rest.Keeper) -> bool:
        names = ("pidfd", "directory", "listener", "claim")
        fds = {name: fd for name, fd in self._fds.items() if name in names or name[:4] == "root"}
        fds |= self._stdio.descriptors()
        if self._log is not None:
            fds |= self._log.descriptors()
        if self._oom_fd >= 0:
            fds["oom"] = self._oom_fd
        known = {
            "state": self._state,
            "attachments": self._attachments,
            "oom_seen": self._oom_seen,
            "execs": self._execs.rest(),
            "log": self._log.rest() if self._log is not None else [],
        }
        made = {**self._made, "stdin": self._stdio.has_input, "rest": known}
        return keeper.leave(made, fds, self._server.connections)

    # Beginning and end

    def _on_maker(self, _: int) -> None:
        channel = self._maker
        assert channel is not None
        number = channel.fileno()
        self._loop.forget(number)
        word = self._container.last_word()
        if word is None:
            self._loop.watch(number, READ, self._on_maker)
            return
        self._maker = None
        self._take_word(word)

    def _take_word(self, word: Mapping[str, Any]) -> None:
        """The maker's last: the container runs, or its start failed and was undone."""
        reply, self._start_reply = self._start_reply, None
        if "started" in word:
            self._state = "running"
            if "event" in word:
                self._server.broadcast(word["event"])
            if reply is not None:
                reply({"ok": True})
        else:
            self._failure = word["failed"]
            if reply is not None:
                reply({"error": word["failed"]})

    def _undo(self, failure: Mapping[str, object]) -> None:
        self._kill_all()
        self._release()
        self._server.close_listener()
        remove(MONITOR_FILE, self._directory)
        if self._made["directory_is_new"]:
            remove_directory(self._made["run_dir"])
        self._server.broadcast({"event": "failed", "error": failure})

    def _end(self, status: int) -> None:
        at = time.time()
        code, number = exit_code(status)
        usage: Mapping[str, object] | None = None
        oom_kills = 0
        warnings = self._kill_all()
        if self._group is not None:
            try:
                oom_kills = self._group.oom_count()
                usage = self._group.totals().to_json()
            except SampanError as error:
                warnings.append(error.message)
        self._state = "stopped"
        self._execs.end()
        warnings += self._release()
        if self._made["poststop"]:
            warnings += self._run_poststop()
        record = {
            "code": code,
            "signal": number,
            "oom": code == 128 + signal.SIGKILL and oom_kills > 0,
            "oom_kills": oom_kills,
            "at": at,
            "usage": usage,
            "log_dropped": self._log.dropped if self._log is not None else 0,
            "warnings": warnings,
        }
        try:
            write_json(EXIT_FILE, record, self._directory)
        except KernelError as error:
            warnings.append(error.message)
        remove(MONITOR_FILE, self._directory)
        # Not before the record is there: who finds no socket looks for that.
        self._server.close_listener()
        self._server.broadcast({"event": "exit", **record})

    def _kill_all(self) -> list[str]:
        """Kill what is left; what went wrong, as where a group above the container's is frozen."""
        if self._group is not None:
            try:
                self._group.kill()
            except SampanError as error:
                return [error.message]
        return []

    def _run_poststop(self) -> list[str]:
        made = self._made
        spec = Spec.from_json(self._container.request()["spec"], "spec")
        state = hooks.state_json(spec, made["id"], made["bundle"], "stopped", 0)
        return hooks.run_poststop(spec.hooks.poststop if spec.hooks is not None else (), state)

    def _release(self) -> list[str]:
        """Let go of all but clients, daemons and who may become one; returns what went wrong.

        The cgroup first: when it is gone no process is left that could still write.
        """
        warnings: list[str] = []
        if self._oom_fd >= 0:
            self._loop.forget(self._oom_fd)
            os.close(self._oom_fd)
        if self._group is not None:
            try:
                self._group.destroy()
            except SampanError as error:
                warnings.append(error.message)
        self._loop.forget(self._wakeup)
        self._stdio.finish(all_dead=True)
        if self._log is not None:
            self._log.close()
        for _, sock, _ in self._early:
            sock.close()  # Whoever asked finds all of it in the log.
        self._early.clear()
        os.close(self._pidfd)
        return warnings

    # What happens

    def _on_children(self, _: int) -> None:
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._init_status = status
            else:
                # A further process, a maker, or an orphan of the container's that came to us.
                self._execs.reaped(pid, status)

    def _on_init_end(self, _: int) -> None:
        assert self._keeper is not None
        self._loop.forget(self._keeper.fileno())
        self._init_status = self._keeper.init_status()

    def _on_exec_exit(self, exec_id: str, code: int) -> None:
        self._server.broadcast({"event": "exec-exit", "exec_id": exec_id, "code": code})

    def _on_log_room(self) -> None:
        if self._log is not None and not self._log.is_behind:
            early, self._early = self._early, []
            for request, sock, reply in early:
                try:
                    reply({"ok": True, **self._serve(request, sock)})
                except SampanError as error:
                    sock.close()
                    reply({"error": messages.error_fields(error)})
        self._stdio.reconsider()

    def _on_log_loss(self, reason: str) -> None:
        self._server.broadcast({"event": "log-loss", "reason": reason})

    def _on_oom(self, _: int) -> None:
        if not cgroups.drain_oom(self._oom_fd):
            self._loop.forget(self._oom_fd)
            os.close(self._oom_fd)
            self._oom_fd = -1
            return
        if self._group is not None and (count := self._group.oom_count()) > self._oom_seen:
            self._oom_seen = count
            self._server.broadcast({"event": "oom"})


def _watch_children() -> int:
    """A descriptor that is readable after a SIGCHLD."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _no_handler)
    return reader


def _no_handler(number: int, frame: object) -> None:
    """SIGCHLD must have a handler to be written to the wake-up descriptor."""
