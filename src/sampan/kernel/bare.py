"""Forks that stay below the interpreter: the cheapest process an interpreter can leave behind.

A fork shares its parent's memory until it writes to it, and Python's own after-fork work writes to
some hundred kilobytes. A process that only waits needs none of that. So ``Bare.fork`` is the C
library's and nothing else; until ``awake`` does what ``os.fork`` would have done, in the order it
would have, the child may use a ``Door`` only (to Python the fork happens there:
``PyOS_BeforeFork`` and ``PyOS_AfterFork_Child``, one after the other, in a process of one thread).

To use an object is to write to its reference count, and a write takes a page of 4 KiB for this
process alone. A ``Door`` is therefore one foreign function, made beforehand, and one block of
memory that the kernel and this process both write to. Who passes through it had better be one
function with its constants in a closure.

All calls keep the interpreter lock: there is no other thread to have it.
"""

from __future__ import annotations

import ctypes
import struct

from sampan.kernel.namespaces import unshare
from sampan.kernel.processes import CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_PIDFD
from sampan.kernel.syscalls import syscall

__all__ = ["Bare", "Door", "PollSet", "awake", "unshare_files"]

_CLONE_FILES = 0x00000400
_SIGCHLD = 17
_PR_GET_TID_ADDRESS = 40
_AF_UNIX = 1
_SOCK_SEQPACKET = 5
_SOCK_CLOEXEC = 0o2000000
_POLLIN = 0x001

_ARGUMENTS = struct.Struct("11Q")  # struct clone_args
_VECTOR = struct.Struct("QQ")  # struct iovec
_MESSAGE = struct.Struct("QI4xQQQQi4x")  # struct msghdr

_int, _address = ctypes.c_int, ctypes.c_void_p
# Without use_errno, which would write to memory at each call.
_libc = ctypes.PyDLL(None)
_before = ctypes.pythonapi.PyOS_BeforeFork
_after = ctypes.pythonapi.PyOS_AfterFork_Child
for _hook in (_before, _after):
    _hook.argtypes, _hook.restype = (), None


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


class Door:
    """``call(number, a, b, c, d)`` makes a system call: its result, or -1.

    ``ints`` are the block's words of 32 bits, and ``address`` is where they are; what a caller puts
    beside them with ``keep`` has an address too. ``fork_sharing`` is the (address, size) of the
    arguments for a clone3(2) with CLONE_FILES: what the child opens, the parent has, under the same
    number. It stores a pidfd at the last of the words. ``first_byte`` is the address of a struct
    msghdr for a recvmsg(2) of one byte, to the last of the words but one.
    """

    __slots__ = ("_kept", "address", "call", "first_byte", "fork_sharing", "ints")

    def __init__(self, words: int) -> None:
        block = _Memory(4 * words)
        self.address = block.address
        self.ints = block.view.cast("i")
        self.call = _libc["syscall"]
        self.call.argtypes = (ctypes.c_long, *(ctypes.c_ulong,) * 4)
        self.call.restype = ctypes.c_long
        tid = _tid_address()
        flags = CLONE_PIDFD | _CLONE_FILES
        if tid:
            flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        arguments = _Memory(_ARGUMENTS.size)
        last = block.address + 4 * (words - 1)
        _ARGUMENTS.pack_into(arguments.view, 0, flags, last, tid, 0, _SIGCHLD, *(0,) * 6)
        self.fork_sharing = (arguments.address, _ARGUMENTS.size)
        self._kept = [block, arguments]
        vector = self.keep(_VECTOR.pack(last - 4, 1))
        self.first_byte = self.keep(_MESSAGE.pack(0, 0, vector, 1, 0, 0, 0))

    def keep(self, content: bytes) -> int:
        """The address of a copy of ``content``."""
        memory = _Memory(len(content))
        memory.view[:] = content
        self._kept.append(memory)
        return memory.address


class PollSet:
    """A set of descriptors for poll(2) in memory that is there already; see ``Bare.poll``."""

    __slots__ = ("_memory", "_word", "address")

    def __init__(self, size: int) -> None:
        self._memory = _Memory(size * 8)
        self.address = self._memory.address
        self._word = self._memory.view.cast("i")

    def watch(self, index: int, fd: int) -> None:
        """Watch ``fd`` (-1: nothing) for input at this place."""
        self._word[2 * index] = fd
        self._word[2 * index + 1] = _POLLIN


class Bare:
    """What a parent of bare forks does between them, with memory that is there already."""

    __slots__ = (
        "_byte",
        "_byte_address",
        "_close",
        "_fork",
        "_kept",
        "_pair",
        "_pair_address",
        "_poll",
        "_recv",
        "_socketpair",
    )

    def __init__(self) -> None:
        self._fork = _function("fork")
        self._close = _function("close", _int)
        self._poll = _function("poll", _address, ctypes.c_ulong, _int)
        self._recv = _function("recv", _int, _address, ctypes.c_size_t, _int)
        self._socketpair = _function("socketpair", _int, _int, _int, _address)
        pair, byte = _Memory(8), _Memory(1)
        self._pair, self._pair_address = pair.view.cast("i"), pair.address
        self._byte, self._byte_address = byte.view, byte.address
        self._kept = (pair, byte)

    def fork(self) -> int:
        """fork(3): the child's pid, 0 in the child, -1 when there can be none."""
        return self._fork()  # type: ignore[no-any-return]  # ctypes

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

    def poll(self, fds: PollSet, count: int) -> None:
        """Wait for one of the first ``count`` to be ready, or for a signal."""
        self._poll(fds.address, count, -1)

    def byte(self, fd: int) -> int:
        """Wait for a byte; -1 when the other end is closed."""
        return self._byte[0] if self._recv(fd, self._byte_address, 1, 0) == 1 else -1


def awake() -> None:
    """From now on this process is a fork as Python knows them."""
    _before()
    _after()


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
