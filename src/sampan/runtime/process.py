"""The last stretch of every process of a container, init's and exec's alike: from root in the
container to the program's first instruction.

The order is the one other runtimes' users observe: no_new_privs, scheduler, I/O priority,
personality, memory policy, seccomp (where there is no no_new_privs: loading it then takes
CAP_SYS_ADMIN), user and capabilities, working directory, program lookup, seccomp (else, as late as
possible), the gate, execve.

Guards: by the time the working directory is entered no descriptor of the host's is open any more,
and the directory is proved to be inside the root (CVE-2024-21626); a change of IDs makes a
process dumpable again and forgets its parent-death signal, so both are set anew (prctl(2)).
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import stat
import sys
from _signal import (  # type: ignore[import-not-found]  # signal's own are 30 times slower
    SIG_DFL,
    SIG_SETMASK,
    getsignal,
    pthread_sigmask,
)
from _signal import signal as set_action
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import InvalidArgument, KernelError, PermissionDenied
from sampan.kernel import capabilities, seccomp, terminals
from sampan.kernel.mounts import DEVPTS_SUPER_MAGIC, filesystem_magic
from sampan.kernel.paths import O_PATH, Procfs, make_directory_in_root, open_in_root
from sampan.kernel.processes import (
    close_range,
    reset_reserved_signals,
    set_dumpable,
    set_io_priority,
    set_keep_capabilities,
    set_memory_policy,
    set_no_new_privileges,
    set_parent_death_signal,
    set_personality,
    set_scheduler,
)
from sampan.runtime import lookup, users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.kernel.seccomp import Filter
    from sampan.oci.runtime import Linux, Process
    from sampan.runtime.gate import Channel

__all__ = [
    "Entry",
    "become_child",
    "close_others",
    "label",
    "load_no_more",
    "new_terminal",
    "place_stdio",
    "take_terminal",
]


_NO_DESCRIPTOR = 1 << 30
_NO_FILTER = seccomp.Filter(b"", 0, False, "")


class Entry:
    """What a process of the container is to become, gathered before it enters the container."""

    __slots__ = (
        "channel",
        "death_signal",
        "environment",
        "in_user_namespace",
        "is_init",
        "kept",
        "linux",
        "missing_capabilities",
        "path",
        "process",
        "seccomp_filter",
        "wanted_capabilities",
    )

    def __init__(
        self,
        process: Process,
        linux: Linux | None,
        channel: Channel,
        *,
        is_init: bool,
        in_user_namespace: bool,
        seccomp_filter: Filter | None,
        death_signal: int,
        kept: int,
    ) -> None:
        self.process = process
        self.linux = linux
        self.channel = channel
        self.is_init = is_init
        self.in_user_namespace = in_user_namespace
        self.seccomp_filter = seccomp_filter
        self.death_signal = death_signal
        self.kept = kept
        self.environment = dict(item.split("=", 1) for item in process.env)
        self.wanted_capabilities = capability_sets(process)
        self.missing_capabilities: frozenset[int] = frozenset()
        self.path = ""

    def settle(self, keep: Sequence[int]) -> None:
        """Do everything up to the gate; the process is inside its root already.

        ``keep`` are descriptors above the kept ones that stay open, close-on-exec: the channel's
        and the gate's.
        """
        process, linux = self.process, self.linux
        root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        identity = self._identity(root)
        os.close(root)
        close_others(self.kept, keep)
        if process.no_new_privileges:
            set_no_new_privileges()
        if (scheduler := process.scheduler) is not None:
            set_scheduler(
                scheduler.policy,
                nice=scheduler.nice,
                priority=scheduler.priority,
                flags=scheduler.flags,
                runtime=scheduler.runtime,
                deadline=scheduler.deadline,
                period=scheduler.period,
            )
        if (io := process.io_priority) is not None:
            set_io_priority(io.klass, io.priority)
        if linux is not None:
            if linux.personality is not None:
                set_personality(linux.personality.domain)
            if self.is_init and (policy := linux.memory_policy) is not None:
                set_memory_policy(policy.mode, policy.flags, policy.nodes or "")
        if process.rlimits and (identity.uid or self.channel.wants_limits_early):
            # Afterwards the parent is another user, and may not without CAP_SYS_RESOURCE.
            self.channel.send(b"L")
            self.channel.expect(b"l")
        _give_stdio(identity.uid)
        umask = process.user.umask
        os.umask(0o022 if umask is None else umask)
        if not process.no_new_privileges:
            self._load_seccomp()
        entered = _enter_cwd(process.cwd, last=False)
        self._switch_user(identity)
        if not entered:
            _enter_cwd(process.cwd, last=True)
        if identity.home is not None:
            self.environment.setdefault("HOME", identity.home)
        self.path = lookup.find(process.args[0], self.environment)
        for fd in range(3, 3 + self.kept):
            os.set_inheritable(fd, True)
        if process.no_new_privileges:
            self._load_seccomp()

    def rehearse(self) -> None:
        """What of ``settle`` has no effect, or has it on a process that is as it is made."""
        root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        identity = self._identity(root)
        os.close(root)
        close_others(_NO_DESCRIPTOR, (self.channel.fd,))
        if self.channel.wants_limits_early:
            self.channel.send(b"L")
            self.channel.expect(b"l")
        _give_stdio(os.getuid())
        try:
            seccomp.load(_NO_FILTER)
        except KernelError:
            pass  # As it is to be.
        _enter_cwd(os.getcwd(), last=False)
        os.setresgid(-1, -1, -1)
        os.setresuid(-1, -1, -1)
        capabilities.apply(capabilities.get())
        set_dumpable(False)
        if identity.home is not None:
            self.environment.setdefault("HOME", identity.home)
        try:
            lookup.find(self.process.args[0], self.environment)
        except InvalidArgument:
            pass  # This machine has no such program.

    def execute(self) -> NoReturn:
        """Become the program; raises what execve(2) says, in the words of ``lookup``."""
        try:
            os.execve(self.path, self.process.args, self.environment)
        except OSError as error:
            raise lookup.explain(self.path, error) from None

    def _identity(self, root: int) -> users.Identity:
        user = self.process.user
        named = tuple(users.group_of(root, name) for name in user.additional_groups)
        if user.username is not None:
            found = users.resolve(root, user.username)
            found.gids = tuple(dict.fromkeys((*found.gids, *user.additional_gids, *named)))
            found.home = found.home or "/"
            return found
        home = None
        if "HOME" not in self.environment:
            home = users.home_of(root, user.uid) or "/"
        return users.Identity(user.uid, user.gid, (*user.additional_gids, *named), home)

    def make_cwd(self) -> None:
        """In the root that the process is inside of, and that is not sealed yet: of a read-only
        container, too, the working directory is made, as runc does."""
        root = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(make_directory_in_root(root, self.process.cwd, 0o755))
        except KernelError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise InvalidArgument(
                    f"process.cwd: {self.process.cwd}: {os.strerror(error.errno or 0)}"
                ) from None
            # chdir says that it is missing, or why it cannot be entered
        finally:
            os.close(root)

    def _switch_user(self, identity: users.Identity) -> None:
        if identity.uid:
            set_keep_capabilities(True)
        try:
            os.setgroups(identity.gids)
        except OSError as error:
            # A user namespace made by an ordinary user has lost setgroups(2): no extra groups then.
            if identity.gids or not self.in_user_namespace:
                raise _unmapped("groups", list(identity.gids), error) from None
        try:
            os.setresgid(identity.gid, identity.gid, identity.gid)
        except OSError as error:
            raise _unmapped("group", identity.gid, error) from None
        try:
            os.setresuid(identity.uid, identity.uid, identity.uid)
        except OSError as error:
            raise _unmapped("user", identity.uid, error) from None
        self.missing_capabilities = capabilities.apply(self.wanted_capabilities)
        if identity.uid:
            set_keep_capabilities(False)
        set_dumpable(False)
        if self.death_signal:
            set_parent_death_signal(self.death_signal)

    def _load_seccomp(self) -> None:
        if self.seccomp_filter is None:
            return
        listener = seccomp.load(self.seccomp_filter)
        if listener >= 0:
            # The number only: sendmsg may be among what the agent is asked about.
            self.channel.send(b"S", str(listener).encode())
            self.channel.expect(b"s")
            os.close(listener)


def capability_sets(process: Process) -> capabilities.Caps:
    """The sets by number; what the kernel has no number for was warned about by validation.

    An ambient capability that is not inheritable asks for nothing, by the kernel's rules, and is in
    every configuration that ``runc spec`` writes: that is not worth a warning a run.
    """
    sets = process.capabilities
    if sets is None:
        return capabilities.Caps()
    numbers = capabilities.NUMBERS
    found = {
        name: frozenset(numbers[one] for one in getattr(sets, name) if one in numbers)
        for name in ("effective", "permitted", "inheritable", "bounding", "ambient")
    }
    found["ambient"] &= found["inheritable"]
    return capabilities.Caps(**found)


def become_child() -> None:
    """What every forked child of ours does first: forget what the caller's Python was set up for.

    What the caller left inheritable is not for the hooks this process may run (descriptors to
    preserve are made inheritable again at the end). No code is loaded from here on, for the next
    file system searched could be the container's. Signals do what they do by default, and their
    mask is empty: execve(2) would keep both.
    """
    gc.disable()
    close_range(3, cloexec=True)
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        if getsignal(number) not in (0, None):
            set_action(number, SIG_DFL)
    reset_reserved_signals()
    pthread_sigmask(SIG_SETMASK, ())
    load_no_more()


def load_no_more() -> None:
    """Have every import of what is not loaded yet fail, for good."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()


