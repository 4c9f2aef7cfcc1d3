"""Forking Python with clone3(2): into namespaces and cgroups, with a pidfd.

``os.fork`` cannot make a child in a cgroup or with a pidfd, so ``clone3`` does what ``os.fork``
does around a raw system call: ``PyOS_BeforeFork`` (import lock, ``os.register_at_fork``), the call
with the interpreter lock held, then ``PyOS_AfterFork_Child`` or ``PyOS_AfterFork_Parent``. What the
C library's ``fork`` would add:

* it lets other threads' locks (malloc, stdio) be copied unlocked. Here there must be no other
  thread, which is checked: the eval loop of the child would also wait for the others' requests.
* it renews the thread ID the C library keeps in its thread descriptor. ``CLONE_CHILD_SETTID`` with
  the address the C library gave to set_tid_address(2) (``PR_GET_TID_ADDRESS``) has the kernel
  write the child's, in the child's pid namespace, and only where the old value proves the address.
  Without it ``pthread_kill`` and robust or priority-inheriting mutexes would take the parent's.
* it runs pthread_atfork(3) handlers of libraries (OpenSSL's, for one). Here they are not run:
  fork with this from a process that loads no such library, or only to execve.

Signals are blocked from before the preparation until after the repair, so no Python handler runs in
a half-made child.
"""

from __future__ import annotations

import _thread
import ctypes
import struct

from sampan.errors import Conflict, InvalidArgument, KernelError
from sampan.kernel.syscalls import buffer, libc_holding_lock, syscall, syscall_holding_lock

__all__ = [
    "CLONE_CHILD_CLEARTID",
    "CLONE_CHILD_SETTID",
    "CLONE_CLEAR_SIGHAND",
    "CLONE_INTO_CGROUP",
    "CLONE_PARENT",
    "CLONE_PIDFD",
    "Migration",
    "clone3",
    "migrate",
    "tid_address",
]

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_CLONE_THREAD = 0x00010000
_CLONE_SETTLS = 0x00080000
_CLONE_PARENT_SETTID = 0x00100000
_forsaken_tid = ctypes.c_int(0)
_CLONE_ARGUMENTS = struct.Struct("11Q")  # struct clone_args
_SIGCHLD = 17
_SIG_SETMASK = 2
_SIGSET_BYTES = 128

_PR_GET_TID_ADDRESS = 40

_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
for _hook in (_before_fork, _after_fork_parent, _after_fork_child):
    _hook.argtypes = ()
    _hook.restype = None

_sigmask = libc_holding_lock.pthread_sigmask
_sigmask.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_sigmask.restype = ctypes.c_int
_ALL_SIGNALS = buffer(b"\xff" * _SIGSET_BYTES)


