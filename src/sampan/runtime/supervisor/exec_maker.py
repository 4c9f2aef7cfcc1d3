"""The maker of a further process: what a monitor forks for each exec (``maker`` says why).

Mostly it becomes that process (``runtime.entering``):

    process to monitor                                monitor to process
    {"made": {"pid", "fds", "succeeds": true}},       x  your old self comes back no more
      with the descriptors of ``fds``
    {"failed": error, "succeeds": true}               the same, unless it was said
    its end, by execve(2): it runs

Nothing is executed, and nothing ends, before the old self is stopped or killed (``heir``). Mostly
it is stopped, and killed when the program runs: two processes have the interpreter's memory, and
the last frees it, which takes a millisecond that nobody is to wait for. It has the connection too,
so the report brings another (``channel`` of ``fds``), on which all else is said.

Where that is not possible the maker forks, and says ``{"made": {"pid", "fds"}}`` or ``{"failed":
error}``, and ends.

It may be forked before there is a request (``Execs.prepare``): it gets ready, and reads the request
from the same connection, ``{"request": ..., "with_stream": ...}``. Where ``with_stream`` is null
that is a draft: it does what can be done outside of the container, and a second message says the
rest. What it does is rehearsed in the zygote, for whoever runs code for the first time writes to
the memory it shares.
"""

from __future__ import annotations

import json
import os
import select
from typing import TYPE_CHECKING, Any

from sampan.errors import Conflict
from sampan.kernel.bare import unshare_files
from sampan.kernel.processes import get_rlimit, start_time
from sampan.oci.runtime import Process, Rlimit, Spec
from sampan.runtime import entering, gate
from sampan.runtime.conversation import set_limits
from sampan.runtime.exec import RunningContainer, execute
from sampan.runtime.process import become_child
from sampan.runtime.supervisor import further, messages, protocol
from sampan.runtime.supervisor.heir import limits_are_harmless
from sampan.runtime.supervisor.maker import STDIO
from sampan.runtime.supervisor.sample import EXEC, SAMPLE
from sampan.runtime.supervisor.streams import child_pipes, null_stdio
from sampan.runtime.supervisor.warm import hierarchy

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sampan.runtime.supervisor.messages import Exec

__all__ = ["rehearse", "stand_by"]


class _Heir(gate.Channel):
    """The parent's part of the conversation, held with oneself; ``fd`` leads to the monitor.

    From the seccomp filter on only read(2) and write(2) are sure to be allowed.
    """

    __slots__ = ("_fds", "_is_alone", "_monitor", "_pid", "_process")
    wants_limits_early = True

    def __init__(self, monitor: socket.socket, process: Process, fds: dict[str, int]) -> None:
        super().__init__(monitor.fileno())
        self._monitor = monitor
        self._process = process
        self._fds = fds
        self._pid = 0
        self._is_alone = False

    def arrived(self, pid: int, pidfd: int) -> None:
        self._pid = pid
        self._fds["pidfd"] = pidfd
        if not self._process.terminal:
            self._report()

    def _report(self) -> None:
        unshare_files()
        ours, theirs = protocol.pair()
        with theirs, self._monitor:
            self._fds["channel"] = theirs.fileno()
            _say_made(self._monitor, self._pid, self._fds, succeeds=True)
        self.fd = ours.detach()

    def send(self, tag: bytes, body: bytes = b"", descriptor: int = -1) -> None:
        if tag == b"T":
            self._fds["terminal"] = descriptor
            self._report()
        elif tag == b"L":
            set_limits(0, self._process)
        elif tag == b"E":
            error = messages.error_fields(gate.decode_error(body))
            os.write(self.fd, json.dumps({"failed": error, "succeeds": True}).encode("ascii"))
            self._wait_until_alone()
        elif tag != b"W":
            raise Conflict(f"a process that is its own maker cannot ask for {tag!r}")

    def expect(self, tag: bytes) -> bytes:
        if tag == b"x":
            self._wait_until_alone()
        return b""

    def _wait_until_alone(self) -> None:
        if not self._is_alone:
            if not os.read(self.fd, 1):
                os._exit(1)  # The monitor is gone: nobody would know of the program.
            self._is_alone = True


