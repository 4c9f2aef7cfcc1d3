"""Install a compiled filter in the calling thread (seccomp(2)), and keep filters by digest.

Compiling a default profile takes some milliseconds, more than all else a start costs, so who
starts containers compiles once: in memory, and where a directory is given also on disk, for
short-lived callers. A file of that directory is trusted: it must be the runtime's own.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from _blake2 import blake2b  # hashlib would load OpenSSL: 4 MB in every monitor
from array import array

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.seccomp.compiler import compile_program
from sampan.kernel.syscalls import syscall
from sampan.oci.runtime import Seccomp

__all__ = ["FLAGS", "Filter", "Program", "compiled", "load", "supported_flags"]

_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_NEW_LISTENER = 1 << 3
_TSYNC = 1
_TSYNC_ESRCH = 1 << 4

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": _TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}

# Part of every key: a change of the compiler must not find the old one's work.
_COMPILER = "sampan-bpf-2"
_memory: dict[str, Filter] = {}


class Filter:
    """A program ready to load: ``struct sock_filter`` array, flags, and the profile's digest."""

    __slots__ = ("digest", "flags", "notify", "program")

    def __init__(self, program: bytes, flags: int, notify: bool, digest: str) -> None:
        self.program = program
        self.flags = flags
        self.notify = notify
        self.digest = digest


class Program(Seccomp):
    """A profile that was compiled elsewhere: its filter is all that is left of it."""

    filter: Filter


def compiled(seccomp: Seccomp, cache_dir: str | None = None) -> Filter:
    """The filter of a profile, compiled at most once a process (and once per ``cache_dir``)."""
    if isinstance(seccomp, Program):
        return seccomp.filter
    machine = os.uname().machine
    flags = 0
    for i, name in enumerate(seccomp.flags):
        if name not in FLAGS:
            raise InvalidArgument(f"linux.seccomp.flags[{i}]: unknown flag: {name}")
        flags |= FLAGS[name]
    notify = any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.syscalls)
    if notify:
        # TSYNC and a listener both want the return value; this flag reconciles them (Linux 5.7).
        flags |= _NEW_LISTENER | (_TSYNC_ESRCH if flags & _TSYNC else 0)
    elif flags & FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]:
        raise InvalidArgument(
            "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with "
            "SCMP_ACT_NOTIFY"
        )
    # The listener and its metadata are not in the program; what is left decides it.
    profile = seccomp.replace(listener_path=None, listener_metadata=None).to_json()
    key = json.dumps([_COMPILER, machine, profile], sort_keys=True, separators=(",", ":"))
    digest = blake2b(key.encode(), digest_size=32).hexdigest()
    found = _memory.get(digest)
    if found is None:
        program = _cached(cache_dir, digest) if cache_dir else None
        if program is None:
            program = compile_program(seccomp, machine)
            if cache_dir:
                _keep(cache_dir, digest, program)
        found = _memory[digest] = Filter(program, flags, notify, digest)
    return found


def load(seccomp_filter: Filter) -> int:
    """Install the filter for the calling thread, for ever.

    Needs no_new_privs or CAP_SYS_ADMIN. Returns the notification listener's descriptor
    (close-on-exec) when the filter has NOTIFY rules, else -1.
    """
    program = array("B", seccomp_filter.program)  # which tells its address
    header = struct.pack("@HP", len(program) // 8, program.buffer_info()[0])
    result = syscall("seccomp", _SET_MODE_FILTER, seccomp_filter.flags, header, target="filter")
    return result if seccomp_filter.notify else -1


def supported_flags() -> list[str]:
    """The names of ``FLAGS`` that this kernel knows (EFAULT for a null program, not EINVAL)."""
    known = []
    for name, bit in FLAGS.items():
        extra = _NEW_LISTENER if bit == FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] else 0
        try:
            syscall("seccomp", _SET_MODE_FILTER, bit | extra, 0)
        except KernelError as error:
            if error.errno == 14:  # EFAULT
                known.append(name)
    return known


def action_available(value: int) -> bool:
    """Whether the kernel knows a SECCOMP_RET_ action (without data)."""
    argument = ctypes.c_uint32(value)
    try:
        syscall("seccomp", _GET_ACTION_AVAIL, 0, ctypes.addressof(argument))
    except KernelError:
        return False
    return True


def _cached(cache_dir: str, digest: str) -> bytes | None:
    try:
        descriptor = os.open(f"{cache_dir}/{digest}.bpf", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        program = file.read()
    # A file cut short by a full disk is not a program.
    return program if program and len(program) % 8 == 0 else None


def _keep(cache_dir: str, digest: str, program: bytes) -> None:
    os.makedirs(cache_dir, mode=0o700, exist_ok=True)
    temporary = f"{cache_dir}/.{digest}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(program)
    os.rename(temporary, f"{cache_dir}/{digest}.bpf")
