"""Makers: short-lived forks of a monitor that do what takes memory, once.

To decode a configuration, compile its filter and build a container touches thousands of pages that
a monitor would then own for the container's life, and may take as long as a hook likes. So the
monitor forks a maker for each container and each exec (``forks``), stays in its loop, and is told
the result: the new process is the *monitor's* child (CLONE_PARENT, ``sibling`` of the maker), and
every descriptor the monitor needs comes over their socket. The maker dies with the monitor.

An exec's maker is ``exec_maker``'s.

The container's maker is forked with its monitor before there is a request (``stand_by``), shares
its descriptors (``asleep``), talks to the daemon itself as far as it can, and to the monitor in a
form that costs nothing in its sleep:

    maker to monitor                                   to the daemon
    the poll set; all else is in place                 created
    or its end: nothing was left behind                failed
    {"started": unix seconds}, and exit status 0       started
    or {"failed": error}, and another: undone but      (the monitor does)
      for our files

The words are in marshal's form, for when the monitor is awake. Unless start was asked for at once,
the monitor sends a byte before the second. A maker that ends without a last word was killed.
"""

from __future__ import annotations

import _socket
import fcntl
import json
import marshal
import os
import select
import time
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import InvalidArgument, SampanError, Unavailable
from sampan.kernel.bare import unshare_files
from sampan.kernel.processes import start_time
from sampan.kernel.terminals import set_window_size
from sampan.oci.runtime import Linux, Spec
from sampan.runtime import devices, sysctl
from sampan.runtime import spec as rules
from sampan.runtime.gate import Channel
from sampan.runtime.launch import Launch, begin
from sampan.runtime.mount_plan import Plan as MountPlan
from sampan.runtime.namespaces import Plan
from sampan.runtime.plugs import inside, outside
from sampan.runtime.process import Entry
from sampan.runtime.supervisor import further, messages, protocol
from sampan.runtime.supervisor.files import (
    MONITOR_FILE,
    open_directory,
    remove,
    remove_directory,
    write_json,
)
from sampan.runtime.supervisor.forks import CRASHED, become_maker, end, in_tree
from sampan.runtime.supervisor.handover import (
    CONTROL,
    ENDED,
    REPORT,
    SOCKET_FD,
    TAKEN,
    TAKEN_OVER,
)
from sampan.runtime.supervisor.heir import Heir, takes_over
from sampan.runtime.supervisor.logs.drivers import open_logs
from sampan.runtime.supervisor.rest import LENGTH, PLACE, places
from sampan.runtime.supervisor.sample import SAMPLE
from sampan.runtime.supervisor.server import SOCKET_NAME, listen
from sampan.runtime.supervisor.streams import child_pipes
from sampan.runtime.supervisor.warm import hierarchy

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sampan.oci.runtime import Mount
    from sampan.runtime.child import Child
    from sampan.runtime.supervisor.messages import Spawn

__all__ = [
    "STDIO",
    "rehearse",
    "remember_zygote",
    "stand_by",
]

_FAILED = 1
_zygote: list[int] = []
_SHIELD = b"-999"
STDIO = ("stdin", "stdout", "stderr")


def remember_zygote() -> None:
    """Note that this process is the zygote: who has it for a parent has lost its monitor."""
    _zygote.append(os.getpid())


def stand_by(channel: int, lifeline: int) -> NoReturn:
    """Be the maker of the next container that is asked for, in a fork of its monitor that shares
    its descriptors. ``channel`` leads to the monitor, ``lifeline`` to the zygote."""
    code = CRASHED
    try:
        become_maker()
        if os.getppid() not in _zygote:
            code = _make_next(channel, lifeline)
    finally:
        end(code)


def _make_next(channel: int, lifeline: int) -> int:
    """Returns this process's exit status: 0 when the monitor may sleep on, or need not live."""
    if not select.select([SOCKET_FD], [], [], 0)[0]:
        rehearse()  # There is time for it: nobody waits.
    taken = _take(lifeline)
    if taken is None:
        return 0
    packet, flags, fds = taken
    os.dup2(fds[-1], CONTROL, inheritable=False)
    daemon = _Daemon(CONTROL)
    ours = protocol.connection(channel)
    try:
        body = protocol.body_of(packet, flags, fds[:-1])
        child, at_once = make_container(body, fds[-4:-1], ours, daemon, lifeline)
    except (SampanError, OSError) as error:
        daemon.tell({"event": "failed", "error": messages.error_fields(in_tree(error))})
        return 0
    return _start(child, at_once, ours, daemon)


