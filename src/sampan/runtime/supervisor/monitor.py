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
from errno import ESRCH
from typing import TYPE_CHECKING, Any

from sampan.errors import Conflict, InvalidArgument, KernelError, SampanError
from sampan.kernel import cgroups
from sampan.kernel.processes import pidfd_send_signal, set_child_subreaper
from sampan.oci.runtime import Spec
from sampan.runtime import hooks
from sampan.runtime.supervisor import maker, messages, rest
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.exec_maker import stand_by
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
from sampan.runtime.supervisor.server import Server
from sampan.runtime.supervisor.streams import STDERR, STDOUT, Stdio
from sampan.runtime.supervisor.warm import hierarchy

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping

    from sampan.kernel.cgroups import Group
    from sampan.runtime.supervisor.asleep import Container
    from sampan.runtime.supervisor.clients import Client
    from sampan.runtime.supervisor.messages import Message
    from sampan.runtime.supervisor.server import Connection

    Reply = Callable[[Mapping[str, object]], None]
    Operation = tuple[
        type[Message], Callable[["Monitor", Any, list[int], Reply], Mapping[str, object] | None]
    ]

__all__ = ["Monitor"]

_PACKET = 1 << 16
_ALIVE = ("created", "running", "paused")


class Monitor:
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
        while self._stdio.has_clients or self._execs.has_clients:
            self._loop.turn()
        for fd in self._roots:
            os.close(fd)  # Before the claim on them, which ends with this process.
        return False

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

    def _on_request(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> None:
        seq = message.get("seq")

        def reply(fields: Mapping[str, object]) -> None:
            connection.send({"reply": seq, **fields})

        try:
            if not isinstance(seq, int):
                raise InvalidArgument("request: seq: expected an integer")
            name = message.get("op")
            operation = _OPERATIONS.get(name) if isinstance(name, str) else None
            if operation is None:
                raise InvalidArgument(f"request: no operation {name!r}")
            kind, act = operation
            fields = act(self, kind.from_json(message), fds, reply)
        except (SampanError, OSError) as error:
            reply({"error": messages.error_fields(maker.in_tree(error))})
        else:
            if fields is not None:
                reply({"ok": True, **fields})
        finally:
            for fd in fds:
                os.close(fd)

    # Requests: each returns its reply's fields, or None when it will reply later

    def _require(self, *states: str) -> None:
        """Refuse a request in any other state than these (all that live)."""
        if self._state not in (states or _ALIVE) or self._init_status is not None:
            ended = "stopped" if self._init_status is not None else self._state
            hint = "; resume it first" if ended == "paused" else ""
            raise Conflict(f"container {self._made['id']}: is {ended}{hint}")

    def _cgroup(self, what: str) -> Group:
        if self._group is None:
            raise Conflict(f"{what}: container {self._made['id']} has no cgroup of its own")
        return self._group

    def _status(self, _: messages.Plain, fds: list[int], reply: Reply) -> Mapping[str, object]:
        return {
            "state": self._state,
            "starting": self._state == "created" and self._is_to_start,
            "pid": self._pid,
            "start_time": self._made["start_time"],
            "execs": self._execs.status(),
            "log_dropped": self._log.dropped if self._log is not None else 0,
        }

    def _start(self, _: messages.Plain, fds: list[int], reply: Reply) -> None:
        self._require("created")
        if self._maker is None or self._start_reply is not None or self._made["start"]:
            raise Conflict(f"container {self._made['id']}: is being started already")
        self._start_reply = reply
        self._is_to_start = True
        try:
            self._maker.send(b"s")
        except OSError:
            return  # The maker has ended: what is left to read from it says why.

    def _kill(self, request: messages.Kill, fds: list[int], reply: Reply) -> Mapping[str, object]:
        self._require()
        if not 1 <= request.signal < signal.NSIG:
            raise InvalidArgument(f"kill: no signal {request.signal}")
        if request.exec_id is not None:
            self._execs.kill(request.exec_id, request.signal)
            return {}
        if request.all and self._group is not None:
            for pid in self._group.processes():
                try:
                    os.kill(pid, request.signal)
                except ProcessLookupError:
                    continue
        else:
            self._signal(request.signal)
        if request.signal == signal.SIGKILL:
            self._thaw()
        return {}

    def _signal(self, number: int) -> None:
        """To init. One that has ended takes any, as long as its end was not heard of here."""
        try:
            pidfd_send_signal(self._pidfd, number)
        except KernelError as error:
            if error.errno != ESRCH or self._keeper is None:
                raise

    def _thaw(self) -> None:
        """A frozen process of cgroup v1 does not even die."""
        if self._state == "paused" and self._group is not None:
            self._group.thaw()
            self._state = "running"

    def _pause(self, _: messages.Plain, fds: list[int], reply: Reply) -> Mapping[str, object]:
        self._require("running")
        self._cgroup("pause").freeze()
        self._state = "paused"
        return {}

    def _resume(self, _: messages.Plain, fds: list[int], reply: Reply) -> Mapping[str, object]:
        self._require("paused")
        self._cgroup("resume").thaw()
        self._state = "running"
        return {}

    def _resize(
        self, request: messages.Resize, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        self._require()
        if request.exec_id is None:
            self._stdio.resize(request.rows, request.cols)
        else:
            self._execs.resize(request.exec_id, request.rows, request.cols)
        return {}

    def _attach(
        self, request: messages.Attach, fds: list[int], reply: Reply
    ) -> Mapping[str, object] | None:
        if len(fds) != 1:
            raise InvalidArgument(f"attach: expected one stream, not {len(fds)}")
        self._require()
        sock = stream_socket(fds.pop())
        if request.hold and self._log is not None and self._log.is_behind:
            self._early.append((request, sock, reply))
            return None
        return self._serve(request, sock)

    def _serve(self, request: messages.Attach, sock: socket.socket) -> Mapping[str, object]:
        streams = frozenset((STDOUT,) * request.stdout + (STDERR,) * request.stderr)
        client = self._stdio.attach(
            sock,
            stdin=request.stdin,
            streams=streams,
            multiplex=request.multiplex,
            detach_keys=request.detach_keys,
            is_patient=self._state == "created",
        )
        if not request.hold:
            return {}
        self._attachments += 1
        self._held[self._attachments] = client
        return {"attachment": self._attachments, "log": self._stdio.hold(client)}

    def _release_output(
        self, request: messages.Release, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        client = self._held.pop(request.attachment, None)
        if client is None or not client.is_held:
            return {"released": False}
        self._stdio.release(client)
        return {"released": True}

    def _on_daemon_gone(self) -> None:
        """Who would have released what is held may be gone: nobody is to wait for that."""
        for client in self._held.values():
            client.close()
        self._held.clear()
        for _, sock, _ in self._early:
            _hang_up(sock)
        self._early.clear()

    def _on_detach(self, exec_id: str | None = None) -> None:
        self._server.broadcast({"event": "detach", "exec_id": exec_id})

    def _make_exec(self, channel: socket.socket) -> None:
        """What a maker of further processes does."""
        init = (self._pid, self._made["start_time"])
        stand_by(channel, made=self._made, init=init, oom=self._made["unshielded"])

    def _prepare_exec(
        self, _: messages.Plain, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        self._require("running")
        self._execs.prepare()
        return {}

    def _exec(self, request: messages.Exec, fds: list[int], reply: Reply) -> None:
        self._require("running")

        def answer(fields: Mapping[str, object]) -> None:
            reply(fields if "error" in fields else {"ok": True, **fields})

        self._execs.start(request, request.to_json(), fds, answer)

    def _usage(self, _: messages.Plain, fds: list[int], reply: Reply) -> Mapping[str, object]:
        self._require()
        return {"usage": self._cgroup("usage").account().to_json()}

    def _update(
        self, request: messages.Update, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        self._require()
        return {"warnings": self._cgroup("update").update(request.resources)}


_OPERATIONS: dict[str, Operation] = {
    "status": (messages.Plain, Monitor._status),
    "start": (messages.Plain, Monitor._start),
    "kill": (messages.Kill, Monitor._kill),
    "pause": (messages.Plain, Monitor._pause),
    "resume": (messages.Plain, Monitor._resume),
    "resize": (messages.Resize, Monitor._resize),
    "attach": (messages.Attach, Monitor._attach),
    "release": (messages.Release, Monitor._release_output),
    "prepare-exec": (messages.Plain, Monitor._prepare_exec),
    "exec": (messages.Exec, Monitor._exec),
    "usage": (messages.Plain, Monitor._usage),
    "update": (messages.Update, Monitor._update),
}


def _watch_children() -> int:
    """A descriptor that is readable after a SIGCHLD."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _no_handler)
    return reader


def _hang_up(sock: socket.socket) -> None:
    """End a connection, also for other holders of the same socket."""
    with sock:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The peer is gone.


def _no_handler(number: int, frame: object) -> None:
    """SIGCHLD must have a handler to be written to the wake-up descriptor."""
