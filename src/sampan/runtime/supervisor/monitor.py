"""The monitor: parent of one container's init from its making to its end.

It makes the container, owns its standard I/O and log, serves the daemon's requests, reaps, and
records how it ended. It needs nobody: the zygote that forked it and the daemon that asked for it
may die, and it goes on logging and records the exit all the same. If it dies itself, the kernel
kills init (PR_SET_PDEATHSIG), and with it every process of its pid namespace.

The life of a container, as ``state``:

    creating ──► created ──► running ◄──► paused
        │           │           │           │
        ▼           ▼           ▼           ▼
      failed     failed, stopped        stopped

``failed`` undoes everything and leaves no trace but the event. ``stopped`` kills what is left in
the cgroup, passes on all output, removes the cgroup, writes ``exit.json`` and tells every daemon,
in this order: who hears of the exit finds everything done. Only clients that have not yet taken the
last output are waited for after that.

Files in the run directory: ``monitor.json`` (who we are, written before anything is made, for a
daemon that finds us dead), ``monitor.sock``, and at the end ``exit.json`` alone.

Memory is what this process is shaped for: it is forked with a frozen heap, garbage collection off,
and runs one loop; a page that is not touched stays shared with every other monitor.
"""

from __future__ import annotations

import json
import os
import signal
import time
import zlib
from typing import TYPE_CHECKING, Any

from sampan.errors import Conflict, InvalidArgument, KernelError, NotSupported, SampanError
from sampan.kernel import cgroups
from sampan.kernel.processes import pidfd_send_signal, start_time
from sampan.oci.runtime import Spec
from sampan.runtime import hooks
from sampan.runtime.exec import RunningContainer
from sampan.runtime.launch import Launch, create
from sampan.runtime.supervisor import messages, protocol
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.execs import Execs, exit_code
from sampan.runtime.supervisor.logfile import Log, open_log
from sampan.runtime.supervisor.loop import READ, Loop
from sampan.runtime.supervisor.server import MONITOR_FILE, Server
from sampan.runtime.supervisor.streams import STDERR, STDOUT, Stdio, child_pipes

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from sampan.runtime.child import Child
    from sampan.runtime.supervisor.messages import Message
    from sampan.runtime.supervisor.server import Connection

    Operation = tuple[type[Message], Callable[[Any, list[int]], Mapping[str, object]]]

__all__ = ["EXIT_FILE", "Monitor"]

EXIT_FILE = "exit.json"

_SHIELD = "-999"
_ALIVE = ("created", "running", "paused")


class _Init:
    """The started init. ``Child`` would hold the whole configuration for the container's life."""

    __slots__ = ("pid", "pidfd", "start_time")

    def __init__(self, child: Child) -> None:
        self.pid = child.pid
        self.pidfd = child.pidfd
        self.start_time = child.start_time


