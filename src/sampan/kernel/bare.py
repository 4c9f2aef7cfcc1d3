"""Forks that stay below the interpreter: the cheapest process an interpreter can leave behind.

A fork shares its parent's memory until it writes to it, and Python's own after-fork work writes to
some hundred kilobytes. A process that only waits needs none of that. So ``fork`` is the C library's
and nothing else; the child may use the functions of this module only, whose buffers and numbers are
made beforehand, until ``awake`` does what ``os.fork`` would have done, in the order it would have:
to Python the fork happens there (``PyOS_BeforeFork`` and ``PyOS_AfterFork_Child``, one after the
other, in a process of one thread).

``fork_sharing`` forks by clone3(2) with CLONE_FILES: what the child opens, the parent has, under
the same number, without having received anything. Either calls ``unshare_files`` when it wants a
table of its own.

All calls keep the interpreter lock: there is no other thread to have it.
"""

from __future__ import annotations

import ctypes
import struct

from sampan.kernel.namespaces import unshare
from sampan.kernel.processes import CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_PIDFD
from sampan.kernel.syscalls import NUMBERS, syscall

__all__ = ["Bare", "PollSet", "Words", "unshare_files"]

_CLONE_FILES = 0x00000400
_SIGCHLD = 17
_PR_SET_NAME = 15
_PR_GET_TID_ADDRESS = 40
_AF_UNIX = 1
_SOCK_SEQPACKET = 5
_SOCK_CLOEXEC = 0o2000000
_MSG_PEEK = 0x02
_MSG_DONTWAIT = 0x40
_MSG_NOSIGNAL = 0x4000
_SIGKILL = 9
_POLLIN = 0x001
_POLLHUP = 0x010
_WALL = 0x40000000

_ARGUMENTS = struct.Struct("11Q")

_int, _address = ctypes.c_int, ctypes.c_void_p
# Without use_errno, which would write to memory at each call.
_libc = ctypes.PyDLL(None)


def _function(name: str, *types: object) -> ctypes._NamedFuncPointer:
    function = getattr(_libc, name)
    function.argtypes = types
    function.restype = _int
    return function  # type: ignore[no-any-return]  # getattr


class _Memory:
    """Zeroed bytes that do not move: their address, and a view of them."""

    __slots__ = ("_anchor", "address", "view")

    def __init__(self, size: int) -> None:
        content = bytearray(size)
        self._anchor = (ctypes.c_char * size).from_buffer(content)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(content)


class Words:
    """Room for a few bytes that a bare fork receives and passes on, at ``address``."""

    __slots__ = ("_memory", "address", "size")

    def __init__(self, size: int) -> None:
        self._memory = _Memory(size)
        self.address = self._memory.address
        self.size = size

    def text(self, size: int) -> bytes:
        """The first ``size`` of them."""
        return bytes(self._memory.view[:size])


class PollSet:
    """A set of descriptors for poll(2) in memory that is there already; see ``Bare.poll``."""

    __slots__ = ("_memory", "_short", "_word", "address")

    def __init__(self, size: int) -> None:
        self._memory = _Memory(size * 8)
        self.address = self._memory.address
        self._word = self._memory.view.cast("i")
        self._short = self._memory.view.cast("h")

    @property
    def packet(self) -> bytes:
        """The set, as it can be put into another with ``Bare.receive`` at its ``address``."""
        return bytes(self._memory.view)

    def watch(self, index: int, fd: int) -> None:
        """Watch ``fd`` (-1: nothing) for input at this place."""
        self._word[2 * index] = fd
        self._word[2 * index + 1] = _POLLIN

    def forget(self, index: int) -> None:
        self._word[2 * index] = -1

    def fd(self, index: int) -> int:
        return self._word[2 * index]

    def ready(self, index: int) -> bool:
        """Whether the last poll saw anything there."""
        return self._short[4 * index + 3] != 0

    def hung_up(self, index: int) -> bool:
        return self._short[4 * index + 3] & _POLLHUP != 0


