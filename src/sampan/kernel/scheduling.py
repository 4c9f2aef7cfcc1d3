"""How a process is scheduled: CPU, I/O and memory placement, and its personality.

After sched_setattr(2), ioprio_set(2), set_mempolicy(2) and personality(2); the names are those of
the runtime-spec (``process.scheduler``, ``process.ioPriority``, ``linux.memoryPolicy``,
``linux.personality``), and an unknown one is refused by name.
"""

from __future__ import annotations

import struct

from sampan.errors import InvalidArgument
from sampan.kernel.syscalls import buffer, syscall

TYPE_CHECKING = False  # typing's own would cost its import: 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEDULER_POLICIES: dict[str, int] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,  # reserved by the kernel, which refuses it
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}

SCHEDULER_FLAGS: dict[str, int] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

IO_CLASSES: dict[str, int] = {
    "IOPRIO_CLASS_RT": 1,
    "IOPRIO_CLASS_BE": 2,
    "IOPRIO_CLASS_IDLE": 3,
}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13

PERSONALITIES: dict[str, int] = {"LINUX": 0x0, "LINUX32": 0x8}
_PERSONALITY_QUERY = 0xFFFFFFFF

MEMORY_POLICIES: dict[str, int] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}

MEMORY_POLICY_FLAGS: dict[str, int] = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}

# Kernels are built for at most 2**10 nodes (CONFIG_NODES_SHIFT).
_MAX_NODES = 1024

_SCHED_ATTR = struct.Struct("=IIQiIQQQII")


def set_scheduler(
    policy: str,
    *,
    nice: int | None = None,
    priority: int | None = None,
    flags: Iterable[str] = (),
    runtime: int | None = None,
    deadline: int | None = None,
    period: int | None = None,
    pid: int = 0,
) -> None:
    """sched_setattr(2) for the thread ``pid`` (0: this one); times in nanoseconds."""
    attributes = _SCHED_ATTR.pack(
        _SCHED_ATTR.size,
        _number(SCHEDULER_POLICIES, policy, "scheduling policy"),
        _bits(SCHEDULER_FLAGS, flags, "scheduling flag"),
        nice or 0,
        priority or 0,
        runtime or 0,
        deadline or 0,
        period or 0,
        0,
        0,
    )
    shown = f"{policy} nice {nice or 0} priority {priority or 0}"
    syscall("sched_setattr", pid, buffer(attributes), 0, target=shown)


def get_scheduler(pid: int = 0) -> dict[str, int]:
    """sched_getattr(2): ``policy flags nice priority runtime deadline period`` as numbers."""
    result = buffer(_SCHED_ATTR.size)
    syscall("sched_getattr", pid, result, len(result), 0, target=f"pid {pid}")
    _, policy, flags, nice, priority, runtime, deadline, period, _, _ = _SCHED_ATTR.unpack(
        result.raw
    )
    return {
        "policy": policy,
        "flags": flags,
        "nice": nice,
        "priority": priority,
        "runtime": runtime,
        "deadline": deadline,
        "period": period,
    }


def set_io_priority(klass: str, priority: int = 0, pid: int = 0) -> None:
    """ioprio_set(2): class ``IOPRIO_CLASS_RT``, ``_BE`` or ``_IDLE``, priority 0 (high) to 7."""
    number = _number(IO_CLASSES, klass, "I/O priority class")
    if not 0 <= priority <= 7:
        raise InvalidArgument(f"I/O priority {priority}: expected 0 to 7")
    value = number << _IOPRIO_CLASS_SHIFT | priority
    syscall("ioprio_set", _IOPRIO_WHO_PROCESS, pid, value, target=f"{klass} {priority}")


def get_io_priority(pid: int = 0) -> tuple[int, int]:
    """(class, priority) of ioprio_get(2); the numbers of ``IO_CLASSES``, or 0 for none set."""
    value = syscall("ioprio_get", _IOPRIO_WHO_PROCESS, pid, target=f"pid {pid}")
    return value >> _IOPRIO_CLASS_SHIFT, value & 7


def set_personality(domain: str) -> None:
    """personality(2): what uname(2) and a few old calls show; execve keeps it."""
    syscall("personality", _number(PERSONALITIES, domain, "personality domain"), target=domain)


def get_personality() -> int:
    """The current execution domain and its flags."""
    return syscall("personality", _PERSONALITY_QUERY)


def set_memory_policy(
    mode: str, flags: Iterable[str] = (), nodes: str | Iterable[int] = ()
) -> None:
    """set_mempolicy(2) of this thread, kept by execve. ``nodes``: numbers, or "0-3,7"."""
    number = _number(MEMORY_POLICIES, mode, "memory policy")
    number |= _bits(MEMORY_POLICY_FLAGS, flags, "memory policy flag")
    wanted = parse_list(nodes, "memory nodes") if isinstance(nodes, str) else tuple(nodes)
    if any(not 0 <= node < _MAX_NODES for node in wanted):
        raise InvalidArgument(f"memory nodes {nodes!r}: a node is 0 to {_MAX_NODES - 1}")
    mask = sum(1 << node for node in set(wanted))
    # The kernel reads one bit fewer than it is told.
    arguments = (
        (buffer(mask.to_bytes(_MAX_NODES // 8, "little")), _MAX_NODES + 1) if mask else (None, 0)
    )
    shown = f"{mode} nodes {','.join(map(str, wanted)) or 'none'}"
    syscall("set_mempolicy", number, *arguments, target=shown)


def get_memory_policy() -> tuple[int, tuple[int, ...]]:
    """(mode with its flags, nodes) of this thread: get_mempolicy(2)."""
    mode, mask = buffer(4), buffer(_MAX_NODES // 8)
    syscall("get_mempolicy", mode, mask, _MAX_NODES + 1, None, 0)
    bits = int.from_bytes(mask.raw, "little")
    nodes = tuple(node for node in range(_MAX_NODES) if bits >> node & 1)
    return int.from_bytes(mode.raw, "little"), nodes


def parse_list(text: str, what: str) -> tuple[int, ...]:
    """The numbers of a list in cpuset(7)'s format ("0-3,7"), sorted; ``what`` is for errors."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        bounds = (first, last) if dash else (first, first)
        if not all(bound.isascii() and bound.isdigit() for bound in bounds):
            raise InvalidArgument(f"{what} {text!r}: expected a list such as 0-3,7")
        low, high = int(bounds[0]), int(bounds[1])
        if not low <= high <= 0xFFFF:
            raise InvalidArgument(f"{what} {text!r}: {part.strip()!r} is no range")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _number(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise InvalidArgument(f"{what} {name!r}: expected one of {', '.join(table)}")
    return table[name]


def _bits(table: dict[str, int], names: Iterable[str], what: str) -> int:
    result = 0
    for name in names:
        result |= _number(table, name, what)
    return result