def clone3(flags: int = 0, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork with clone3(2): (pid, pidfd) in the parent, (0, -1) in the child.

    ``flags``: ``CLONE_NEW*``, ``CLONE_PARENT``, ``CLONE_CLEAR_SIGHAND``. With ``cgroup_fd``, a
    directory of a v2 hierarchy, the child is born in that cgroup (Linux 5.7). The child's end
    sends SIGCHLD. ``Conflict`` in a process with threads; ``InvalidArgument`` for flags that do
    not make a fork (``CLONE_VM``, ``CLONE_THREAD``, ``CLONE_VFORK``, ``CLONE_SETTLS``).
    """
    if flags & (_CLONE_VM | _CLONE_VFORK | _CLONE_THREAD | _CLONE_SETTLS):
        raise InvalidArgument(f"clone3: flags {flags:#x} do not make a fork")
    if _thread._count():
        raise Conflict(
            f"clone3: this process has {_thread._count()} more threads; fork from one that has none"
        )
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD
    own_id = tid_address()
    if own_id:
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    if cgroup_fd >= 0:
        flags |= CLONE_INTO_CGROUP
    arguments = buffer(
        _CLONE_ARGUMENTS.pack(
            flags,
            ctypes.addressof(pidfd),
            own_id,
            0,  # parent_tid
            _SIGCHLD if not flags & CLONE_PARENT else 0,
            0,  # stack: the child's copy of this one
            0,
            0,  # tls
            0,  # set_tid
            0,
            max(cgroup_fd, 0),
        )
    )
    size = len(arguments)
    old_mask = buffer(_SIGSET_BYTES)
    pid = -1
    _sigmask(_SIG_SETMASK, _ALL_SIGNALS, old_mask)
    try:
        _before_fork()
        try:
            pid = syscall_holding_lock("clone3", arguments, size, target=f"flags {flags:#x}")
        finally:
            if pid == 0:
                _after_fork_child()
            else:
                _after_fork_parent()
    finally:
        _sigmask(_SIG_SETMASK, old_mask, None)
    return pid, -1 if pid == 0 else pidfd.value


class Migration:
    """To go on as a new process, all but the call made ready: of a process of one thread.

    Raises ``Conflict`` when it has more.
    """

    __slots__ = ("_arguments", "_pidfd", "_tid", "_tid_address")

    def __init__(self) -> None:
        if _thread._count():
            raise Conflict(f"migrate: this process has {_thread._count()} more threads")
        self._pidfd, self._tid = ctypes.c_int(-1), ctypes.c_int(0)
        self._tid_address = tid_address()
        self._arguments = buffer(_CLONE_ARGUMENTS.size)

    def go(self, flags: int = 0, *, cgroup_fd: int = -1) -> tuple[int, int]:
        """See ``migrate``."""
        # At its end the kernel clears the word that holds a thread's ID, in memory that is shared.
        syscall("set_tid_address", ctypes.addressof(_forsaken_tid))
        flags |= CLONE_PIDFD | _CLONE_PARENT_SETTID | _CLONE_VM | _CLONE_VFORK
        if self._tid_address:
            flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        if cgroup_fd >= 0:
            flags |= CLONE_INTO_CGROUP
        at_end = _SIGCHLD if not flags & CLONE_PARENT else 0
        pidfd, tid = ctypes.addressof(self._pidfd), ctypes.addressof(self._tid)
        _CLONE_ARGUMENTS.pack_into(
            self._arguments,
            0,
            *(flags, pidfd, self._tid_address, tid, at_end),
            *(0, 0, 0, 0, 0, max(cgroup_fd, 0)),
        )
        size = _CLONE_ARGUMENTS.size
        syscall_holding_lock("clone3", self._arguments, size, target=f"flags {flags:#x}")
        return self._tid.value, self._pidfd.value


def migrate(flags: int = 0, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Go on as a new process: (its pid as the caller counted, its pidfd in the caller's table).

    Only the new process returns. It has the caller's memory, not a copy: nothing is copied and no
    page is faulted in again, which is most of what a fork costs an interpreter. The caller is left
    behind in the kernel, suspended as by vfork(2) until the new process executes a program or ends;
    it must be killed before that, for the stack it would return on is the new process's by then.
    The wait yields to SIGKILL. By its parent, because the new process may be in a pid namespace
    from which the caller cannot be named.

    ``flags`` as for ``clone3``, and CLONE_FILES; with ``cgroup_fd`` it is born in that cgroup. For
    a process of one thread. Raises ``Conflict``, ``KernelError``, in the caller.
    """
    return Migration().go(flags, cgroup_fd=cgroup_fd)


def tid_address() -> int:
    """Where the C library keeps this thread's ID, or 0 if it cannot be told (no
    CONFIG_CHECKPOINT_RESTORE, another C library)."""
    found = ctypes.c_void_p()
    try:
        syscall("prctl", _PR_GET_TID_ADDRESS, ctypes.byref(found))
    except KernelError:
        return 0
    address = found.value or 0
    if address and ctypes.c_int.from_address(address).value == syscall("gettid"):
        return address
    return 0
