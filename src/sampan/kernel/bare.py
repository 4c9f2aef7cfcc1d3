"""Forks that stay below the interpreter: the cheapest process an interpreter can leave behind.

A fork shares its parent's memory until either writes to it, and Python's own after-fork work writes
to some hundred kilobytes. A process that only waits needs none of that. So the fork is clone3(2)
and nothing else; until ``awake`` does what ``os.fork`` would have done, in the order it would have,
the child may use a ``Door`` only (to Python the fork happens there: ``PyOS_BeforeFork`` and
``PyOS_AfterFork_Child``, one after the other, in a process of one thread).

To use an object is to write to its reference count, and a write takes a page of 4 KiB for this
process alone; in the parent it leaves the page's old self to the children forked before. A ``Door``
is therefore one foreign function, made beforehand, and one block of memory that the kernel and this
process both write to. Who passes through it had better be one call of one function, with its
constants in a closure: parent and child then touch the same few pages.

All calls keep the interpreter lock: there is no other thread to have it.
"""

from __future__ import annotations

import ctypes
import struct

from sampan.kernel.clone import (
    CLONE_CHILD_CLEARTID,
    CLONE_CHILD_SETTID,
    CLONE_PIDFD,
    tid_address,
)
from sampan.kernel.namespaces import unshare
from sampan.kernel.syscalls import syscall_holding_lock

__all__ = ["FORK_SIZE", "Door", "awake", "fork", "unshare_files"]

_CLONE_FILES = 0x00000400
_SIGCHLD = 17

_ARGUMENTS = struct.Struct("11Q")  # struct clone_args
FORK_SIZE = _ARGUMENTS.size
_VECTOR = struct.Struct("QQ")  # struct iovec
_MESSAGE = struct.Struct("QI4xQQQQi4x")  # struct msghdr

# Without use_errno, which would write to memory at each call.
_libc = ctypes.PyDLL(None)
_before = ctypes.pythonapi.PyOS_BeforeFork
_after = ctypes.pythonapi.PyOS_AfterFork_Child
for _hook in (_before, _after):
    _hook.argtypes, _hook.restype = (), None


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
    beside them with ``keep`` has an address too. ``fork`` and ``fork_sharing`` are the addresses of
    arguments for clone3(2), of ``FORK_SIZE`` bytes. By the second the child shares its descriptors
    (what it opens, the parent has, under the same number), and a pidfd is stored at the last of the
    words; by ``fork_sharing_only`` none is made. ``first_byte`` is the address of a struct msghdr
    for a recvmsg(2) of one byte, to the last of the words but one.
    """

    __slots__ = (
        "_kept",
        "address",
        "call",
        "first_byte",
        "fork",
        "fork_sharing",
        "fork_sharing_only",
        "ints",
    )

    def __init__(self, words: int) -> None:
        block = _Memory(4 * words)
        self.address = block.address
        self.ints = block.view.cast("i")
        self.call = _libc["syscall"]
        self.call.argtypes = (ctypes.c_long, *(ctypes.c_ulong,) * 4)
        self.call.restype = ctypes.c_long
        self._kept = [block]
        last = block.address + 4 * (words - 1)
        tid = tid_address()
        flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID if tid else 0
        rest = (tid, 0, _SIGCHLD, *(0,) * 6)
        self.fork = self.keep(_ARGUMENTS.pack(flags, 0, *rest))
        self.fork_sharing = self.keep(
            _ARGUMENTS.pack(flags | CLONE_PIDFD | _CLONE_FILES, last, *rest)
        )
        self.fork_sharing_only = self.keep(_ARGUMENTS.pack(flags | _CLONE_FILES, 0, *rest))
        vector = self.keep(_VECTOR.pack(last - 4, 1))
        self.first_byte = self.keep(_MESSAGE.pack(0, 0, vector, 1, 0, 0, 0))

    def keep(self, content: bytes) -> int:
        """The address of a copy of ``content``."""
        memory = _Memory(len(content))
        memory.view[:] = content
        self._kept.append(memory)
        return memory.address


def fork() -> int:
    """A fork that Python is not told of: its pid, 0 in the child, which is not ``awake``.

    For a process of one thread. Raises KernelError.
    """
    return syscall_holding_lock("clone3", _forking.fork, FORK_SIZE, target="a fork")


def awake() -> None:
    """From now on this process is a fork as Python knows them."""
    _before()
    _after()


def unshare_files() -> None:
    """Have a descriptor table of our own."""
    unshare(_CLONE_FILES)


_forking = Door(2)
