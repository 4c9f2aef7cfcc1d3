"""Another process in a running container (setns(2), pid_namespaces(7)).

The caller forks; the fork joins the container's cgroup, then all of its namespaces at once by the
pidfd of its init, and forks again, because a pid namespace holds the children of who joins. That
child is born as the *caller's* (CLONE_PARENT), so the caller waits for it and learns its host pid.

The process of ours that enters is surrounded by the container's: it is not dumpable before it
enters (CVE-2016-9962), imports nothing, and holds no descriptor of the host's when it acts on a
path of the container's (CVE-2019-5736, CVE-2024-21626). Nothing of the caller's own state changes.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import Conflict, KernelError
from sampan.kernel import namespaces as kernel
from sampan.kernel import seccomp
from sampan.kernel.clone import CLONE_PARENT, clone3
from sampan.kernel.namespaces import KINDS
from sampan.kernel.paths import O_PATH, Procfs
from sampan.kernel.processes import (
    pidfd_open,
    set_dumpable,
    start_time,
)
from sampan.runtime import gate, hooks
from sampan.runtime.child import Child
from sampan.runtime.conversation import Conversation
from sampan.runtime.namespaces import become_root
from sampan.runtime.process import (
    Entry,
    become_child,
    label,
    new_terminal,
    place_stdio,
    take_terminal,
)
from sampan.runtime.spec import parse_cpu_list, validate_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.kernel.cgroups import Group
    from sampan.oci.runtime import Process, Spec

__all__ = [
    "RunningContainer",
    "become_program",
    "execute",
    "join",
    "namespaces_to_join",
    "open_init",
    "run_child",
]


class RunningContainer:
    """What exec must know: init's ``pid`` (the host's), the container's ``spec`` and cgroup.

    ``start_time``: of init, when the caller knows it; a pid of somebody else is then refused.
    """

    __slots__ = ("bundle", "group", "id", "pid", "spec", "start_time")

    def __init__(
        self,
        pid: int,
        spec: Spec,
        group: Group | None = None,
        *,
        id: str = "",
        bundle: str = "",
        start_time: int | None = None,
    ) -> None:
        self.pid = pid
        self.spec = spec
        self.group = group
        self.id = id
        self.bundle = bundle
        self.start_time = start_time


class _Conversation(Conversation):
    """With the fork, which asks once, and with its child, which asks again."""

    __slots__ = ("placed", "target")

    def __init__(
        self,
        child: Child,
        target: RunningContainer,
        process: Process,
        *,
        placed: bool,
        forks: bool,
        console_socket: str | None,
    ) -> None:
        super().__init__(
            child, target.spec, process, staged=False, forks=forks, console_socket=console_socket
        )
        self.target = target
        self.placed = placed

    def _state(self) -> bytes:
        target = self.target
        return hooks.state_json(target.spec, target.id, target.bundle, "running", target.pid)

    def _placed(self) -> bytes:
        if self.target.group is not None and not self.placed:
            self.target.group.add(self.child.pid, beside=self.target.pid)
        self.placed = True
        return b""


class _Exec:
    """The child's view of one exec."""

    __slots__ = ("channel", "entry", "group", "joined", "pidfd", "stdio")

    def __init__(
        self,
        entry: Entry,
        joined: int,
        pidfd: int,
        stdio: tuple[int, int, int] | None,
        group: Group | None,
    ) -> None:
        self.entry = entry
        self.channel = entry.channel
        self.joined = joined
        self.group = group
        self.pidfd = pidfd
        self.stdio = stdio

    def run(self) -> NoReturn:
        entry, channel, process = self.entry, self.channel, self.entry.process
        become_child()
        set_dumpable(False)
        place_stdio(self.stdio, 3 + entry.kept)
        if self.group is not None:
            self.group.enter()
        affinity = process.exec_cpu_affinity
        if affinity is not None and affinity.initial:
            _run_on(affinity.initial, "initial")
        channel.expect(b"g")
        if affinity is not None and affinity.final:
            _run_on(affinity.final, "final")
        if self.joined:
            join(self.pidfd, self.joined)
        if self.joined & kernel.CLONE_NEWPID:
            pid, _ = clone3(CLONE_PARENT)
            if pid:
                channel.send(b"P", str(pid).encode())
                os._exit(0)
            channel.expect(b"g")
        if self.joined & kernel.CLONE_NEWUSER:
            become_root()
            set_dumpable(False)
        become_program(entry)


def become_program(entry: Entry) -> NoReturn:
    """The last stretch of a process that is in all of the container's namespaces."""
    channel, process = entry.channel, entry.process
    os.setsid()
    if process.terminal:
        root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        master, slave, name = new_terminal(root, process)
        take_terminal(slave)
        channel.send(b"T", name, master)
        for fd in (root, master, slave):
            os.close(fd)
    if process.apparmor_profile or process.selinux_label:
        with Procfs(subset=True) as procfs:
            label(procfs, process)
    entry.settle(channel.kept)
    channel.send(b"W", json.dumps(sorted(entry.missing_capabilities)).encode())
    channel.expect(b"x")
    entry.execute()


