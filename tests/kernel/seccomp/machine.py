"""A classic BPF machine for filters, and libseccomp as the oracle of what a filter should say."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import struct
import tempfile

import pytest

from sampan.oci.runtime import Seccomp

AUDIT = {
    "x86_64": 0xC000003E,
    "x86": 0x40000003,
    "x32": 0xC000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
_ORACLE_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
_ORACLE_OPS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
_ORACLE_ARCHES = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}


def run(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """The SECCOMP_RET_ value of one call."""
    values = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *values)
    words = struct.unpack("=16I", data)
    code = _decoded(program)
    accumulator = position = 0
    while True:
        operation, jt, jf, k = code[position]
        position += 1
        if operation == 0x20:
            assert k % 4 == 0
            accumulator = words[k // 4]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x06:
            return int(k)
        elif operation == 0x05:
            position += k
        elif operation == 0x15:
            position += jt if accumulator == k else jf
        elif operation == 0x25:
            position += jt if accumulator > k else jf
        elif operation == 0x35:
            position += jt if accumulator >= k else jf
        elif operation == 0x45:
            position += jt if accumulator & k else jf
        else:
            raise AssertionError(f"instruction {operation:#x} is not one seccomp takes")


@functools.lru_cache(maxsize=64)
def _decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def oracle(seccomp: Seccomp, native: str) -> bytes:
    """The program libseccomp makes of the same rules (one condition a rule's argument index)."""
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        pytest.skip("libseccomp is not installed")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    for name in ("seccomp_arch_add", "seccomp_arch_remove"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]

    def value(action: str, errno_ret: int | None) -> int:
        data = (1 if errno_ret is None else errno_ret) if action.endswith(("ERRNO", "TRACE")) else 0
        return _ORACLE_ACTIONS[action] | data

    default = value(seccomp.default_action, seccomp.default_errno_ret)
    context = library.seccomp_init(default)
    assert context
    try:
        for name in {native, *seccomp.architectures}:
            library.seccomp_arch_add(context, _ORACLE_ARCHES[name])
        if native != "SCMP_ARCH_X86_64":
            assert library.seccomp_arch_remove(context, _ORACLE_ARCHES["SCMP_ARCH_X86_64"]) == 0
        for rule in seccomp.syscalls:
            action = value(rule.action, rule.errno_ret)
            if action == default:
                continue
            for name in rule.names:
                number = library.seccomp_syscall_resolve_name(name.encode())
                if number == -1:
                    continue
                array = (_Comparison * max(1, len(rule.args)))(
                    *(
                        _Comparison(
                            a.index,
                            _ORACLE_OPS[a.op.removeprefix("SCMP_CMP_")],
                            a.value,
                            a.value_two or 0,
                        )
                        for a in rule.args
                    )
                )
                result = library.seccomp_rule_add_array(
                    context, action, number, len(rule.args), array
                )
                assert result == 0, f"seccomp_rule_add {name}: {os.strerror(-result)}"
        with tempfile.TemporaryFile() as file:
            assert library.seccomp_export_bpf(context, file.fileno()) == 0
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)