def stand_by(
    channel: socket.socket, *, made: Mapping[str, Any], init: tuple[int, int], oom: str | None
) -> None:
    """Execute the further process that is asked for on ``channel``, and report it; returns only if
    this does not become the process, or nothing is asked for.

    ``made``: the container's maker's report. ``init``: the container's pid and start time. ``oom``:
    the OOM score the process gets where its configuration says nothing, or None to leave it alone.
    """
    target = _target(made, init)
    score = further.oom_score(made["further"], oom)
    if not select.select([channel], [], [], 0)[0]:
        rehearse()  # There is time for it: nobody waits.
    way = entering.Way(target)
    become_child()
    received = protocol.receive(channel)
    if received is None:
        return
    asked = received[0]
    request = messages.Exec.from_json(asked["request"])
    process = _process(request, score)
    fds: dict[str, int] = {}
    heir = None
    if limits_are_harmless(process) and entering.is_possible(target, process, way):
        heir = _Heir(channel, process, fds)
        ready = entering.get_ready(target, process, heir)
    if asked["with_stream"] is None:
        received = protocol.receive(channel)
        if received is None:
            return
        asked = received[0]
    theirs: tuple[int, int, int] | None = None
    if not request.terminal and asked["with_stream"]:
        theirs, ours = child_pipes(request.stdin)
        fds |= {name: fd for name, fd in zip(STDIO, ours, strict=True) if fd >= 0}
    elif not request.terminal:
        theirs = null_stdio()
    if heir is not None:
        entering.become(ready, way, stdio=theirs, arrived=heir.arrived)
    child = execute(target, process, theirs, sibling=True)
    fds["pidfd"] = child.pidfd
    if child.console >= 0:
        fds["terminal"] = child.console
    _say_made(channel, child.pid, fds, succeeds=False)


def _say_made(channel: socket.socket, pid: int, fds: dict[str, int], *, succeeds: bool) -> None:
    made = {"pid": pid, "fds": list(fds), "succeeds": succeeds}
    protocol.send(channel, {"made": made}, tuple(fds.values()))


def rehearse() -> None:
    """Decode, check and report an exec that is not made; whoever has something to do goes first."""
    message = protocol.decode(SAMPLE)
    spec = Spec.from_json(message["spec"], "spec")
    made = {**message, "further": further.kept(spec)}
    os.sched_yield()
    own = os.getpid()
    ours, theirs = protocol.pair()
    with ours, theirs:
        protocol.send(ours, {"request": EXEC, "with_stream": True})
        received = protocol.receive(theirs)
        assert received is not None
        request = messages.Exec.from_json(received[0]["request"])
        process = _process(request, further.oom_score(made["further"], "0"))
        # Its limits are this process's own: setting those has no effect.
        limits = tuple(
            Rlimit(type=limit.type, soft=soft, hard=hard)
            for limit in process.rlimits
            for soft, hard in (get_rlimit(0, limit.type),)
        )
        process = process.replace(rlimits=limits)
        limits_are_harmless(process)
        os.sched_yield()
        heir = _Heir(theirs, process, {})
        entering.rehearse(_target(made, (own, start_time(own))), process, heir)
        os.sched_yield()
        heir.arrived(own, theirs.fileno())
        received = protocol.receive(ours)
        assert received is not None
        pidfd, channel = received[1]
        os.write(channel, b"x")
        heir.send(b"W")
        heir.expect(b"x")
    pipes = child_pipes(True)
    for fd in (*pipes[0], *pipes[1], pidfd, channel, heir.fd):
        os.close(fd)


def _target(made: Mapping[str, Any], init: tuple[int, int]) -> RunningContainer:
    cgroup = made["cgroup"]
    return RunningContainer(
        init[0],
        further.configuration(made["further"]),
        hierarchy().group(cgroup) if cgroup else None,
        id=made["id"],
        bundle=made["bundle"],
        start_time=init[1],
    )


def _process(request: Exec, oom_score: int | None) -> Process:
    fields = dict(request.process) if isinstance(request.process, dict) else request.process
    if isinstance(fields, dict):
        fields["terminal"] = request.terminal
        if request.console_size is not None:
            rows, columns = messages.window(request.console_size)
            fields["consoleSize"] = {"height": rows, "width": columns}
        if fields.get("oomScoreAdj") is None:
            fields["oomScoreAdj"] = oom_score
    return Process.from_json(fields, "process")