class Bare:
    """The calls, and the memory they use, of which a process has one: make it before forking."""

    __slots__ = (
        "_after",
        "_arguments",
        "_arguments_size",
        "_before",
        "_byte",
        "_byte_address",
        "_clone3",
        "_close",
        "_close_range",
        "_dup3",
        "_fork",
        "_kept",
        "_kill",
        "_pair",
        "_pair_address",
        "_pidfd",
        "_poll",
        "_prctl",
        "_recv",
        "_send",
        "_setsid",
        "_signal",
        "_socketpair",
        "_status",
        "_status_address",
        "_syscall",
        "_waitpid",
    )

    def __init__(self) -> None:
        self._fork = _function("fork")
        self._close = _function("close", _int)
        self._poll = _function("poll", _address, ctypes.c_ulong, _int)
        self._kill = _function("kill", _int, _int)
        self._send = _function("send", _int, _address, ctypes.c_size_t, _int)
        self._recv = _function("recv", _int, _address, ctypes.c_size_t, _int)
        self._setsid = _function("setsid")
        self._signal = _function("signal", _int, _address)
        self._prctl = _function("prctl", _int, ctypes.c_char_p)
        self._dup3 = _function("dup3", _int, _int, _int)
        self._socketpair = _function("socketpair", _int, _int, _int, _address)
        self._waitpid = _function("waitpid", _int, _address, _int)
        self._syscall = ctypes.PyDLL(None).syscall
        self._syscall.argtypes = (ctypes.c_long, *(ctypes.c_ulong,) * 3)
        self._syscall.restype = ctypes.c_long
        self._clone3 = NUMBERS["clone3"]
        self._close_range = NUMBERS["close_range"]
        self._before = ctypes.pythonapi.PyOS_BeforeFork
        self._after = ctypes.pythonapi.PyOS_AfterFork_Child
        for hook in (self._before, self._after):
            hook.argtypes, hook.restype = (), None
        pair, status, pidfd, byte = _Memory(8), _Memory(4), _Memory(4), _Memory(1)
        tid = _tid_address()
        flags = CLONE_PIDFD | _CLONE_FILES
        if tid:
            flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        arguments = _Memory(_ARGUMENTS.size)
        _ARGUMENTS.pack_into(arguments.view, 0, flags, pidfd.address, tid, 0, _SIGCHLD, *(0,) * 6)
        self._arguments, self._arguments_size = arguments.address, _ARGUMENTS.size
        self._pair, self._pair_address = pair.view.cast("i"), pair.address
        self._status, self._status_address = status.view.cast("i"), status.address
        self._pidfd = pidfd.view.cast("i")
        self._byte, self._byte_address = byte.view, byte.address
        self._kept = (arguments, pair, status, pidfd, byte)

    def fork(self) -> int:
        """fork(3): the child's pid, 0 in the child, -1 when there can be none."""
        return self._fork()  # type: ignore[no-any-return]  # ctypes

    def fork_sharing(self) -> int:
        """A fork that shares our descriptors: as ``fork``; ``pidfd`` is set in the parent."""
        return self._syscall(self._clone3, self._arguments, self._arguments_size, 0)  # type: ignore[no-any-return]  # ctypes

    @property
    def pidfd(self) -> int:
        return self._pidfd[0]

    def awake(self) -> None:
        """From now on this process is a fork as Python knows them."""
        self._before()
        self._after()

    def become(self, name: bytes) -> None:
        """Lead a session, with SIGCHLD as it is by default, under a name (15 bytes)."""
        self._setsid()
        self._signal(_SIGCHLD, 0)
        self._prctl(_PR_SET_NAME, name)

    def pair(self) -> None:
        """A pair of sockets that keep packets' borders: ``first`` and ``second``; -1 for none."""
        kind = _SOCK_SEQPACKET | _SOCK_CLOEXEC
        if self._socketpair(_AF_UNIX, kind, 0, self._pair_address):
            self._pair[0] = self._pair[1] = -1

    @property
    def first(self) -> int:
        return self._pair[0]

    @property
    def second(self) -> int:
        return self._pair[1]

    def close(self, fd: int) -> None:
        self._close(fd)

    def close_range(self, first: int, last: int) -> None:
        self._syscall(self._close_range, first, last, 0)

    def poll(self, fds: PollSet, count: int) -> None:
        """Wait for one of the first ``count`` to be ready, or for a signal."""
        self._poll(fds.address, count, -1)

    def receive(self, fd: int, into: int, size: int) -> int:
        """Receive what is there now at an address: its size; 0 at the end, -1 for nothing."""
        return self._recv(fd, into, size, _MSG_DONTWAIT)  # type: ignore[no-any-return]  # ctypes

    def make_room(self, fd: int, highest: int) -> None:
        """Have a descriptor table with a place for number ``highest``, by copying ``fd`` to it.

        A table that is shared already grows only after an RCU grace period, which is milliseconds
        (``expand_fdtable`` in the kernel's fs/file.c): call this before ``fork_sharing``.
        """
        self._dup3(fd, highest, _SOCK_CLOEXEC)
        self._close(highest)

    def byte(self, fd: int) -> int:
        """Wait for a byte; -1 when the other end is closed."""
        return self._byte[0] if self._recv(fd, self._byte_address, 1, 0) == 1 else -1

    def is_silent(self, fd: int) -> bool:
        """Whether nothing is there to be received now."""
        return self._recv(fd, self._byte_address, 1, _MSG_PEEK | _MSG_DONTWAIT) <= 0  # type: ignore[no-any-return]  # ctypes

    def peek(self, fd: int) -> int:
        """The first byte of what is there now, which stays; 0 at the end, -1 for nothing."""
        size = self._recv(fd, self._byte_address, 1, _MSG_PEEK | _MSG_DONTWAIT)
        return self._byte[0] if size == 1 else size

    def send(self, fd: int, address: int, size: int) -> None:
        """Send what is at an address, if the other end is still there and has room."""
        self._send(fd, address, size, _MSG_NOSIGNAL | _MSG_DONTWAIT)

    def nudge(self, fd: int) -> None:
        """Send a byte that means nothing but that it was sent."""
        self._send(fd, self._byte_address, 1, _MSG_NOSIGNAL | _MSG_DONTWAIT)

    def kill(self, pid: int) -> None:
        """SIGKILL to a child that was not reaped yet."""
        self._kill(pid, _SIGKILL)

    def reap(self, pid: int) -> int:
        """Wait for the end of a child: its wait status, or -1 if it is none."""
        if self._waitpid(pid, self._status_address, _WALL) != pid:
            return -1
        return self._status[0]


def unshare_files() -> None:
    """Have a descriptor table of our own."""
    unshare(_CLONE_FILES)


def _tid_address() -> int:
    """Where the C library keeps this thread's ID, 0 if unknown (``processes.clone3``)."""
    found = ctypes.c_void_p()
    try:
        syscall("prctl", _PR_GET_TID_ADDRESS, ctypes.byref(found))
    except OSError:
        return 0
    return found.value or 0
