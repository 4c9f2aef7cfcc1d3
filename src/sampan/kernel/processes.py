"""Processes: pidfds, prctl, limits, scheduling and signals' names.

After pidfd_open(2), prctl(2), prlimit(2), sched_setattr(2), ioprio_set(2), personality(2),
set_mempolicy(2), close_range(2) and proc_pid_stat(5). Scheduling's functions are in
``sampan.kernel.scheduling`` and can be had from here; how a process is made is in ``clone``.
"""

from __future__ import annotations

import os
import struct
from errno import ENOENT, ESRCH

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.scheduling import (
    set_io_priority,
    set_memory_policy,
    set_personality,
    set_scheduler,
)
from sampan.kernel.syscalls import (
    buffer,
    c_string,
    syscall,
)

__all__ = [
    "RLIMITS",
    "RLIM_INFINITY",
    "SECBIT_KEEP_CAPS",
    "SECBIT_KEEP_CAPS_LOCKED",
    "SECBIT_NOROOT",
    "SECBIT_NOROOT_LOCKED",
    "SECBIT_NO_CAP_AMBIENT_RAISE",
    "SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED",
    "SECBIT_NO_SETUID_FIXUP",
    "SECBIT_NO_SETUID_FIXUP_LOCKED",
    "SIGNALS",
    "SIGRTMAX",
    "SIGRTMIN",
    "close_range",
    "get_dumpable",
    "get_keep_capabilities",
    "get_no_new_privileges",
    "get_rlimit",
    "get_securebits",
    "is_ending",
    "parse_signal",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "reset_reserved_signals",
    "process_state",
    "set_child_subreaper",
    "set_dumpable",
    "set_io_priority",
    "set_keep_capabilities",
    "set_memory_policy",
    "set_no_new_privileges",
    "set_parent_death_signal",
    "set_personality",
    "set_process_name",
    "set_rlimit",
    "set_scheduler",
    "set_securebits",
    "start_time",
    "stat_fields",
]

_CLOSE_RANGE_UNSHARE = 0x2
_CLOSE_RANGE_CLOEXEC = 0x4

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_GET_KEEPCAPS = 7
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39

# capabilities(7), the securebits flags
SECBIT_NOROOT = 0x01
SECBIT_NOROOT_LOCKED = 0x02
SECBIT_NO_SETUID_FIXUP = 0x04
SECBIT_NO_SETUID_FIXUP_LOCKED = 0x08
SECBIT_KEEP_CAPS = 0x10
SECBIT_KEEP_CAPS_LOCKED = 0x20
SECBIT_NO_CAP_AMBIENT_RAISE = 0x40
SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 0x80

_RESERVED_SIGNALS = (32, 33)
_KERNEL_SIGSET_BYTES = 8
_DEFAULT_ACTION = buffer(32)  # struct sigaction of the kernel: SIG_DFL, no flags, empty mask


def close_range(first: int, last: int = 0xFFFFFFFF, cloexec: bool = False) -> None:
    """Close descriptors ``first`` to ``last``, or with ``cloexec`` have the next execve do so."""
    flags = _CLOSE_RANGE_CLOEXEC if cloexec else 0
    syscall("close_range", first, last, flags, target=f"{first} to {last}")


def pidfd_open(pid: int) -> int:
    """A descriptor of process ``pid``: readable when it ends. ``ESRCH`` if there is none."""
    return syscall("pidfd_open", pid, 0, target=f"pid {pid}")


def pidfd_send_signal(fd: int, signal: int) -> None:
    """Signal the very process ``fd`` stands for. ``ESRCH`` once it was reaped."""
    syscall("pidfd_send_signal", fd, signal, None, 0, target=f"pidfd {fd} signal {signal}")


def pidfd_getfd(fd: int, number: int) -> int:
    """A copy of descriptor ``number`` of the process ``fd`` stands for (needs ptrace access)."""
    return syscall("pidfd_getfd", fd, number, 0, target=f"pidfd {fd} descriptor {number}")


def set_child_subreaper(enabled: bool = True) -> None:
    """Orphaned descendants become our children instead of PID 1's."""
    syscall("prctl", _PR_SET_CHILD_SUBREAPER, int(enabled), target="PR_SET_CHILD_SUBREAPER")


def set_parent_death_signal(signal: int) -> None:
    """Get ``signal`` when the parent *thread* ends; an execve of a privileged file clears it.

    The parent may be gone already: compare ``os.getppid()`` afterwards.
    """
    syscall("prctl", _PR_SET_PDEATHSIG, signal, target="PR_SET_PDEATHSIG")


def set_dumpable(enabled: bool) -> None:
    """Not dumpable: /proc/PID is root's and no other process of our user may ptrace us."""
    syscall("prctl", _PR_SET_DUMPABLE, int(enabled), target="PR_SET_DUMPABLE")


def get_dumpable() -> bool:
    """Whether ``PR_GET_DUMPABLE`` is 1."""
    return syscall("prctl", _PR_GET_DUMPABLE) == 1