def run_child(run: Callable[[], NoReturn], channel: gate.Channel) -> NoReturn:
    """Be a container's process to its execve; what prevents that is told to the parent."""
    try:
        try:
            run()
        finally:
            error = sys.exc_info()[1]
            if error is not None and not isinstance(error, SystemExit):
                channel.send(b"E", gate.encode_error(error))
    finally:
        os._exit(1)


def execute(
    target: RunningContainer,
    process: Process,
    stdio: tuple[int, int, int] | None = None,
    *,
    start: bool = True,
    preserve_fds: int = 0,
    console_socket: str | None = None,
    death_signal: int = signal.SIGKILL,
    cache_dir: str | None = None,
    sibling: bool = False,
) -> Child:
    """Run ``process`` in a running container; returns once its program was executed.

    With ``start=False`` it waits at the gate for ``Child.start``. ``stdio``: descriptors for 0, 1
    and 2 (with a terminal they are not used: its master is ``Child.console``, or goes to
    ``console_socket``). ``sibling``: it becomes a child of the caller's parent, which reaps it.
    Raises InvalidArgument, CommandNotFound (127), CommandNotExecutable (126),
    Conflict when the container has ended; then nothing is left of the process.
    """
    warnings = validate_process(process)
    linux = target.spec.linux
    seccomp_filter = None
    if linux is not None and linux.seccomp is not None:
        seccomp_filter = seccomp.compiled(linux.seccomp, cache_dir)
    pidfd = open_init(target)
    ours, theirs = gate.Channel.pair()
    child = Child(ours, None)
    child.warnings = warnings
    born = -1
    try:
        joined = namespaces_to_join(target.pid)
        born = _born_in(target, process)
        pid, child_pidfd, placed = _fork(CLONE_PARENT if sibling else 0, born)
        if pid == 0:
            ours.close()
            entry = Entry(
                process,
                linux,
                theirs,
                is_init=False,
                in_user_namespace=bool(joined & kernel.CLONE_NEWUSER),
                seccomp_filter=seccomp_filter,
                death_signal=death_signal,
                kept=preserve_fds,
            )
            group = target.group if placed else None
            run_child(_Exec(entry, joined, pidfd, stdio, group).run, theirs)
        child.pid, child.pidfd = pid, child_pidfd
        theirs.close()
        conversation = _Conversation(
            child,
            target,
            process,
            placed=placed,
            forks=bool(joined & kernel.CLONE_NEWPID),
            console_socket=console_socket,
        )
        conversation.begin()
        conversation.serve()
        if start:
            child.start()
    except BaseException:
        child.abort()
        raise
    finally:
        theirs.close()
        os.close(pidfd)
        if born >= 0:
            os.close(born)
    return child


def _born_in(target: RunningContainer, process: Process) -> int:
    """A descriptor of the v2 cgroup to be born in, or -1: there is none, or the process is to run
    on its initial CPUs before it joins."""
    affinity = process.exec_cpu_affinity
    if target.group is None or (affinity is not None and affinity.initial):
        return -1
    fd = target.group.open_fd()
    return -1 if fd is None else fd


def _fork(flags: int, born: int) -> tuple[int, int, bool]:
    """clone3, in cgroup ``born`` where that takes processes: (pid, pidfd, whether it did)."""
    if born >= 0:
        try:
            return *clone3(flags, cgroup_fd=born), True
        except KernelError as error:
            # Its processes have moved into groups of their own below (cgroups(7)).
            if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                raise
    return *clone3(flags), False


def open_init(target: RunningContainer) -> int:
    """The pidfd of the container's init; raises Conflict when that has ended."""
    try:
        pidfd = pidfd_open(target.pid)
    except KernelError:
        raise Conflict(f"container {target.id}: not running") from None
    try:
        same = target.start_time is None or start_time(target.pid) == target.start_time
    except KernelError:
        same = False
    if not same:
        os.close(pidfd)
        raise Conflict(f"container {target.id}: not running")
    return pidfd


def namespaces_to_join(pid: int) -> int:
    """The flags of the namespaces of ``pid`` that are not this process's."""
    flags = 0
    try:
        for flag, name in KINDS.values():
            theirs = os.stat(f"/proc/{pid}/ns/{name}")
            if not os.path.samestat(theirs, os.stat(f"/proc/self/ns/{name}")):
                flags |= flag
    except OSError as error:
        raise Conflict(f"the container is not running: its namespaces: {error.strerror}") from None
    return flags


def join(pidfd: int, kinds: int) -> None:
    """Enter namespaces of the container's init; Conflict when that is on its way out."""
    try:
        kernel.setns(pidfd, kinds)
    except KernelError as error:
        if error.errno == errno.ESRCH:
            raise Conflict(f"the container is not running: {error.message}") from None
        raise


def _run_on(cpus: str, field: str) -> None:
    try:
        os.sched_setaffinity(0, parse_cpu_list(cpus, f"process.execCPUAffinity.{field}"))
    except OSError as error:
        raise KernelError("sched_setaffinity", error.errno or 0, cpus) from None
