"""From the OCI ``linux.seccomp`` object to one BPF program for every ABI of this machine.

Meaning (runtime-spec "Seccomp", seccomp_rule_add(3)), held against libseccomp in the tests:

* a call no rule names gets the default action; rules that equal the default are dropped;
* a rule without arguments beats every rule with arguments of the same call;
* among rules with arguments the first in the profile's order that holds decides;
* the conditions of one rule must all hold, but several on one argument are alternatives (as runc
  reads them: libseccomp itself refuses them);
* a call of an ABI the profile does not name kills the thread; the machine's own is always named;
* a call **newer than any the profile names** gets ENOSYS where the default is to deny: the
  profile's author cannot have meant it, and C libraries fall back on ENOSYS and fail on EPERM;
* names no table knows are ignored.

No I/O and no system call here: records in, bytes out.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.kernel.seccomp.assembler import (
    JEQ,
    JGE,
    Code,
    alternative,
    branch,
    condition,
    load_arch,
    load_number,
    pack,
    ret,
    shared,
    tree,
)
from sampan.kernel.seccomp.tables import numbers

if TYPE_CHECKING:
    from sampan.oci.runtime import Seccomp, SyscallArg, SyscallRule

__all__ = ["ACTIONS", "ARCHITECTURES", "OPERATORS", "compile_program"]

RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000
RET_KILL_THREAD = 0x00000000
RET_NOTIFY = 0x7FC00000

# seccomp(2), "filter return values"
ACTIONS = {
    "SCMP_ACT_KILL": RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": RET_ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": RET_NOTIFY,
}
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_DENYING = (
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
)
OPERATORS = (
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
)

# Name in the specification: (audit architecture, column of the tables, 64-bit arguments)
_ABIS = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64", True),
    "SCMP_ARCH_X86": (0x40000003, "x86", False),
    "SCMP_ARCH_X32": (0xC000003E, "x32", True),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64", True),
    "SCMP_ARCH_ARM": (0x40000028, "arm", False),
}
_MACHINES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
# Those of other machines are valid in a profile and mean nothing on ours.
ARCHITECTURES = (
    *_ABIS,
    *(
        "SCMP_ARCH_" + name
        for name in (
            "LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 "
            "PARISC PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB"
        ).split()
    ),
)
X32_SYSCALL_BIT = 0x40000000
_TRACER_SKIPS = 0xFFFFFFFF  # a tracer replaced the number with -1 to skip the call (ptrace(2))
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


def compile_program(seccomp: Seccomp, machine: str = "") -> bytes:
    """The program as an array of ``struct sock_filter``.

    ``machine`` is uname's (x86_64 or aarch64), this one by default. Raises ``InvalidArgument``
    naming the place in the profile, also for a profile that would exceed BPF_MAXINSNS.
    """
    machine = machine or os.uname().machine
    if machine not in _MACHINES:
        raise InvalidArgument(f"seccomp: no system call table for machine {machine}")
    default = _action(
        seccomp.default_action, seccomp.default_errno_ret, "linux.seccomp.defaultAction"
    )
    if default == RET_NOTIFY:
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default")
    for i, name in enumerate(seccomp.architectures):
        if name not in ARCHITECTURES:
            raise InvalidArgument(f"linux.seccomp.architectures[{i}]: unknown: {name}")
    rules = [_rule(rule, i) for i, rule in enumerate(seccomp.syscalls)]
    newer = RET_ERRNO | errno.ENOSYS if seccomp.default_action in _DENYING else default

    native, *others = _MACHINES[machine]
    wanted = [native, *(name for name in others if name in seccomp.architectures)]
    bodies = {name: _body(name, rules, default, newer) for name in wanted}
    if machine == "x86_64":
        # x32 shares x86_64's audit architecture and is told by a bit of the number.
        beyond = bodies.pop("SCMP_ARCH_X32", None)
        if beyond is None:
            beyond = branch(JEQ, _TRACER_SKIPS, ret(default), ret(RET_KILL_THREAD))
        bodies[native] = branch(JGE, X32_SYSCALL_BIT, beyond, bodies[native])
    code = ret(RET_KILL_THREAD)
    for name in reversed(bodies):
        code = branch(JEQ, _ABIS[name][0], load_number() + bodies[name], code)
    code = shared(load_arch() + code)
    if len(code) > _MAX_INSTRUCTIONS:
        raise InvalidArgument(
            f"linux.seccomp: needs {len(code)} BPF instructions, the kernel takes "
            f"{_MAX_INSTRUCTIONS}: use fewer argument rules"
        )
    return pack(code)


def _action(name: str, errno_ret: int | None, where: str) -> int:
    if name not in ACTIONS:
        raise InvalidArgument(f"{where}: unknown action: {name}")
    if name not in _WITH_DATA:
        if errno_ret is not None:
            raise InvalidArgument(f"{where}: {name} takes no errnoRet")
        return ACTIONS[name]
    data = errno.EPERM if errno_ret is None else errno_ret
    if not 0 <= data <= 0xFFFF:
        raise InvalidArgument(f"{where}: errnoRet {data} does not fit 16 bits")
    return ACTIONS[name] | data


class _Rule:
    """A checked rule: names, return value, and alternatives of conditions (none: always)."""

    __slots__ = ("alternatives", "names", "value")

    def __init__(
        self, names: tuple[str, ...], value: int, alternatives: list[list[SyscallArg]]
    ) -> None:
        self.names = names
        self.value = value
        self.alternatives = alternatives


def _rule(rule: SyscallRule, number: int) -> _Rule:
    where = f"linux.seccomp.syscalls[{number}]"
    if not rule.names:
        raise InvalidArgument(f"{where}.names: needs at least one name")
    value = _action(rule.action, rule.errno_ret, f"{where}.action")
    if value == RET_NOTIFY and "write" in rule.names:
        # The runtime itself must write to hand the listener over.
        raise InvalidArgument(f"{where}: SCMP_ACT_NOTIFY cannot be used for write")
    for i, argument in enumerate(rule.args):
        if not 0 <= argument.index <= 5:
            raise InvalidArgument(f"{where}.args[{i}].index: {argument.index} is not 0 to 5")
        if argument.op not in OPERATORS:
            raise InvalidArgument(f"{where}.args[{i}].op: unknown operator: {argument.op}")
        for item in (argument.value, argument.value_two or 0):
            if not 0 <= item < 1 << 64:
                raise InvalidArgument(f"{where}.args[{i}]: {item} does not fit 64 bits")
    indexes = [argument.index for argument in rule.args]
    if len(set(indexes)) < len(indexes):
        return _Rule(rule.names, value, [[argument] for argument in rule.args])
    return _Rule(rule.names, value, [list(rule.args)] if rule.args else [])


def _body(abi: str, rules: list[_Rule], default: int, newer: int) -> Code:
    """The decision tree over the numbers of one ABI."""
    _, column, wide = _ABIS[abi]
    table = numbers(column)
    base = X32_SYSCALL_BIT if column == "x32" else 0
    always: dict[int, int] = {}
    sometimes: dict[int, list[tuple[list[SyscallArg], int]]] = {}
    highest = -1
    for rule in rules:
        for name in rule.names:
            number = table.get(name)
            if number is None:
                continue
            highest = max(highest, number)
            if rule.value == default:
                continue
            if rule.alternatives:
                chain = sometimes.setdefault(number, [])
                chain.extend((arguments, rule.value) for arguments in rule.alternatives)
            else:
                always.setdefault(number, rule.value)

    leaves: dict[int, Code] = {}
    for number, chain in sometimes.items():
        code: Code = []
        for arguments, value in chain:
            tests = [
                condition(
                    argument.op.removeprefix("SCMP_CMP_"),
                    argument.index,
                    argument.value,
                    argument.value_two or 0,
                    wide,
                )
                for argument in arguments
            ]
            code += alternative(tests, value)
        leaves[number] = code + ret(default)
    leaves |= {number: ret(value) for number, value in always.items()}

    segments: list[tuple[int, Code]] = []
    position = 0
    for number in sorted(leaves):
        if number > position:
            segments.append((position, ret(default)))
        segments.append((number, leaves[number]))
        position = number + 1
    if position <= highest:
        segments.append((position, ret(default)))
    segments += [(highest + 1, ret(newer)), (_TRACER_SKIPS - base, ret(default))]
    return tree(
        [
            (base + first, code)
            for i, (first, code) in enumerate(segments)
            if i == 0 or code != segments[i - 1][1]
        ]
    )
