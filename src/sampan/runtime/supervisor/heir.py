"""A maker that becomes the container's init: what it says in its parent's place, and to whom.

A fork of an interpreter costs milliseconds: its page tables are copied, and each page that is
written to after it, on either side. So a maker that has laid out a root file system does not fork
the init that is to live there. It goes on as that itself (``clone.migrate``), with all its
memory, and what is left of the maker is stopped by its monitor, which is told by the report.

    init to monitor                                       monitor to init
    the report (``maker``): everything that is the        x  your old self comes back no more
    monitor's is in its place                             s  start (where it is not to at once)
    S  and an event for the daemon: what will be true
       when this connection ends
    {"failed": ...}: it ends for another reason

The connection ends by execve(2), and then the monitor passes the event on. Nothing is executed, and
nothing ends, before the old self is stopped: it would wake up on a stack that is not its own. It is
killed when the program runs (``exec_maker`` on why).

Two things only a parent can do: run hooks in the host's namespaces before the program starts or
after, and hand a seccomp listener over. Containers that want them, and those whose PID 1 stays
ours, get an init that is forked (``takes_over``).
"""

from __future__ import annotations

import json
import marshal
import os
import time
from typing import TYPE_CHECKING

from sampan.errors import Conflict
from sampan.kernel.processes import start_time
from sampan.runtime import gate
from sampan.runtime.conversation import set_limits
from sampan.runtime.supervisor import messages
from sampan.runtime.supervisor.handover import PROMISE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.oci.runtime import Process, Spec
    from sampan.runtime.child import Child
    from sampan.runtime.supervisor.messages import Spawn

__all__ = ["Heir", "limits_are_harmless", "takes_over"]

# Limits that this program can live with while it still has work to do.
_HARMLESS_LIMITS = frozenset(
    f"RLIMIT_{name}" for name in ("CORE", "MEMLOCK", "MSGQUEUE", "NICE", "NPROC", "RTPRIO")
)
_FILES = "RLIMIT_NOFILE"
_FEWEST_FILES = 64


def takes_over(request: Spawn, spec: Spec) -> bool:
    """Whether the maker of this container may become its init."""
    linux, hooks, process = spec.linux, spec.hooks, spec.process
    if request.init or linux is None or process is None or linux.net_devices:
        return False
    if request.seccomp is not None and request.seccomp.notify:
        return False
    if linux.seccomp is not None and (request.seccomp is None or linux.seccomp.listener_path):
        return False
    if hooks is not None and any(
        (
            hooks.prestart,
            hooks.create_runtime,
            hooks.create_container,
            hooks.start_container,
            hooks.poststart,
        )
    ):
        return False
    return limits_are_harmless(process)


def limits_are_harmless(process: Process) -> bool:
    """Whether this program can do the rest of its work within a container's process's limits."""
    return all(
        limit.type in _HARMLESS_LIMITS or (limit.type == _FILES and limit.soft >= _FEWEST_FILES)
        for limit in process.rlimits
    )


class Heir(gate.Heir):
    """See the module's text. ``fd`` leads to the monitor; ``lifeline`` to the zygote, which is not
    to make the next pair while this start takes the processor. ``report`` makes the report and
    leaves the shared descriptor table; ``tell`` says an event to the daemon."""

    __slots__ = ("_at_once", "_is_alone", "_lifeline", "_process", "_report", "_shield", "_tell")

    def __init__(
        self,
        fd: int,
        lifeline: int,
        *,
        process: Process,
        at_once: bool,
        shield: Callable[[], None],
        report: Callable[[Child], None],
        tell: Callable[[Mapping[str, object]], None],
    ) -> None:
        super().__init__(fd)
        self._lifeline = lifeline
        self._process = process
        self._at_once = at_once
        self._shield = shield
        self._report = report
        self._tell = tell
        self._is_alone = False

    @property
    def kept(self) -> tuple[int, ...]:
        return (self.fd, self._lifeline)

    def prepare(self, child: Child) -> None:
        self._shield()

    def arrived(self, child: Child, terminal: tuple[int, int, bytes] | None) -> None:
        child.start_time = start_time(child.pid)
        if terminal is not None:
            child.console = terminal[0]
        self._report(child)
        self._tell(
            {
                "event": "created",
                "pid": child.pid,
                "start_time": child.start_time,
                "warnings": child.warnings,
            }
        )

    def send(self, tag: bytes, body: bytes = b"", descriptor: int = -1) -> None:
        if tag == b"L":
            set_limits(0, self._process)
        elif tag == b"E":
            self._wait_until_alone()
            error = messages.error_fields(gate.decode_error(body))
            os.write(self.fd, marshal.dumps({"failed": error}))
        elif tag not in (b"T", b"W"):
            raise Conflict(f"an init that is its own maker cannot ask for {tag!r}")

    def expect(self, tag: bytes) -> bytes:
        if tag == b"x":
            self._wait_until_alone()
            if not self._at_once and not os.read(self.fd, 1):
                raise SystemExit(0)
            # A bare write: a seccomp filter may leave little else.
            os.write(
                self.fd, PROMISE + json.dumps({"event": "started", "at": time.time()}).encode()
            )
        return b""

    def _wait_until_alone(self) -> None:
        if not self._is_alone:
            if not os.read(self.fd, 1):
                os._exit(1)  # The monitor is gone: nobody would know of the program.
            self._is_alone = True
