"""Limits and priorities: ``HostConfig``'s numbers as the runtime specification's resources.

What contradicts itself is refused here, with Docker's sentences where tools look for them; what
this kernel cannot do is refused by ``sampan.kernel.cgroups``, which knows. Units: bytes,
microseconds for CPU periods and quotas, billionths of a CPU for ``NanoCpus``.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.oci.runtime import (
    BlockIO,
    Cpu,
    DeviceRule,
    Memory,
    Pids,
    Resources,
    Rlimit,
    ThrottleDevice,
    WeightDevice,
)

if TYPE_CHECKING:
    from sampan.engine import config
    from sampan.engine.config import HostConfig

__all__ = ["resources", "rlimits", "with_swap"]

_LEAST_MEMORY = 6 * 1024 * 1024
_PERIOD = 100_000
_MOST = 8191
"""The highest number of a CPU or memory node (the kernel's CONFIG_NR_CPUS is at most one more)."""
_INFINITY = 2**64 - 1
_ULIMITS = {
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
}  # fmt: skip
_DEFAULT_NOFILE = (1024, 524288)


def _memory(host: HostConfig) -> Memory | None:
    limit, swap, reservation = host.memory, host.memory_swap, host.memory_reservation
    for name, value, least in (
        ("Memory", limit, 0),
        ("MemoryReservation", reservation, 0),
        ("MemorySwap", swap, -1),
    ):
        if value < least:
            raise InvalidArgument(f"HostConfig.{name} {value} is less than {least}")
    if 0 < limit < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if 0 < reservation < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if swap > 0 and limit == 0:
        raise InvalidArgument(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if 0 < swap < limit:
        raise InvalidArgument(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if 0 < limit < reservation:
        raise InvalidArgument(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    swappiness = host.memory_swappiness
    if swappiness is not None and not 0 <= swappiness <= 100:
        raise InvalidArgument(
            f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )
    if not (limit or reservation or swap or swappiness is not None or host.oom_kill_disable
            or host.kernel_memory_tcp):  # fmt: skip
        return None
    return Memory(
        limit=limit or None,
        reservation=reservation or None,
        swap=swap or None,
        swappiness=swappiness,
        disable_oom_killer=host.oom_kill_disable,
        kernel_tcp=host.kernel_memory_tcp or None,
    )


def _sets(text: str, what: str, kind: str, directory: str) -> None:
    """``0-2,4``: numbers that this machine has. Raises InvalidArgument."""
    wanted: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
            raise InvalidArgument(f"Invalid value {text} for cpuset {kind}")
        low, high = int(first), int(last or first)
        if low > high or high > _MOST:
            raise InvalidArgument(f"Invalid value {text} for cpuset {kind}")
        wanted |= set(range(low, high + 1))
    if not wanted:
        return
    try:
        with open(f"/sys/devices/system/{directory}/online", encoding="ascii") as file:
            online = file.read().strip()
    except FileNotFoundError:
        return  # the kernel says it when the limit is written
    there: set[int] = set()
    for part in online.split(","):
        first, _, last = part.partition("-")
        there |= set(range(int(first), int(last or first) + 1))
    if not wanted <= there:
        raise InvalidArgument(
            f"Requested {what} are not available - requested {text}, available: {online}"
        )


def _cpu(host: HostConfig) -> Cpu | None:
    _sets(host.cpuset_cpus, "CPUs", "cpus", "cpu")
    _sets(host.cpuset_mems, "memory nodes", "mems", "node")
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        if quota or period:
            which = "CPU Quota" if quota else "CPU Period"
            raise InvalidArgument(f"Conflicting options: Nano CPUs and {which} cannot both be set.")
        count = os.cpu_count() or 1
        if not 10_000_000 <= host.nano_cpus <= count * 1_000_000_000:
            raise InvalidArgument(
                f"range of CPUs is from 0.01 to {count}.00, "
                f"as there are only {count} CPUs available"
            )
        period = _PERIOD
        quota = host.nano_cpus * _PERIOD // 1_000_000_000
    if period and not 1_000 <= period <= 1_000_000:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if quota and quota != -1 and quota < 1_000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidArgument(f"HostConfig.CpuShares {host.cpu_shares} is less than 0")
    cpu = Cpu(
        shares=host.cpu_shares or None,
        quota=quota or None,
        period=period or None,
        realtime_period=host.cpu_realtime_period or None,
        realtime_runtime=host.cpu_realtime_runtime or None,
        cpus=host.cpuset_cpus or None,
        mems=host.cpuset_mems or None,
    )
    return cpu if cpu != Cpu() else None


def _numbers(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}: give a block device") from error
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{path} is not a block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _throttles(items: list[config.ThrottleDevice]) -> tuple[ThrottleDevice, ...]:
    result = []
    for item in items:
        major, minor = _numbers(item.path)
        result.append(ThrottleDevice(major=major, minor=minor, rate=item.rate))
    return tuple(result)


def _block_io(host: HostConfig) -> BlockIO | None:
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    weights = []
    for item in host.blkio_weight_device:
        major, minor = _numbers(item.path)
        weights.append(WeightDevice(major=major, minor=minor, weight=item.weight))
    block = BlockIO(
        weight=host.blkio_weight or None,
        weight_device=tuple(weights),
        throttle_read_bps_device=_throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(host.blkio_device_write_iops),
    )
    return block if block != BlockIO() else None


def with_swap(host: HostConfig, *, accounted: bool) -> HostConfig:
    """A limit of memory that says nothing of swap allows as much of it again, as in Docker."""
    if host.memory > 0 and host.memory_swap == 0 and accounted:
        return msgspec.structs.replace(host, memory_swap=2 * host.memory)
    return host


def resources(host: HostConfig, devices: tuple[DeviceRule, ...]) -> Resources:
    """Raises InvalidArgument where the request contradicts itself."""
    pids = host.pids_limit
    if pids is not None and pids < -1:
        raise InvalidArgument(f"HostConfig.PidsLimit {pids} is less than -1")
    return Resources(
        devices=devices,
        memory=_memory(host),
        cpu=_cpu(host),
        pids=Pids(limit=pids) if pids and pids > 0 else None,
        block_io=_block_io(host),
    )


def rlimits(host: HostConfig) -> tuple[Rlimit, ...]:
    """``--ulimit``, and the default for open files: ours is never inherited.

    The default is clamped to what this process could set; what was asked for is not: the kernel
    refuses it by name.
    """
    found: dict[str, Rlimit] = {}
    for item in host.ulimits:
        name = item.name.lower()
        if name not in _ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {item.name}")
        if item.soft > item.hard != -1 or (item.soft == -1 and item.hard != -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: "
                f"{name}: {item.soft} > {item.hard}"
            )
        if min(item.soft, item.hard) < -1:
            raise InvalidArgument(f"ulimit {name}: a limit is -1 (none), 0 or more")
        soft, hard = (_INFINITY if value == -1 else value for value in (item.soft, item.hard))
        found[name] = Rlimit(type=f"RLIMIT_{name.upper()}", soft=soft, hard=hard)
    if "nofile" not in found:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most == resource.RLIM_INFINITY:
            most = _DEFAULT_NOFILE[1]
        soft, hard = (min(value, most) for value in _DEFAULT_NOFILE)
        found["nofile"] = Rlimit(type="RLIMIT_NOFILE", soft=soft, hard=hard)
    return tuple(found.values())