def place_stdio(stdio: tuple[int, int, int] | None, floor: int) -> None:
    """Put the three descriptors at 0, 1 and 2; ``floor`` is the first number free for copies."""
    if stdio is None:
        return
    copies = [_duplicate(fd, floor) for fd in stdio]
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)


def new_terminal(root: int, process: Process) -> tuple[int, int, bytes]:
    """(master, slave, name) of a new terminal in the devpts below ``root``."""
    try:
        directory = open_in_root(root, "dev/pts", O_PATH | os.O_DIRECTORY)
    except KernelError as error:
        raise InvalidArgument(
            f"process.terminal: the container's /dev/pts: {os.strerror(error.errno or 0)}"
        ) from None
    try:
        if filesystem_magic(directory) != DEVPTS_SUPER_MAGIC:
            raise InvalidArgument("process.terminal: no devpts is mounted on /dev/pts")
        master, slave = terminals.new_terminal(directory)
    finally:
        os.close(directory)
    if (size := process.console_size) is not None:
        terminals.set_window_size(master, size.height, size.width)
    return master, slave, b"/dev/pts/%d" % terminals.terminal_number(master)


def take_terminal(slave: int) -> None:
    """Make it 0, 1, 2 and the controlling terminal of this process's session."""
    terminals.set_controlling_terminal(slave)
    for number in (0, 1, 2):
        os.dup2(slave, number, inheritable=True)


