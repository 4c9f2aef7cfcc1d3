"""Creating a container: the parent's side, from its configuration to an init waiting at the gate.

``begin`` prepares what needs the host's rights (mount sources, namespaces to join, the cgroup, the
seccomp filter) and clones the child into its namespaces; ``Child.complete`` does for it what it
cannot do itself (ID maps, hooks of the runtime's side, network devices, limits). In between the
child builds its root file system, and the caller may do something else. Both undo everything when
anything fails: an error leaves no process, cgroup, mount or descriptor behind. ``create`` is one
after the other. ``sampan.runtime.init`` is the child's side; ``sampan.runtime.gate`` says how the
two talk.

The caller must have no threads: it forks (``sampan.kernel.clone.clone3``).
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import namespaces as kernel
from sampan.kernel import netlink, seccomp
from sampan.kernel.clone import CLONE_PARENT, clone3, migrate
from sampan.kernel.nlmsg import Socket
from sampan.kernel.paths import Procfs
from sampan.oci.runtime import DeviceRule
from sampan.runtime import gate, init, rootfs
from sampan.runtime import spec as rules
from sampan.runtime.child import Child, kept_descriptors
from sampan.runtime.conversation import InitConversation, raise_limits
from sampan.runtime.namespaces import Plan, refused
from sampan.runtime.plugs import plug
from sampan.runtime.process import new_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.kernel.cgroups import Group
    from sampan.kernel.seccomp import Filter
    from sampan.oci.runtime import Mount, Spec
    from sampan.runtime.gate import Heir
    from sampan.runtime.plugs import Plug

__all__ = ["DEFAULT_DEVICES", "Child", "Launch", "Setup", "begin", "create"]


def _device(kind: str, major: int | None, minor: int | None, access: str) -> DeviceRule:
    return DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)


_BELONG_TO_THE_CHILD = frozenset({"proc", "cgroup", "cgroup2"})

DEFAULT_DEVICES = (
    _device("c", None, None, "m"),
    _device("b", None, None, "m"),
    *(_device("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    _device("c", 5, 0, "rwm"),
    _device("c", 5, 2, "rwm"),
    _device("c", 136, None, "rwm"),
    _device("c", 10, 200, "rwm"),
)
"""What every container may use, whatever the rules before say: null, zero, full, random, urandom,
tty, ptmx, pts/*, net/tun; and any node may be made, though not opened (other runtimes' habit)."""


NO_LINKS: Mapping[str, str] = {}


class Launch:
    """Everything about one container to be; read only once it is made.

    ``bundle``: the directory relative paths start from. ``group``: the cgroup to make and enter, or
    None for the caller's own. ``stdio``: descriptors for 0, 1, 2, or None for the caller's.
    ``rootfs``: mounts that make the root file system, destinations relative to it, "/" first.
    ``listen_fds`` and ``preserve_fds``: how many of the caller's descriptors from 3 on the program
    keeps, socket-activated ones (sd_listen_fds(3)) first. ``init_process``: our init stays PID 1.
    ``gate_dir``: a directory for FIFOs instead of a socket, when another process will start the
    container. ``death_signal``: what init gets when the caller dies, 0 for nothing.
    ``console_socket``: where to send the terminal; else it is ``Child.console``. ``cache_dir``: for
    compiled seccomp filters. ``sibling``: init becomes a child of the caller's parent
    (CLONE_PARENT), which reaps it, and whose death is meant by ``death_signal``. ``hold_roots``:
    fill ``Child.roots``. ``heir``: where the namespaces allow it the caller does not fork, but goes
    on as the container's init itself (``clone.migrate``), with this in the place of its parent;
    ``begin`` does not return then. ``plugs``: its links to bridges of the host's. ``links``:
    symbolic links, by their paths, that the image may lack.
    """

    __slots__ = (
        "bundle",
        "cache_dir",
        "console_socket",
        "death_signal",
        "gate_dir",
        "group",
        "heir",
        "hold_roots",
        "id",
        "init_process",
        "links",
        "listen_fds",
        "no_new_keyring",
        "no_pivot",
        "plugs",
        "preserve_fds",
        "rootfs",
        "sibling",
        "spec",
        "stdio",
    )

    def __init__(
        self,
        id: str,
        spec: Spec,
        bundle: str,
        *,
        group: Group | None = None,
        stdio: tuple[int, int, int] | None = None,
        rootfs: tuple[Mount, ...] = (),
        listen_fds: int = 0,
        preserve_fds: int = 0,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        init_process: bool = False,
        gate_dir: str | None = None,
        death_signal: int | None = None,
        console_socket: str | None = None,
        cache_dir: str | None = None,
        sibling: bool = False,
        hold_roots: bool = False,
        heir: Heir | None = None,
        plugs: tuple[Plug, ...] = (),
        links: Mapping[str, str] = NO_LINKS,
    ) -> None:
        if listen_fds and spec.process is not None:
            activated = (f"LISTEN_FDS={listen_fds}", "LISTEN_PID=1")
            process = spec.process.replace(env=(*spec.process.env, *activated))
            spec = spec.replace(process=process)
        self.id = id
        self.spec = spec
        self.bundle = bundle
        self.group = group
        self.stdio = stdio
        self.rootfs = rootfs
        self.listen_fds = listen_fds
        self.preserve_fds = preserve_fds
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.init_process = init_process
        self.gate_dir = gate_dir
        if death_signal is None:
            death_signal = 0 if gate_dir else int(signal.SIGKILL)
        self.death_signal = death_signal
        self.console_socket = console_socket
        self.cache_dir = cache_dir
        self.sibling = sibling
        self.hold_roots = hold_roots
        self.heir = heir
        self.plugs = plugs
        self.links = links


class Setup:
    """What was made for a launch and the child takes over; ``close`` closes the parent's copies."""

    __slots__ = (
        "cgroup_fd",
        "channel",
        "fifos",
        "launch",
        "plan",
        "prepared",
        "seccomp_filter",
        "site",
        "terminal",
    )

    def __init__(self, launch: Launch, channel: gate.Channel) -> None:
        self.terminal: tuple[int, int, bytes] | None = None  # master, slave, name, if made already
        self.launch = launch
        self.channel = channel
        self.plan: Plan | None = None
        self.prepared: rootfs.Prepared | None = None
        self.fifos: gate.Fifos | None = None
        self.seccomp_filter: Filter | None = None
        self.site: rootfs.Site | None = None  # where the parent has begun the root file system
        self.cgroup_fd = -1

    def close(self) -> None:
        """Close all that is open."""
        self.channel.close()
        for part in (self.plan, self.prepared, self.fifos, self.site):
            if part is not None:
                part.close()
        if self.cgroup_fd >= 0:
            os.close(self.cgroup_fd)


def create(launch: Launch) -> Child:
    """Make the container of ``launch`` up to its program's first instruction, where it waits.

    Raises an error of ``sampan.errors`` that names the field, path or call; then nothing is left.
    """
    child = begin(launch)
    child.complete()
    return child


def begin(launch: Launch) -> Child:
    """Have the container of ``launch`` being made; it is when ``Child.complete`` returns.

    Raises as ``create`` does.
    """
    warnings = rules.validate(launch.spec, launch.bundle)
    for fd in kept_descriptors(launch):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidArgument(f"descriptor {fd} is to be preserved, and is not open") from None
    linux = launch.spec.linux
    ours, theirs = gate.Channel.pair()
    child = Child(ours, launch)
    child.warnings = warnings
    setup = Setup(launch, theirs)
    try:
        if linux is not None and linux.seccomp is not None:
            setup.seccomp_filter = seccomp.compiled(linux.seccomp, launch.cache_dir)
        plan = setup.plan = Plan(launch.spec)
        setup.prepared = rootfs.prepare(launch)
        if launch.hold_roots:
            child.roots = setup.prepared.held()
        if launch.gate_dir is not None:
            setup.fifos = gate.Fifos(launch.gate_dir)
        if launch.group is not None:
            launch.group.create()
            child.group = launch.group
            unified = launch.group.open_fd()
            setup.cgroup_fd = -1 if unified is None else unified
            child.warnings += _limit(launch, launch.group)
        if plan.is_plain:
            _clone_inside(child, setup)
        else:
            _clone(child, setup, 0 if plan.staged else plan.new)
        child.conversation = InitConversation(child, launch, plan)
        child.conversation.begin()
    except BaseException:
        child.abort()
        raise
    finally:
        setup.close()
    return child


def _clone_inside(child: Child, setup: Setup) -> None:
    """Enter the new namespaces first, lay out the root file system there, and have the child born
    into them.

    What a fork does for the first time it does on memory that is not yet its own, at twice the
    cost; this process has decoded and checked all that it now builds from. The child is left with
    what belongs to its pid and cgroup namespace: procfs, and its view of the cgroups.
    """
    plan, prepared = setup.plan, setup.prepared
    assert plan is not None and prepared is not None
    flags = plan.new & ~kernel.CLONE_NEWPID
    plugs = setup.launch.plugs
    host = Socket() if plugs else None
    try:
        abroad = kernel.Abroad(flags)
    except KernelError as error:
        raise refused(error, flags) from None
    try:
        if flags & kernel.CLONE_NEWNET:
            netlink.set_loopback_up()
        if host is not None:
            plug(plugs, host)
            host.close()
        procfs = Procfs()
        try:
            setup.site = rootfs.lay(setup.launch, prepared, procfs, _BELONG_TO_THE_CHILD)
        finally:
            procfs.close()
        if setup.launch.heir is not None:
            _succeed(child, setup, setup.launch.heir, abroad)
        _clone(child, setup, plan.new & kernel.CLONE_NEWPID)
    finally:
        abroad.return_home()
        if host is not None:
            host.close()


def _succeed(child: Child, setup: Setup, heir: Heir, abroad: kernel.Abroad) -> NoReturn:
    """Become the container's init. What fails before that raises; after it, ``heir`` is told."""
    launch = setup.launch
    process = launch.spec.process
    assert process is not None and setup.site is not None
    raise_limits(process)
    if process.oom_score_adj is not None:
        kernel.write_process_file("/proc/self/oom_score_adj", str(process.oom_score_adj))
    if process.terminal:
        setup.terminal = new_terminal(setup.site.root, process)
    heir.prepare(child)
    channel = setup.channel
    setup.channel = heir
    flags = kernel.CLONE_NEWPID | CLONE_PARENT | kernel.CLONE_FILES
    try:
        child.pid, child.pidfd = migrate(flags, cgroup_fd=setup.cgroup_fd)
    except KernelError as error:
        setup.channel = channel
        raise refused(error, kernel.CLONE_NEWPID) from None

    def first() -> None:
        abroad.stay()
        heir.arrived(child, setup.terminal)

    init.main(setup, first)


def _clone(child: Child, setup: Setup, flags: int) -> None:
    """Fork the child into new namespaces ``flags``; there it is ``init.main``."""
    if setup.launch.sibling:
        flags |= CLONE_PARENT
    try:
        pid, pidfd = clone3(flags, cgroup_fd=setup.cgroup_fd)
    except KernelError as error:
        raise refused(error, flags) from None
    if pid == 0:
        child.channel.close()
        init.main(setup)
    child.pid, child.pidfd = pid, pidfd
    setup.channel.close()


def _limit(launch: Launch, group: Group) -> tuple[str, ...]:
    """Limit the new cgroup; returns warnings."""
    linux = launch.spec.linux
    resources = linux.resources if linux is not None else None
    warnings = group.limit(resources) if resources is not None else []
    rules_given = resources.devices if resources is not None else ()
    group.allow_devices((*rules_given, *DEFAULT_DEVICES))
    return tuple(warnings)
