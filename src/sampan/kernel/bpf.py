"""eBPF programs that decide about devices: the device controller of cgroup v2.

cgroup v2 has no devices.allow; a program of type ``BPF_PROG_TYPE_CGROUP_DEVICE`` (Linux 4.15) is
attached to the group and asked at every open(2) and mknod(2): bpf(2), linux/bpf.h
``struct bpf_cgroup_dev_ctx``. Several programs may be attached (``BPF_F_ALLOW_MULTI``); all must
say yes, and those of the groups above too. The last matching rule wins, and where none matches the
answer is no.

An open for reading and writing asks for two accesses at once and may be granted by two rules, one
for each. So the program keeps the accesses not yet decided, walks the rules from the last to the
first, and says yes when none is left.
"""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EINVAL, ENOENT
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel.cgroups.devices import Rule, normal
from sampan.kernel.syscalls import buffer, syscall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.oci.runtime import DeviceRule

__all__ = [
    "attached_device_programs",
    "device_program",
    "load_device_program",
    "replace_device_program",
]

# linux/bpf.h
_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_F_ALLOW_MULTI = 2
_F_REPLACE = 4

_TYPES = {"b": 1, "c": 2}
_ACCESSES = {"m": 1, "r": 2, "w": 4}
_ALL = 7

# linux/bpf_common.h: class | size or operation | source
_LOAD_WORD = 0x61  # LDX | W | MEM
_AND = 0x57  # ALU64 | AND | K
_RIGHT = 0x77  # ALU64 | RSH | K
_MOVE = 0xB7  # ALU64 | MOV | K
_EXIT = 0x95  # JMP | EXIT
_JUMP = 0x05  # JMP | JA
_JUMP_IF_NOT = 0x56  # JMP32 | JNE | K
_JUMP_IF_ANY = 0x46  # JMP32 | JSET | K

_CONTEXT, _TYPE, _LEFT, _MAJOR, _MINOR = 1, 2, 3, 4, 5

_LOG_SIZE = 1 << 16


def device_program(rules: Iterable[DeviceRule]) -> bytes:
    """The instructions that hold these rules, in their order. No I/O.

    ``InvalidArgument`` for a rule of the wrong shape.
    """
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),
        _instruction(_LOAD_WORD, _LEFT, _CONTEXT, 0),
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_RIGHT, _LEFT, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(normal(rules)):
        code += _rule(rule)
        if rule.everything:
            # What follows could never run, and the verifier refuses code that cannot.
            return b"".join(code)
    return b"".join([*code, *_answer(False)])


def _rule(rule: Rule) -> list[bytes]:
    """One rule; where it does not decide, control falls through to the next."""
    mask = sum(_ACCESSES[letter] for letter in rule.access)
    if rule.full:
        action = _answer(rule.allow)
    elif rule.allow:
        action = [
            _instruction(_AND, _LEFT, value=_ALL & ~mask),
            _instruction(_JUMP_IF_NOT, _LEFT, jump=2, value=0),
            *_answer(True),
        ]
    else:
        action = [
            _instruction(_JUMP_IF_ANY, _LEFT, jump=1, value=mask),
            _instruction(_JUMP, jump=2),
            *_answer(False),
        ]
    tests = [(_TYPE, _TYPES.get(rule.kind)), (_MAJOR, rule.major), (_MINOR, rule.minor)]
    code = action
    for register, value in reversed(tests):
        if value is not None:
            code = [_instruction(_JUMP_IF_NOT, register, jump=len(code), value=value), *code]
    return code


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, 0, value=int(allow)), _instruction(_EXIT)]


def _instruction(
    code: int, target: int = 0, source: int = 0, offset: int = 0, *, jump: int = 0, value: int = 0
) -> bytes:
    # The immediate is signed; device numbers are compared as 32 bits, whatever their sign.
    return struct.pack("=BBhI", code, target | source << 4, offset or jump, value & 0xFFFFFFFF)


def load_device_program(program: bytes) -> int:
    """Give the program to the kernel; returns its descriptor (close-on-exec always).

    A refusal carries the verifier's own words.
    """
    try:
        return _load(program, None)
    except KernelError as error:
        if error.errno not in (EINVAL, 13):
            raise
        log = buffer(_LOG_SIZE)
        try:
            return _load(program, log)
        except KernelError as again:
            said = log.value.decode(errors="replace").strip()
            raise KernelError(again.call, again.errno or 0, f"{again.target}: {said}") from None


def _load(program: bytes, log: ctypes.Array[ctypes.c_char] | None) -> int:
    instructions, license_text = buffer(program), buffer(b"Apache-2.0\0")
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
        0 if log is None else 1,
        0 if log is None else _LOG_SIZE,
        0 if log is None else ctypes.addressof(log),
        0,
        0,
        b"sampan_devices\0",
    )
    return _bpf(_PROG_LOAD, attributes, f"device program of {len(program) // 8} instructions")


def attached_device_programs(group_fd: int) -> list[int]:
    """The IDs of the device programs attached to this very group, in the order they are asked."""
    # Far above the kernel's own limit of 64 programs on a group.
    identifiers = (ctypes.c_uint32 * 256)()
    attributes = buffer(
        struct.pack(
            "=IIIIQIIQQQ",
            group_fd,
            _CGROUP_DEVICE,
            0,
            0,
            ctypes.addressof(identifiers),
            len(identifiers),
            0,
            0,
            0,
            0,
        )
    )
    syscall(
        "bpf", _PROG_QUERY, attributes, len(attributes), target=f"query of cgroup fd {group_fd}"
    )
    count: int = struct.unpack_from("=I", attributes, 24)[0]
    return list(identifiers[:count])


def replace_device_program(group_fd: int, program_fd: int) -> None:
    """Attach a program to the group instead of those attached to it now.

    A single old one is exchanged in one step (``BPF_F_REPLACE``, Linux 5.6). Otherwise the new one
    comes before the old ones go: all must say yes, so nothing is open in between.
    """
    old = []
    try:
        for identifier in attached_device_programs(group_fd):
            fd = _program_by_id(identifier)
            if fd is not None:
                old.append(fd)
        if len(old) == 1:
            try:
                _attach(group_fd, program_fd, _F_ALLOW_MULTI | _F_REPLACE, old[0])
                return
            except KernelError as error:
                # An older kernel, or one attached without ALLOW_MULTI.
                if error.errno != EINVAL:
                    raise
        _attach(group_fd, program_fd, _F_ALLOW_MULTI, 0)
        for fd in old:
            _detach(group_fd, fd)
    finally:
        for fd in old:
            os.close(fd)


def _program_by_id(identifier: int) -> int | None:
    try:
        return _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", identifier, 0, 0), f"id {identifier}")
    except KernelError as error:
        if error.errno == ENOENT:  # detached since the query
            return None
        raise


def _attach(group_fd: int, program_fd: int, flags: int, replaced: int) -> None:
    attributes = struct.pack("=IIIII", group_fd, program_fd, _CGROUP_DEVICE, flags, replaced)
    _bpf(_PROG_ATTACH, attributes, f"attach of a device program to cgroup fd {group_fd}")


def _detach(group_fd: int, program_fd: int) -> None:
    attributes = struct.pack("=III", group_fd, program_fd, _CGROUP_DEVICE)
    _bpf(_PROG_DETACH, attributes, f"detach of a device program from cgroup fd {group_fd}")


def _bpf(command: int, attributes: bytes, target: str) -> int:
    return syscall("bpf", command, buffer(attributes), len(attributes), target=target)