def _take(lifeline: int) -> tuple[bytes, int, list[int]] | None:
    """Wait for a spawn request; None when there will be none."""
    poll = select.poll()
    poll.register(SOCKET_FD, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    if any(fd == lifeline for fd, _ in poll.poll()):
        return None  # The zygote has ended.
    sock = _socket.socket(fileno=SOCKET_FD)
    try:
        packet, ancillary, flags, _ = sock.recvmsg(
            protocol.INLINE_LIMIT + 1, protocol.ANCILLARY, _socket.MSG_CMSG_CLOEXEC
        )
    except OSError:
        packet, ancillary, flags = b"", [], 0
    finally:
        sock.detach()
    os.write(lifeline, TAKEN if packet else ENDED)
    fds = protocol.rights(ancillary)
    return (packet, flags, fds) if fds else None


class _Daemon:
    """The daemon's connection, as long as there is one."""

    __slots__ = ("_poll", "_socket")

    def __init__(self, fd: int) -> None:
        self._socket = protocol.connection(fd)
        self._poll = select.poll()
        self._poll.register(fd, 0)

    def require(self) -> None:
        """Raises Unavailable when the daemon that asked has ended.

        The next one looks for what was begun when it starts, and once: what cannot be seen by then
        must not begin.
        """
        if self._poll.poll(0):
            raise Unavailable("the daemon that asked for the container has ended")

    def tell(self, event: Mapping[str, object]) -> None:
        try:
            protocol.send(self._socket, event)
        except OSError:
            pass  # It is gone; another may connect to the monitor and ask.


def _start(child: Child, at_once: bool, channel: socket.socket, daemon: _Daemon) -> int:
    """Start the container when it is time. The monitor is told before the daemon can ask it."""
    try:
        if child.conversation is not None:
            child.complete()
        if at_once:
            at = time.time()  # Not later than its first instruction.
            child.release()
        daemon.tell(
            {
                "event": "created",
                "pid": child.pid,
                "start_time": child.start_time,
                "warnings": child.warnings,
            }
        )
        if not at_once:
            if not channel.recv(1):
                return 0  # The monitor ended, and takes the container with it.
            at = time.time()
            child.release()
        child.follow()
    except (SampanError, OSError) as error:
        channel.send(marshal.dumps({"failed": messages.error_fields(in_tree(error))}))
        return _FAILED
    channel.send(marshal.dumps({"started": at}))
    daemon.tell({"event": "started", "at": at})
    return 0


def make_container(
    body: bytes, given: list[int], channel: socket.socket, daemon: _Daemon, lifeline: int
) -> tuple[Child, bool]:
    """Make the container of a spawn request, and report it to the monitor; whether to start it now.

    Returns only if this process does not become the container's init (``heir``).

    ``given``: the descriptors that came with it. The report is made as soon as all that the monitor
    is to own is there. That may be before the child waits at the gate, and then completing it is
    left (``Child.conversation``): what goes wrong from here on is undone with the monitor.
    """
    request, decoded = _decode(body)
    if decoded.process is not None and decoded.process.terminal != request.terminal:
        raise InvalidArgument("terminal: the request and spec.process.terminal contradict")
    group = hierarchy().group(request.cgroup) if request.cgroup else None
    daemon.require()
    directory, directory_is_new = open_directory(request.run_dir)
    try:
        fds = {"directory": directory, **_open(request, directory)}
        daemon.require()
        fds |= _claim(request.rootfs)
        theirs: tuple[int, int, int] | None = None
        if request.stdio:
            theirs = _given_stdio(request, given)
        elif not request.terminal:
            theirs, ours = child_pipes(request.stdin)
            fds |= {name: fd for name, fd in zip(STDIO, ours, strict=True) if fd >= 0}
        made = {
            "id": request.id,
            "run_dir": request.run_dir,
            "directory_is_new": directory_is_new,
            "bundle": request.bundle,
            "cgroup": request.cgroup,
            "log": request.log.to_json() if request.log is not None else None,
            "stdin": request.stdin,
            "stdin_once": request.stdin_once,
            "start": request.start,
            "bound": request.bound,
            "monitor": os.getppid(),
            "poststop": decoded.hooks is not None and bool(decoded.hooks.poststop),
            "further": further.kept(decoded),
        }

        def shield() -> None:
            made["unshielded"] = _shield_monitor()

        def report(child: Child, taken_over: bool = True) -> None:
            fds.update(_observe(request, child))
            if group is not None and (watch := group.oom_watch()) is not None:
                fds["oom"], made["oom_events"] = watch
            fds.update((f"root{index}", fd) for index, fd in enumerate(child.roots))
            made.update(pid=child.pid, start_time=child.start_time)
            _report(channel, made, fds, body, taken_over)

        launch = Launch(
            id=request.id,
            spec=decoded,
            bundle=request.bundle,
            group=group,
            stdio=theirs,
            rootfs=request.rootfs,
            init_process=request.init,
            sibling=True,
            hold_roots=True,
            plugs=request.plugs,
            links=request.links,
        )
        if takes_over(request, decoded) and decoded.process is not None:
            launch.heir = Heir(
                channel.fileno(),
                lifeline,
                process=decoded.process,
                at_once=request.start,
                shield=shield,
                report=report,
                tell=daemon.tell,
            )
        child = begin(launch)
        try:
            if request.terminal or not child.start_time:
                child.complete()
            shield()
            report(child, taken_over=False)
        except BaseException:
            child.abort()
            raise
    except BaseException:
        remove(MONITOR_FILE, directory)
        remove(SOCKET_NAME, directory)
        if directory_is_new:
            remove_directory(request.run_dir)
        raise
    return child, request.start


def _given_stdio(request: Spawn, given: list[int]) -> tuple[int, int, int]:
    if request.terminal or request.stdin or request.log is not None:
        raise InvalidArgument(
            "stdio: of what does not pass here there is no terminal, input or log"
        )
    if len(given) != 3:
        raise InvalidArgument(f"stdio: expected three descriptors, not {len(given)}")
    return given[0], given[1], given[2]


def _decode(body: bytes) -> tuple[Spawn, Spec]:
    message = protocol.decode(body)
    spec = message.get("spec")
    message["spec"] = None if spec is None else True
    request = messages.Spawn.from_json(message)
    return request, further.with_filter(Spec.from_json(spec, "spec"), request.seccomp)


def rehearse() -> None:
    """Read, check and plan a container that is not made, as ``make_container`` would begin.

    What a process did once it does in half the time: the memory it writes to is its own by then.
    Code that ran some times is specialised and written to no more (PEP 659). Nobody waits for this,
    so whoever does have something to do goes first.
    """
    request, spec = _decode(SAMPLE)
    os.sched_yield()
    group = hierarchy().group(request.cgroup or "/")
    launch = Launch(
        id=request.id, spec=spec, bundle=request.bundle, group=group, rootfs=request.rootfs
    )
    rules.validate(launch.spec, launch.bundle)
    os.sched_yield()
    Plan(launch.spec).close()
    linux = spec.linux or Linux()
    sysctl.validate(linux)
    devices.planned(linux)
    os.sched_yield()
    for mount in (*request.rootfs, *spec.mounts):
        MountPlan(mount, request.bundle)
    for plug in request.plugs:
        outside(plug, 1)
        inside(plug, 1)
    assert spec.process is not None
    os.sched_yield()
    Entry(
        spec.process,
        linux,
        Channel(-1),
        is_init=True,
        in_user_namespace=False,
        seccomp_filter=None,
        death_signal=0,
        kept=0,
    ).rehearse()
    json.dumps({"id": request.id})
    marshal.dumps({"id": request.id})


def _report(
    channel: socket.socket,
    made: dict[str, object],
    fds: dict[str, int],
    body: bytes,
    taken_over: bool,
) -> None:
    """Leave everything to the monitor; our descriptors are apart from here on."""
    numbers = {name: number for number, name in enumerate(fds, REPORT + 1)}
    for name, number in numbers.items():
        os.dup2(fds[name], number, inheritable=False)
    text = marshal.dumps({**made, "fds": numbers})
    memory = os.memfd_create("sampan-report", os.MFD_CLOEXEC)
    os.dup2(memory, REPORT, inheritable=False)
    os.writev(memory, [LENGTH.pack(len(text)), text, body])
    watched = places(made, numbers)
    end = REPORT + 1 + len(fds)
    unshare_files()
    awaited = {numbers["oom"]: made["oom_events"]} if "oom" in numbers else {}
    channel.send(
        b"".join(
            PLACE.pack(fd, awaited.get(fd, select.POLLIN))
            for fd in (TAKEN_OVER if taken_over else -1, *watched, end)
        )
    )


def _open(request: Spawn, directory: int) -> dict[str, int]:
    """The files and the socket that the monitor will own."""
    monitor = os.getppid()
    identity = {"id": request.id, "pid": monitor, "cgroup": request.cgroup}
    write_json(MONITOR_FILE, {**identity, "start_time": start_time(monitor)}, directory)
    fds = {"listener": listen(directory).detach()}
    if request.log is not None:
        fds |= open_logs(request.log)
    return fds


def _claim(recipe: tuple[Mount, ...]) -> dict[str, int]:
    """Wait until no monitor of an earlier start holds what is written to; then it is ours.

    A monitor holds its container's overlays a little longer than that lives, and of two mounts of
    one upper directory the kernel says what happens is undefined.
    """
    for option in recipe[0].options if recipe else ():
        if option.startswith("workdir="):
            fd = os.open(option.partition("=")[2], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return {"claim": fd}
    return {}


def _observe(request: Spawn, child: Child) -> dict[str, int]:
    fds = {"pidfd": child.pidfd}
    if child.console >= 0:
        fds["terminal"] = child.console
        if request.console_size is not None:
            set_window_size(child.console, *messages.window(request.console_size))
    return fds


def _shield_monitor() -> str | None:
    """Have the kernel kill the container first, not its monitor; the monitor's old value, or None
    where we may not. Not before init was forked, which would have inherited it."""
    try:
        fd = os.open(f"/proc/{os.getppid()}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        old = os.read(fd, 16).decode("ascii").strip()
        os.write(fd, _SHIELD)
    except OSError:
        return None  # Lowering it takes CAP_SYS_RESOURCE.
    finally:
        os.close(fd)
    return old
