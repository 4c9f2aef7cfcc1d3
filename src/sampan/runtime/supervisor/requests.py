"""What a monitor is asked, by any daemon that is connected to it.

A request is a message of a type of its own (``messages``) and perhaps descriptors; it is answered
in the order that its work allows, by its ``seq``. Each is refused in a state it does not fit, with
that state in the error.
"""

from __future__ import annotations

import os
import signal
import socket
from errno import ESRCH
from typing import TYPE_CHECKING, Any

from sampan.errors import Conflict, InvalidArgument, KernelError, SampanError
from sampan.kernel.processes import pidfd_send_signal
from sampan.runtime.supervisor import forks, messages
from sampan.runtime.supervisor.clients import stream_socket
from sampan.runtime.supervisor.exec_maker import stand_by
from sampan.runtime.supervisor.streams import STDERR, STDOUT

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping

    from sampan.kernel.cgroups import Group
    from sampan.runtime.supervisor.clients import Client
    from sampan.runtime.supervisor.execs import Execs
    from sampan.runtime.supervisor.logs.drivers import Logs
    from sampan.runtime.supervisor.messages import Message
    from sampan.runtime.supervisor.rest import Keeper
    from sampan.runtime.supervisor.server import Connection, Server
    from sampan.runtime.supervisor.streams import Stdio

    Reply = Callable[[Mapping[str, object]], None]
    Operation = tuple[
        type[Message], Callable[["Requests", Any, list[int], Reply], Mapping[str, object] | None]
    ]

__all__ = ["Requests"]

_ALIVE = ("created", "running", "paused")


class Requests:
    """The part of a ``Monitor`` that answers. Each operation returns its reply's fields, or None
    when it will reply later; what it reads and changes is the monitor's."""

    _made: Mapping[str, Any]
    _keeper: Keeper | None
    _maker: _socket.socket | None
    _state: str
    _is_to_start: bool
    _start_reply: Reply | None
    _init_status: int | None
    _pid: int
    _pidfd: int
    _group: Group | None
    _log: Logs | None
    _stdio: Stdio
    _execs: Execs
    _server: Server
    _held: dict[int, Client]
    _attachments: int
    _early: list[tuple[messages.Attach, socket.socket, Reply]]

    def _on_request(self, connection: Connection, message: dict[str, Any], fds: list[int]) -> None:
        seq = message.get("seq")

        def reply(fields: Mapping[str, object]) -> None:
            if seq != 0:
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
            reply({"error": messages.error_fields(forks.in_tree(error))})
        else:
            if fields is not None:
                reply({"ok": True, **fields})
        finally:
            for fd in fds:
                os.close(fd)

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
            self._group.signal(request.signal)
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
        self, request: messages.Prepare, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        self._require("running")
        self._execs.prepare(request.draft)
        return {}

    def _exec(self, request: messages.Exec, fds: list[int], reply: Reply) -> None:
        self._require("running")
        self._execs.start(request, fds, _answering(reply))

    def _exec_drafted(self, request: messages.Drafted, fds: list[int], reply: Reply) -> None:
        self._require("running")
        self._execs.start(self._execs.draft(request.exec_id), fds, _answering(reply))

    def _usage(self, _: messages.Plain, fds: list[int], reply: Reply) -> Mapping[str, object]:
        self._require()
        return {"usage": self._cgroup("usage").account().to_json()}

    def _update(
        self, request: messages.Update, fds: list[int], reply: Reply
    ) -> Mapping[str, object]:
        self._require()
        return {"warnings": self._cgroup("update").update(request.resources)}


_OPERATIONS: dict[str, Operation] = {
    "status": (messages.Plain, Requests._status),
    "start": (messages.Plain, Requests._start),
    "kill": (messages.Kill, Requests._kill),
    "pause": (messages.Plain, Requests._pause),
    "resume": (messages.Plain, Requests._resume),
    "resize": (messages.Resize, Requests._resize),
    "attach": (messages.Attach, Requests._attach),
    "release": (messages.Release, Requests._release_output),
    "prepare-exec": (messages.Prepare, Requests._prepare_exec),
    "exec": (messages.Exec, Requests._exec),
    "exec-drafted": (messages.Drafted, Requests._exec_drafted),
    "usage": (messages.Plain, Requests._usage),
    "update": (messages.Update, Requests._update),
}


def _answering(reply: Reply) -> Reply:
    def answer(fields: Mapping[str, object]) -> None:
        reply(fields if "error" in fields else {"ok": True, **fields})

    return answer


def _hang_up(sock: socket.socket) -> None:
    """End a connection, also for other holders of the same socket."""
    with sock:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The peer is gone.
