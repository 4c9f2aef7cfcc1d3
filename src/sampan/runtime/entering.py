"""Another process in a running container, by a process that becomes it.

``exec.execute`` leaves its caller as it was, and needs two forks for that: one that joins the
container's namespaces, and its child, which is in the pid namespace. A maker has nothing to do
after its one exec. So it joins them itself, and goes on as the process (``clone.migrate``, and
``supervisor.heir`` on why): with its memory, not a copy of it, and out of the container's sight to
the moment at which it is in all of the container's namespaces (CVE-2016-9962).

Once it has joined, it loads no code and opens no path of the host's. What is to be inherited, its
OOM score and the highest limits, it gives itself before that; the cgroups of version 1 it enters by
descriptors that were opened before, and at once, when it is the new process.

What does not depend on the program is looked up beforehand where there is time for it (``Way``). So
is the code run (``rehearse``): the maker shares its memory with who forked it, and the first write
to a page is a fault that copies it, five microseconds each and a hundred of them.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel import namespaces as kernel
from sampan.kernel import seccomp
from sampan.kernel.cgroups import enter_by
from sampan.kernel.clone import CLONE_PARENT, Migration
from sampan.kernel.processes import set_dumpable
from sampan.runtime.conversation import raise_limits
from sampan.runtime.exec import (
    RunningContainer,
    become_program,
    join,
    namespaces_to_join,
    open_init,
    run_child,
)
from sampan.runtime.process import Entry, place_stdio
from sampan.runtime.spec import validate_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from sampan.oci.runtime import Process
    from sampan.runtime.gate import Channel

__all__ = ["Way", "become", "get_ready", "is_possible", "rehearse"]


class Way:
    """What leads into a container: the namespaces to join, as flags, and its init's pidfd to join
    them by; the doors of its cgroups of version 1 (``Group.doors``); the arguments of the clone3.

    Raises Conflict when the container's init has ended.
    """

    __slots__ = ("doors", "joined", "migration", "pidfd")

    def __init__(self, target: RunningContainer) -> None:
        self.pidfd = open_init(target)
        self.joined = namespaces_to_join(target.pid)
        self.doors = target.group.doors() if target.group is not None else []
        self.migration = Migration()


def is_possible(target: RunningContainer, process: Process, way: Way) -> bool:
    """Whether nothing is to be done for the process that takes the host's view of things.

    Who joins a user namespace has lost its rights over limits; who is to run on certain CPUs first
    must not be in the cgroup yet; a filter's agent listens at one of the host's paths.
    """
    linux = target.spec.linux
    notifies = linux is not None and linux.seccomp is not None and linux.seccomp.listener_path
    return (
        not way.joined & kernel.CLONE_NEWUSER
        and process.exec_cpu_affinity is None
        and not notifies
        and (target.group is None or target.group.takes_processes())
    )


def get_ready(target: RunningContainer, process: Process, channel: Channel) -> tuple[Entry, int]:
    """What can be done outside of the container before this becomes ``process``, which it may still
    not do; it is not dumpable from here on.

    ``channel`` is to hold the parent's part of the conversation (``gate.Heir``). Returns what
    ``become`` goes on with: the process, and the cgroup of version 2 that it is born in, or -1.
    """
    entry = _prepare(target, process, channel)
    raise_limits(process)
    if process.oom_score_adj is not None:
        kernel.write_process_file("/proc/self/oom_score_adj", str(process.oom_score_adj))
    unified = target.group.open_fd() if target.group is not None else None
    return entry, -1 if unified is None else unified


def become(
    ready: tuple[Entry, int],
    way: Way,
    *,
    stdio: tuple[int, int, int] | None,
    arrived: Callable[[int, int], None],
) -> NoReturn:
    """Become the process that this is ``ready`` for, in the container; the caller has been through
    ``become_child``.

    ``arrived(pid, pidfd)`` is called by the new process, ``pid`` counted outside. What goes wrong
    before that raises.
    """
    entry, born = ready
    # From within the container's cgroup namespace nobody may be moved out of a cgroup that is not
    # below it, as this process's own is not: ENOENT with nsdelegate. The new process joins it.
    later = way.joined & kernel.CLONE_NEWCGROUP if born >= 0 else 0
    if way.joined & ~later:
        join(way.pidfd, way.joined & ~later)
    # A traceback's lines would be read from the container's files.
    sys.tracebacklimit = 0
    pid, own = way.migration.go(CLONE_PARENT | kernel.CLONE_FILES, cgroup_fd=born)

    def run() -> NoReturn:
        if later:
            join(way.pidfd, later)
        # Not before: the old self is no process of the container's, and its limits are for those.
        enter_by(way.doors)
        arrived(pid, own)
        place_stdio(stdio, 3)
        become_program(entry)

    run_child(run, entry.channel)


def _prepare(target: RunningContainer, process: Process, channel: Channel) -> Entry:
    validate_process(process)
    linux = target.spec.linux
    loaded = None
    if linux is not None and linux.seccomp is not None:
        loaded = seccomp.compiled(linux.seccomp, None)
    entry = Entry(
        process,
        linux,
        channel,
        is_init=False,
        in_user_namespace=False,
        seccomp_filter=loaded,
        death_signal=signal.SIGKILL,
        kept=0,
    )
    set_dumpable(False)
    return entry


def rehearse(target: RunningContainer, process: Process, channel: Channel) -> None:
    """What ``become`` does to no effect, with ``target`` this process itself."""
    way = Way(RunningContainer(target.pid, target.spec, start_time=target.start_time))
    is_possible(target, process, way)
    os.sched_yield()
    entry = _prepare(target, process, channel)
    raise_limits(process)
    try:
        join(way.pidfd, kernel.CLONE_NEWUTS)
    except KernelError:
        pass  # An ordinary user may not, not even where it is already.
    for fd in (way.pidfd, *way.doors):
        os.close(fd)
    enter_by(())
    place_stdio((0, 1, 2), 3)
    os.sched_yield()
    entry.rehearse()