class Monitor:
    """See the module's text."""

    def __init__(self, body: bytes, control: socket.socket) -> None:
        """Read the spawn request and open what the container's life needs.

        Raises SampanError, with nothing made yet but perhaps the run directory.
        """
        message = protocol.decode(body)
        spec = message.get("spec")
        # The request is kept small: exec needs the configuration again, seldom.
        self._body = zlib.compress(body, 1)
        message["spec"] = None if spec is None else True
        self._request = request = messages.Spawn.from_json(message)
        self._state = "creating"
        self._child: Child | None = None  # until it is started
        self._init: _Init | None = None
        self._failure: SampanError | None = None
        self._init_status: int | None = None
        self._oom_fd = -1
        self._oom_seen = 0
        self._unshielded: str | None = None
        self._group = cgroups.detect().group(request.cgroup) if request.cgroup else None
        self._log = _open_log(request.log)
        self._has_poststop = _has_poststop(spec)
        self._loop = Loop()
        self._stdio = Stdio(self._loop, self._log, stdin_once=request.stdin_once)
        self._execs = Execs(self._loop, self._on_exec_exit)
        self._directory, self._made_directory = _open_directory(request.run_dir)
        identity = {"id": request.id, "pid": os.getpid(), "cgroup": request.cgroup}
        try:
            self._write(MONITOR_FILE, {**identity, "start_time": start_time(os.getpid())})
            self._server = Server(self._loop, self._directory, self._on_request)
        except SampanError:
            self._forget_directory()
            raise
        self._server.adopt(control)
        self._wakeup = _watch_children()
        self._loop.watch(self._wakeup, READ, self._on_children)
        self._operations: dict[str, Operation] = {
            "status": (messages.Plain, self._status),
            "start": (messages.Plain, self._start_asked),
            "kill": (messages.Kill, self._kill),
            "pause": (messages.Plain, self._pause),
            "resume": (messages.Plain, self._resume),
            "resize": (messages.Resize, self._resize),
            "attach": (messages.Attach, self._attach),
            "exec": (messages.Exec, self._exec),
            "usage": (messages.Plain, self._usage),
            "update": (messages.Update, self._update),
        }
        self._create(spec)

    def run(self) -> None:
        """Stay with the container to its end."""
        if self._request.start and self._failure is None:
            self._start()
        while self._failure is None and self._init_status is None:
            self._loop.turn()
        if self._failure is not None:
            self._undo(self._failure)
        elif self._init_status is not None:
            self._end(self._init_status)
        while self._stdio.has_clients or self._execs.has_clients or self._server.pending:
            self._loop.turn()
        self._server.close()

    # Making and ending

    def _create(self, spec: object) -> None:
        request = self._request
        theirs: tuple[int, int, int] | None = None
        try:
            if not request.terminal:
                theirs, ours = child_pipes(request.stdin)
                self._stdio.use_pipes(ours)
            self._child = child = create(
                Launch(
                    id=request.id,
                    spec=Spec.from_json(spec, "spec"),
                    bundle=request.bundle,
                    group=self._group,
                    stdio=theirs,
                    rootfs=request.rootfs,
                    init_process=request.init,
                )
            )
            self._init = _Init(child)
            if child.console >= 0:
                self._stdio.use_terminal(child.console, request.stdin)
                child.console = -1
                if request.console_size is not None:
                    self._stdio.resize(*messages.window(request.console_size))
            if self._group is not None:
                watch = self._group.oom_watch()
                if watch is not None:
                    self._oom_fd = watch
                    self._loop.watch(watch, READ, self._on_oom)
        except OSError as error:
            self._failure = _in_tree(error)
            return
        except SampanError as error:
            self._failure = error
            return
        finally:
            for fd in theirs or ():
                os.close(fd)
        # Only now: init would have inherited it.
        self._unshielded = _shield_from_oom()
        self._state = "created"
        self._server.broadcast(
            {
                "event": "created",
                "pid": child.pid,
                "start_time": child.start_time,
                "warnings": child.warnings,
            }
        )

    def _start(self) -> None:
        child, self._child = self._child, None
        assert child is not None  # the state is "created"
        try:
            child.start()
        except SampanError as error:
            self._init = None  # and undone
            self._failure = error
            return
        except OSError as error:
            self._init = None
            self._failure = _in_tree(error)
            return
        self._state = "running"
        self._server.broadcast({"event": "started", "at": time.time()})

    def _undo(self, failure: SampanError) -> None:
        if self._child is not None:
            self._child.abort()
            self._init = None
        self._release()
        self._forget_directory()
        self._server.broadcast({"event": "failed", "error": messages.error_fields(failure)})

    def _end(self, status: int) -> None:
        at = time.time()
        code, number = exit_code(status)
        usage: Mapping[str, object] | None = None
        oom = False
        if self._group is not None:
            self._group.kill()
            oom = code == 128 + signal.SIGKILL and self._group.oom_count() > 0
            usage = self._group.account().to_json()
        self._state = "stopped"
        self._execs.end()
        warnings = self._release()
        if self._has_poststop and (spec := self._spec()).hooks is not None:
            request = self._request
            state = hooks.state_json(spec, request.id, request.bundle, "stopped", 0)
            warnings += hooks.run_poststop(spec.hooks.poststop, state)
        record = {
            "code": code,
            "signal": number,
            "oom": oom,
            "at": at,
            "usage": usage,
            "log_dropped": self._log.dropped if self._log is not None else 0,
            "warnings": warnings,
        }
        try:
            self._write(EXIT_FILE, record)
        except KernelError as error:
            warnings.append(error.message)
        self._remove(MONITOR_FILE)
        self._server.broadcast({"event": "exit", **record})

    def _release(self) -> list[str]:
        """Let go of everything but the clients and the daemons; returns what went wrong.

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
        self._server.close_listener()
        self._loop.forget(self._wakeup)
        self._stdio.finish(all_dead=True)
        if self._log is not None:
            self._log.close()
        if self._init is not None:
            os.close(self._init.pidfd)
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
            if self._init is not None and pid == self._init.pid:
                self._init_status = status
            else:
                # A process of ours, or an orphan of the container's that became our child.
                self._execs.reaped(pid, status)

    def _on_exec_exit(self, exec_id: str, code: int) -> None:
        self._server.broadcast({"event": "exec-exit", "exec_id": exec_id, "code": code})

    def _on_oom(self, _: int) -> None:
        try:
            os.read(self._oom_fd, 4096)
        except BlockingIOError:
            return
        if self._group is not None and (count := self._group.oom_count()) > self._oom_seen:
            self._oom_seen = count
            self._server.broadcast({"event": "oom"})

    def _on_request(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> None:
        seq = message.get("seq")
        try:
            if not isinstance(seq, int):
                raise InvalidArgument("request: seq: expected an integer")
            operation = self._operations.get(message.get("op", ""))
            if operation is None:
                raise InvalidArgument(f"request: no operation {message.get('op')!r}")
            kind, act = operation
            reply = act(kind.from_json(message), fds)
        except OSError as error:
            connection.send({"reply": seq, "error": messages.error_fields(_in_tree(error))})
        except SampanError as error:
            connection.send({"reply": seq, "error": messages.error_fields(error)})
        else:
            connection.send({"reply": seq, "ok": True, **reply})
        finally:
            for fd in fds:
                os.close(fd)

    # Requests

    def _living(self, *states: str) -> _Init:
        """The container's init, if the container is in one of the states (all that live)."""
        if self._init is None or self._state not in (states or _ALIVE):
            hint = "; resume it first" if self._state == "paused" else ""
            raise Conflict(f"container {self._request.id}: is {self._state}{hint}")
        return self._init

    def _status(self, _: messages.Plain, fds: list[int]) -> Mapping[str, object]:
        return {
            "state": self._state,
            "pid": self._init.pid if self._init is not None else 0,
            "start_time": self._init.start_time if self._init is not None else 0,
            "execs": self._execs.status(),
            "log_dropped": self._log.dropped if self._log is not None else 0,
        }

    def _start_asked(self, _: messages.Plain, fds: list[int]) -> Mapping[str, object]:
        self._living("created")
        self._start()
        if self._failure is not None:
            raise self._failure
        return {}

    def _kill(self, request: messages.Kill, fds: list[int]) -> Mapping[str, object]:
        init = self._living()
        if not 1 <= request.signal < signal.NSIG:
            raise InvalidArgument(f"kill: no signal {request.signal}")
        if request.all and self._group is not None:
            for pid in self._group.processes():
                try:
                    os.kill(pid, request.signal)
                except ProcessLookupError:
                    continue
        else:
            pidfd_send_signal(init.pidfd, request.signal)
        if request.signal == signal.SIGKILL and self._state == "paused" and self._group is not None:
            self._group.thaw()  # A frozen process of cgroup v1 does not even die.
            self._state = "running"
        return {}

    def _pause(self, _: messages.Plain, fds: list[int]) -> Mapping[str, object]:
        self._living("running")
        self._cgroup("pause").freeze()
        self._state = "paused"
        return {}

    def _resume(self, _: messages.Plain, fds: list[int]) -> Mapping[str, object]:
        if self._state != "paused":
            raise Conflict(f"container {self._request.id}: is {self._state}, not paused")
        self._cgroup("resume").thaw()
        self._state = "running"
        return {}

    def _resize(self, request: messages.Resize, fds: list[int]) -> Mapping[str, object]:
        self._living()
        if request.exec_id is None:
            self._stdio.resize(request.rows, request.cols)
        else:
            self._execs.resize(request.exec_id, request.rows, request.cols)
        return {}

    def _attach(self, request: messages.Attach, fds: list[int]) -> Mapping[str, object]:
        if request.replay:
            raise NotSupported("attach: replay: the daemon reads the log itself")
        if len(fds) != 1:
            raise InvalidArgument(f"attach: expected one stream, not {len(fds)}")
        self._living()
        streams = frozenset((STDOUT,) * request.stdout + (STDERR,) * request.stderr)
        self._stdio.attach(
            stream_socket(fds.pop()),
            stdin=request.stdin,
            streams=streams,
            multiplex=request.multiplex,
            detach_keys=request.detach_keys,
        )
        return {}

    def _exec(self, request: messages.Exec, fds: list[int]) -> Mapping[str, object]:
        init = self._living("running")
        spec = self._spec()
        if self._unshielded is not None and request.process.oom_score_adj is None:
            score = spec.process.oom_score_adj if spec.process is not None else None
            score = int(self._unshielded) if score is None else score
            request = request.replace(process=request.process.replace(oom_score_adj=score))
        target = RunningContainer(
            init.pid,
            spec,
            self._group,
            id=self._request.id,
            bundle=self._request.bundle,
            start_time=init.start_time,
        )
        return {"pid": self._execs.start(target, request, fds)}

    def _usage(self, _: messages.Plain, fds: list[int]) -> Mapping[str, object]:
        self._living()
        return {"usage": self._cgroup("usage").account().to_json()}

    def _update(self, request: messages.Update, fds: list[int]) -> Mapping[str, object]:
        self._living()
        self._cgroup("update").update(request.resources)
        return {}

    def _spec(self) -> Spec:
        """The container's configuration, decoded anew: it is needed seldom, and large."""
        return Spec.from_json(protocol.decode(zlib.decompress(self._body))["spec"], "spec")

    def _cgroup(self, what: str) -> cgroups.Group:
        if self._group is None:
            raise Conflict(f"{what}: container {self._request.id} has no cgroup of its own")
        return self._group

    # Files

    def _write(self, name: str, value: Mapping[str, object]) -> None:
        temporary = f".{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(temporary, flags, 0o600, dir_fd=self._directory)
            try:
                os.write(fd, json.dumps(value).encode())
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            target = f"{self._request.run_dir}/{name}"
            raise KernelError("write", error.errno or 0, target) from error

    def _forget_directory(self) -> None:
        self._remove(MONITOR_FILE)
        if self._made_directory:
            try:
                os.rmdir(self._request.run_dir)
            except OSError:
                pass  # The daemon put something there, or took it away: it is the daemon's.

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            pass