def set_no_new_privileges() -> None:
    """No execve of ours or of our descendants grants privileges from now on."""
    syscall("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, target="PR_SET_NO_NEW_PRIVS")


def get_no_new_privileges() -> bool:
    """Whether no_new_privs is set."""
    return syscall("prctl", _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1


def set_process_name(name: str) -> None:
    """The thread's name in ``comm``; the kernel keeps 15 bytes."""
    syscall("prctl", _PR_SET_NAME, c_string(name), target="PR_SET_NAME")


def reset_reserved_signals() -> None:
    """Give the two signals the C library keeps for itself their default action.

    Its own functions refuse them (signal(7), "Real-time signals"), and a parent that ignored them
    would hand that on through execve.
    """
    for number in _RESERVED_SIGNALS:
        syscall("rt_sigaction", number, _DEFAULT_ACTION, None, _KERNEL_SIGSET_BYTES)


def set_keep_capabilities(enabled: bool = True) -> None:
    """Permitted capabilities survive the next change to non-root user IDs; execve clears this."""
    syscall("prctl", _PR_SET_KEEPCAPS, int(enabled), target="PR_SET_KEEPCAPS")


def get_keep_capabilities() -> bool:
    """Whether ``set_keep_capabilities`` is in effect."""
    return syscall("prctl", _PR_GET_KEEPCAPS) == 1


def get_securebits() -> int:
    """The ``SECBIT_*`` of this thread."""
    return syscall("prctl", _PR_GET_SECUREBITS)


def set_securebits(bits: int) -> None:
    """Set the ``SECBIT_*``; needs CAP_SETPCAP."""
    syscall("prctl", _PR_SET_SECUREBITS, bits, target=f"PR_SET_SECUREBITS {bits:#x}")


def start_time(pid: int) -> int:
    """When process ``pid`` started, in clock ticks since boot: with the PID it names one process.

    ``KernelError`` (``ENOENT`` or ``ESRCH``) if there is no such process.
    """
    return int(stat_fields(pid)[19])


def is_ending(pid: int) -> bool:
    """Whether there is no such process any more, or one that does nothing any more: it waits to be
    reaped, or as the first of a pid namespace for the end of all others there."""
    try:
        fields = stat_fields(pid)
    except KernelError as error:
        if error.errno in (ENOENT, ESRCH):
            return True
        raise
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def process_state(pid: int) -> str | None:
    """The letter of the process's state (``R S D Z T t X I``), or None if there is none."""
    try:
        return stat_fields(pid)[0].decode()
    except KernelError as error:
        if error.errno in (ENOENT, ESRCH):
            return None
        raise


_PF_EXITING = 0x00000004  # linux/sched.h; field 9 of proc_pid_stat(5)
_STAT_BYTES = 4096  # 52 numbers and a name, in one read


def stat_fields(pid: int) -> list[bytes]:
    """Fields 3 and on of proc_pid_stat(5): ``comm``, field 2, may hold blanks and parentheses."""
    path = f"/proc/{pid}/stat"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _STAT_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError("read", error.errno or 0, path) from None
    return text[text.rindex(b")") + 2 :].split()


# Limits ---------------------------------------------------------------------------------------

RLIMITS: dict[str, int] = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

RLIM_INFINITY = 0xFFFFFFFFFFFFFFFF


def set_rlimit(pid: int, name: str, soft: int, hard: int) -> None:
    """Set limit ``name`` ("RLIMIT_NOFILE" or "nofile") of process ``pid`` (0: this one).

    -1 is no limit. ``EPERM``: raising a hard limit needs CAP_SYS_RESOURCE.
    """
    number, shown = _rlimit_number(name)
    pair = buffer(struct.pack("QQ", soft & RLIM_INFINITY, hard & RLIM_INFINITY))
    syscall("prlimit64", pid, number, pair, None, target=f"{shown} {soft}:{hard}")


def get_rlimit(pid: int, name: str) -> tuple[int, int]:
    """(soft, hard) of limit ``name`` of process ``pid``; ``RLIM_INFINITY`` is no limit."""
    number, shown = _rlimit_number(name)
    result = buffer(16)
    syscall("prlimit64", pid, number, None, result, target=shown)
    soft, hard = struct.unpack("QQ", result.raw)
    return soft, hard


def _rlimit_number(name: str) -> tuple[int, str]:
    shown = name.upper() if name.upper().startswith("RLIMIT_") else f"RLIMIT_{name.upper()}"
    if shown not in RLIMITS:
        raise InvalidArgument(f"rlimit {name!r}: expected one of {', '.join(RLIMITS)}")
    return RLIMITS[shown], shown


# Signals --------------------------------------------------------------------------------------

SIGNALS: dict[str, int] = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT "
        "STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        1,
    )
}
"""Names without "SIG" -> numbers, the same on x86_64 and arm64: signal(7)."""

SIGRTMIN, SIGRTMAX = 34, 64
_ALIASES = {"CLD": "CHLD", "IOT": "ABRT", "POLL": "IO", "UNUSED": "SYS"}


def parse_signal(text: str) -> int:
    """The number of a signal: "TERM", "SIGTERM", "15", "RTMIN+3", "SIGRTMAX-1"."""
    wanted = text.strip().upper().removeprefix("SIG")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted in SIGNALS:
        return SIGNALS[wanted]
    base, offset = 0, wanted
    if wanted.startswith("RTMIN"):
        base, offset = SIGRTMIN, wanted[5:].removeprefix("+") or "0"
    elif wanted.startswith("RTMAX"):
        base, offset = SIGRTMAX, wanted[5:] or "0"
    digits = offset.removeprefix("-") if base == SIGRTMAX else offset
    if digits.isascii() and digits.isdigit():
        number = base + int(offset)
        if (SIGRTMIN if base else 1) <= number <= SIGRTMAX:
            return number
    raise InvalidArgument(f"invalid signal: {text}")
