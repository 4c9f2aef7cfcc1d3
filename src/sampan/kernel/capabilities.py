"""Capabilities of the calling thread: the five sets, read and applied.

After capabilities(7), capget(2) (version 3 of its structures) and prctl(2).
"""

from __future__ import annotations

import struct
from errno import EINVAL

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.syscalls import buffer, prctl, syscall

NAMES: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
        "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
        "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
        "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
        "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
        "CHECKPOINT_RESTORE"
    ).split()
)
"""The names by number: ``NAMES[21]`` is ``CAP_SYS_ADMIN``."""

NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}

CAP_SETPCAP = 8

_VERSION_3 = 0x20080522
_HEADER = struct.Struct("Ii")
_DATA = struct.Struct("6I")

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_AMBIENT_IS_SET = 1
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4


class Caps:
    """Five sets of capability numbers."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    effective: frozenset[int]
    permitted: frozenset[int]
    inheritable: frozenset[int]
    bounding: frozenset[int]
    ambient: frozenset[int]

    def __init__(
        self,
        *,
        effective: frozenset[int] = frozenset(),
        permitted: frozenset[int] = frozenset(),
        inheritable: frozenset[int] = frozenset(),
        bounding: frozenset[int] = frozenset(),
        ambient: frozenset[int] = frozenset(),
    ) -> None:
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.bounding = bounding
        self.ambient = ambient

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Caps):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        sets = (f"{name}={_mask(getattr(self, name)):#x}" for name in self.__slots__)
        return f"<Caps {' '.join(sets)}>"


_last: list[int] = []


def number(name: str) -> int:
    """The number of "CAP_SYS_ADMIN", "sys_admin"; ``InvalidArgument`` for an unknown one."""
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full not in NUMBERS:
        raise InvalidArgument(f"unknown capability {name!r}")
    return NUMBERS[full]


def last_supported() -> int:
    """The highest capability this kernel knows; it may have more than ``NAMES``."""
    if not _last:
        try:
            with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
                _last.append(int(file.read()))
        except (OSError, ValueError):
            _last.append(_probe_last())
    return _last[0]


def _probe_last() -> int:
    """The highest number prctl(2) has a bounding set bit for: what can be asked without /proc."""
    for candidate in range(64):
        try:
            syscall("prctl", _PR_CAPBSET_READ, candidate)
        except KernelError as error:
            if error.errno != EINVAL:
                raise
            return candidate - 1
    return 63


def get() -> Caps:
    """The five sets of this thread."""
    effective, permitted, inheritable = _get()
    return Caps(
        effective=effective,
        permitted=permitted,
        inheritable=inheritable,
        bounding=_bounding(),
        ambient=frozenset(one for one in permitted if _ambient_is_set(one)),
    )


def apply(wanted: Caps) -> frozenset[int]:
    """Make the five sets of this thread ``wanted``, as far as the kernel's rules allow.

    Nothing here can gain a capability the thread does not have permitted, nor put one back into
    the bounding set. Those asked for in any set and not given to it are returned, and it is for
    the caller to warn. What must be *lost* is lost or the call fails: ``EPERM`` where a
    capability must leave the bounding set and CAP_SETPCAP is not permitted.

    The order is the kernel's: while CAP_SETPCAP still is effective, first the inheritable set
    (which may only gain what the bounding set has), then the bounding set; then permitted and
    effective; last the ambient set, which can hold only what is permitted and inheritable.
    """
    _, permitted, inheritable = _get()
    last = last_supported()
    if CAP_SETPCAP in permitted:
        # What is not wanted may be dropped without asking whether it is there.
        asked = wanted.bounding | wanted.inheritable
        bounding = frozenset(one for one in asked if one <= last and _is_bounding(one))
        unwanted = frozenset(range(last + 1)) - wanted.bounding
    else:
        bounding = _bounding()
        unwanted = bounding - wanted.bounding
    before = Caps(permitted=permitted, inheritable=inheritable, bounding=bounding)
    permitted = wanted.permitted & before.permitted
    effective = wanted.effective & permitted
    inheritable = wanted.inheritable & (before.inheritable | before.bounding)
    if CAP_SETPCAP not in before.permitted:
        inheritable &= before.inheritable | before.permitted
    ambient = wanted.ambient & permitted & inheritable
    ambient_clear()
    _set(before.permitted, before.permitted, inheritable)
    for capability in sorted(unwanted):
        drop_bounding(capability)
    _set(effective, permitted, inheritable)
    for capability in sorted(ambient):
        ambient_raise(capability)
    return (
        (wanted.permitted - permitted)
        | (wanted.effective - effective)
        | (wanted.inheritable - inheritable)
        | (wanted.bounding - before.bounding)
        | (wanted.ambient - ambient)
    )


def drop_bounding(capability: int) -> None:
    """Take one out of the bounding set, for good; needs CAP_SETPCAP effective."""
    try:
        prctl(_PR_CAPBSET_DROP, capability)
    except KernelError as error:
        target = f"PR_CAPBSET_DROP {_name(capability)}"
        raise KernelError("prctl", error.errno or 0, target) from None


def ambient_raise(capability: int) -> None:
    """Add one to the ambient set; it must be permitted and inheritable."""
    target = f"PR_CAP_AMBIENT_RAISE {_name(capability)}"
    syscall("prctl", _PR_CAP_AMBIENT, _AMBIENT_RAISE, capability, 0, 0, target=target)


def ambient_clear() -> None:
    """Empty the ambient set."""
    syscall(
        "prctl", _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0, target="PR_CAP_AMBIENT_CLEAR_ALL"
    )


def _ambient_is_set(capability: int) -> bool:
    return syscall("prctl", _PR_CAP_AMBIENT, _AMBIENT_IS_SET, capability, 0, 0) == 1


def _bounding() -> frozenset[int]:
    return frozenset(one for one in range(last_supported() + 1) if _is_bounding(one))


def _is_bounding(capability: int) -> bool:
    return prctl(_PR_CAPBSET_READ, capability) == 1


def _get() -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    data = buffer(_DATA.size)
    syscall("capget", buffer(_HEADER.pack(_VERSION_3, 0)), data)
    low_e, low_p, low_i, high_e, high_p, high_i = _DATA.unpack(data.raw)
    return (
        _numbers(low_e | high_e << 32),
        _numbers(low_p | high_p << 32),
        _numbers(low_i | high_i << 32),
    )


def _set(effective: frozenset[int], permitted: frozenset[int], inheritable: frozenset[int]) -> None:
    masks = [_mask(numbers) for numbers in (effective, permitted, inheritable)]
    halves = [mask & 0xFFFFFFFF for mask in masks] + [mask >> 32 for mask in masks]
    header = buffer(_HEADER.pack(_VERSION_3, 0))
    syscall("capset", header, buffer(_DATA.pack(*halves)), target="this thread")


def _numbers(mask: int) -> frozenset[int]:
    return frozenset(bit for bit in range(64) if mask >> bit & 1)


def _mask(numbers: frozenset[int]) -> int:
    return sum(1 << capability for capability in numbers)


def _name(capability: int) -> str:
    return NAMES[capability] if capability < len(NAMES) else str(capability)
