"""System calls by name, through the C library's ``syscall(2)``: the only door to ctypes.

Python's ``os`` has no wrapper for most of what makes a container (``clone3``, ``openat2``,
``move_mount``, ``capset``, ...), and its ``unshare`` and ``setns`` only came with 3.12. So numbers
are kept here per machine (x86_64: ``arch/x86/entry/syscalls/syscall_64.tbl``; arm64: the generic
table) and a call that fails raises ``KernelError`` with the call's name, its errno and on what.

Arguments are integers, ``None`` (a null pointer), ``bytes`` (a pointer to a C string: make it with
``c_string``, which refuses an embedded NUL) and ctypes buffers. Every argument is passed as a whole
register, so flags of 64 bits arrive whole; a negative integer keeps its two's complement.

The interpreter lock is released during a call, except during ``syscall_holding_lock``, which is for
calls that fork: the child must own the lock.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINTR, ENOSYS

from sampan.errors import InvalidArgument, KernelError, NotSupported

__all__ = [
    "AT_EMPTY_PATH",
    "AT_FDCWD",
    "MACHINE",
    "NUMBERS",
    "Argument",
    "buffer",
    "c_string",
    "libc",
    "libc_holding_lock",
    "prctl",
    "syscall",
    "syscall_holding_lock",
]

Argument = object
"""``int | None | bytes`` or a ctypes buffer, array or ``byref``: what ``c_void_p`` takes."""

MACHINE = os.uname().machine
"""The kernel's name of this machine: ``x86_64`` or ``aarch64``."""

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

_TABLE: dict[str, tuple[int, int]] = {
    # name: (x86_64, aarch64)
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "clone3": (435, 435),
    "close": (3, 57),
    "close_range": (436, 436),
    "connect": (42, 203),
    "dup3": (292, 24),
    "execveat": (322, 281),
    "faccessat2": (439, 439),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "getsockopt": (55, 209),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "fstatfs": (138, 44),
    "get_mempolicy": (239, 236),
    "gettid": (186, 178),
    "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26),
    "inotify_rm_watch": (255, 28),
    "ioprio_get": (252, 31),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "mincore": (27, 232),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "munmap": (11, 215),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_mrelease": (448, 448),
    "read": (0, 63),
    "recvmsg": (47, 212),
    "renameat2": (316, 276),
    "rt_sigaction": (13, 134),
    "sched_getattr": (315, 275),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "set_mempolicy": (238, 237),
    "set_tid_address": (218, 96),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setsid": (112, 157),
    "socketpair": (53, 199),
    "syncfs": (306, 267),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "wait4": (61, 260),
    "write": (1, 64),
}

_COLUMNS = {"x86_64": 0, "aarch64": 1}

if MACHINE not in _COLUMNS:
    raise NotSupported(
        f"this machine is {MACHINE}: Sampan knows the system calls of x86_64, aarch64"
    )

NUMBERS: dict[str, int] = {name: row[_COLUMNS[MACHINE]] for name, row in _TABLE.items()}
"""The numbers on this machine of the system calls this project makes."""

# openat2(2): interrupted while a slow file (a FIFO, a device) was being opened. No other call here
# may be repeated blindly: of a mount or a clone one must know whether it happened.
_RESTARTABLE = frozenset({"openat2"})

libc = ctypes.CDLL(None, use_errno=True)
libc_holding_lock = ctypes.PyDLL(None, use_errno=True)

_SIGNATURE = (ctypes.c_long, *(ctypes.c_void_p,) * 6)


def _by_arity(library: ctypes.CDLL) -> tuple[ctypes._NamedFuncPointer, ...]:
    """``syscall(2)`` for each count of arguments: what is not passed need not be converted."""
    functions = []
    for count in range(len(_SIGNATURE)):
        function = library["syscall"]
        function.argtypes = _SIGNATURE[: count + 1]
        function.restype = ctypes.c_long
        functions.append(function)
    return tuple(functions)


# These look at arguments that the call at hand may not have: they are passed as zeros.
_MULTIPLEXED = frozenset({"keyctl", "prctl"})
_NONE = (None,) * 6
_syscalls = _by_arity(libc)
_syscalls_holding_lock = _by_arity(libc_holding_lock)


_prctl = libc_holding_lock["syscall"]
_prctl.argtypes = (ctypes.c_long, ctypes.c_long, *(ctypes.c_ulong,) * 4)
_prctl.restype = ctypes.c_long


def prctl(option: int, argument: int) -> int:
    """prctl(2) with one integer, for who makes many of them; raises KernelError."""
    result: int = _prctl(NUMBERS["prctl"], option, argument, 0, 0, 0)
    if result == -1:
        raise KernelError("prctl", ctypes.get_errno(), f"option {option}, {argument}")
    return result


def syscall(name: str, *arguments: Argument, target: str = "") -> int:
    """Make system call ``name``; return its result, or raise ``KernelError`` about ``target``.

    ``openat2`` is repeated when a signal interrupts it (Python's handlers run in between).
    """
    return _make(_syscalls, name, arguments, target)


def syscall_holding_lock(name: str, *arguments: Argument, target: str = "") -> int:
    """As ``syscall``, without releasing the interpreter lock: for calls that fork."""
    return _make(_syscalls_holding_lock, name, arguments, target)


def _make(
    functions: tuple[ctypes._NamedFuncPointer, ...],
    name: str,
    arguments: tuple[Argument, ...],
    target: str,
) -> int:
    if name in _MULTIPLEXED:
        arguments = (*arguments, *_NONE[len(arguments) :])
    try:
        number = NUMBERS[name]
    except KeyError:
        raise NotSupported(f"system call {name}: not in the table for {MACHINE}") from None
    function = functions[len(arguments)]
    while True:
        result: int = function(number, *arguments)
        if result != -1:
            return result
        failure = ctypes.get_errno()
        if failure != EINTR or name not in _RESTARTABLE:
            raise KernelError(name, failure, _hint(failure, target))


def c_string(text: str | bytes | os.PathLike[str]) -> bytes:
    """The bytes of a path or name; ``InvalidArgument`` for a NUL, which would cut it short."""
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise InvalidArgument(f"{text!r}: a NUL character in a path or name")
    return raw


def buffer(content: bytes | bytearray | int) -> ctypes.Array[ctypes.c_char]:
    """A mutable buffer that holds ``content``, or as many zero bytes as the integer says."""
    if isinstance(content, int):
        return ctypes.create_string_buffer(content)
    return ctypes.create_string_buffer(bytes(content), len(content))


def _hint(failure: int, target: str) -> str:
    if failure != ENOSYS:
        return target
    return f"{target} (a newer kernel is needed, or a seccomp filter hides the call)".lstrip()