def close_others(kept: int, keep: Sequence[int]) -> None:
    """Close every descriptor from ``3 + kept`` on but those of ``keep``."""
    first = 3 + kept
    for fd in sorted(keep):
        if fd > first:
            close_range(first, fd - 1)
        first = max(first, fd + 1)
    close_range(first)


def label(procfs: Procfs, process: Process) -> None:
    """Have the next execve change to the AppArmor profile or SELinux label asked for."""
    if process.apparmor_profile:
        text = f"exec {process.apparmor_profile}"
        try:
            procfs.write("self/attr/apparmor/exec", text)
        except KernelError as error:
            if error.errno != errno.ENOENT:  # before Linux 5.8
                raise
            procfs.write("self/attr/exec", text)
    if process.selinux_label:
        procfs.write("self/attr/exec", process.selinux_label)


def _duplicate(fd: int, floor: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)


def _give_stdio(uid: int) -> None:
    """Let the user open /dev/stdout and the like again: pipes, sockets, terminals become its own.

    Files and devices of the host are left alone.
    """
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
            kind = status.st_mode
            if status.st_uid != uid and (
                stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(fd)
            ):
                os.fchown(fd, uid, -1)
        except OSError as error:
            # Closed by the caller; not ours (an outer namespace's); a read-only devpts.
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.EPERM, errno.EROFS):
                raise KernelError("fchown", error.errno or 0, f"fd {fd}") from None


def _enter_cwd(cwd: str, last: bool) -> bool:
    """chdir(2), proved to be inside the root; False when root may not and the user might."""
    try:
        os.chdir(cwd)
    except PermissionError:
        if not last:
            return False
        raise PermissionDenied(
            f"process.cwd: {cwd}: permission denied to the container's user"
        ) from None
    except OSError as error:
        raise InvalidArgument(f"process.cwd: {cwd}: {error.strerror}") from None
    if not _is_inside():
        raise InvalidArgument(f"process.cwd: {cwd} is outside of the container's root file system")
    return True


def _is_inside() -> bool:
    """Whether the working directory has a name below the root that leads to it: one reached through
    a leaked descriptor or a magic link has none."""
    try:
        name = os.getcwd()
    except OSError:
        return False
    try:
        return name.startswith("/") and os.path.samestat(os.stat(name), os.stat("."))
    except PermissionError:
        return True  # it has a name, though its parents are closed to the user
    except OSError:
        return False


def _unmapped(what: str, number: object, error: OSError) -> InvalidArgument:
    reason = (
        "not mapped in the container's user namespace"
        if error.errno == errno.EINVAL
        else os.strerror(error.errno or 0)
    )
    return InvalidArgument(f"process.user: {what} {number}: {reason}")