def _has_poststop(spec: object) -> bool:
    hooks = spec.get("hooks") if isinstance(spec, dict) else None
    return bool(isinstance(hooks, dict) and hooks.get("poststop"))


def _open_log(options: messages.LogOptions | None) -> Log | None:
    if options is None:
        return None
    return open_log(
        options.driver, options.path, options.max_size, options.max_file, options.tag_attrs
    )


def _open_directory(path: str) -> tuple[int, bool]:
    """(descriptor, whether it was made now) of the run directory; mode 0700 when made."""
    made = True
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        made = False
    except OSError as error:
        raise KernelError("mkdir", error.errno or 0, path) from error
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW), made
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from error


def _watch_children() -> int:
    """A descriptor that is readable after a SIGCHLD."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _no_handler)
    return reader


def _no_handler(number: int, frame: object) -> None:
    """SIGCHLD must have a handler to be written to the wake-up descriptor."""


def _shield_from_oom() -> str | None:
    """Ask the kernel to kill the container first; the old value, or None where we may not."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        old = os.read(fd, 16).decode("ascii").strip()
        os.write(fd, _SHIELD.encode("ascii"))
    except OSError:
        return None  # Lowering it takes CAP_SYS_RESOURCE.
    finally:
        os.close(fd)
    return old


def _in_tree(error: OSError) -> SampanError:
    """An operating system's error as one of ours, so that it can be told to the daemon."""
    if isinstance(error, SampanError):
        return error
    return KernelError("monitor", error.errno or 0, str(error.filename or ""))
