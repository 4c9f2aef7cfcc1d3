"""Limits and accounts of cgroup v1: cgroups(7), Documentation/admin-guide/cgroup-v1/.

One function per controller in ``LIMITS``, each given the group's directory in that controller's
hierarchy and the resources, and free to write what of them is its own. It returns warnings.
"""

from __future__ import annotations

import os
from errno import EBUSY
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.kernel.cgroups.asked import given
from sampan.kernel.cgroups.convert import SHARES
from sampan.kernel.cgroups.files import flat
from sampan.kernel.cgroups.usage import (
    Counter,
    CpuUsage,
    DeviceIO,
    MemoryUsage,
    PidsUsage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.kernel.cgroups.files import Directory
    from sampan.oci.runtime import BlockIO, Memory, Resources, ThrottleDevice

__all__ = ["LIMITS", "block_io_usage", "cpu_usage", "hugetlb_usage", "memory_usage", "pids_usage"]

_LIMIT = "memory.limit_in_bytes"
_BOTH = "memory.memsw.limit_in_bytes"
# What an unlimited counter reads: the largest page count, in bytes. The page size moves the end.
_UNLIMITED = 1 << 62
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _memory(directory: Directory, resources: Resources) -> list[str]:
    memory = resources.memory
    if memory is None:
        return []
    warnings = ignored(memory)
    limit, both = given(memory.limit), given(memory.swap)
    has_swap = directory.has(_BOTH)
    if limit == -1 and both is None and has_swap:
        both = -1  # the sum cannot stay below its part
    if both is not None and not has_swap:
        if both != -1:
            raise NotSupported(
                f"memory.swap {both}: this machine's kernel does not account swap"
                f" (no file {directory.name(_BOTH)}); boot with swapaccount=1"
            )
        both = None
    if both is not None and limit is not None and both != -1 and not 0 < limit <= both:
        raise InvalidArgument(
            f"memory.swap {both}: smaller than memory.limit {limit} (it counts memory and swap)"
        )
    if memory.check_before_update and limit is not None and limit > 0:
        refuse_below_usage(limit, directory.number("memory.usage_in_bytes") or 0)
    steps = []
    if limit is not None:
        steps.append((f"memory.limit {limit}", _LIMIT, limit))
    if both is not None:
        steps.append((f"memory.swap {both}", _BOTH, both))
        # The sum may never be below its part, at no moment between the two writes.
        if limit is not None and (both == -1 or both >= (directory.number(_LIMIT) or 0)):
            steps.reverse()
    for resource, file, value in steps:
        _set_memory(directory, resource, file, value)
    reservation = given(memory.reservation)
    if reservation is not None:
        directory.set(
            f"memory.reservation {reservation}", "memory.soft_limit_in_bytes", reservation
        )
    if memory.swappiness is not None:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidArgument(f"memory.swappiness {memory.swappiness}: expected 0 to 100")
        directory.set(
            f"memory.swappiness {memory.swappiness}", "memory.swappiness", memory.swappiness
        )
    if memory.use_hierarchy and directory.number("memory.use_hierarchy") != 1:
        directory.set("memory.useHierarchy true", "memory.use_hierarchy", 1)
    if memory.disable_oom_killer:
        directory.set("memory.disableOOMKiller true", "memory.oom_control", 1)
    return warnings


def _set_memory(directory: Directory, resource: str, file: str, value: int) -> None:
    try:
        directory.set(resource, file, value)
    except InvalidArgument as error:
        cause = error.__cause__
        if isinstance(cause, KernelError) and cause.errno == EBUSY:
            used = directory.number("memory.usage_in_bytes")
            raise InvalidArgument(f"{error}; the group uses {used} bytes now") from cause
        if file == _LIMIT and value > (directory.number(_BOTH) or value):
            raise InvalidArgument(
                f"{error}; memory and swap together are limited to"
                f" {directory.number(_BOTH)} bytes: raise memory.swap too"
            ) from cause
        raise


def ignored(memory: Memory) -> list[str]:
    return [
        f"memory.{name} {value}: ignored; the kernel no longer limits it apart"
        for name, value in (("kernel", memory.kernel), ("kernelTCP", memory.kernel_tcp))
        if given(value) is not None
    ]


def refuse_below_usage(limit: int, used: int) -> None:
    """checkBeforeUpdate: an error rather than an OOM kill."""
    if used > limit:
        raise InvalidArgument(
            f"memory.limit {limit}: the group uses {used} bytes now (checkBeforeUpdate)"
        )


def _cpu(directory: Directory, resources: Resources) -> list[str]:
    cpu = resources.cpu
    if cpu is None:
        return []
    shares = given(cpu.shares)
    if shares is not None and shares not in SHARES:
        raise InvalidArgument(f"cpu.shares {shares}: expected {SHARES[0]} to {SHARES[-1]}")
    rows = (
        ("cpu.shares", "cpu.shares", shares),
        ("cpu.idle", "cpu.idle", cpu.idle),
        ("cpu.period", "cpu.cfs_period_us", given(cpu.period)),
        ("cpu.quota", "cpu.cfs_quota_us", given(cpu.quota)),
        ("cpu.burst", "cpu.cfs_burst_us", cpu.burst),
        ("cpu.realtimePeriod", "cpu.rt_period_us", given(cpu.realtime_period)),
        ("cpu.realtimeRuntime", "cpu.rt_runtime_us", given(cpu.realtime_runtime)),
    )
    directory.settle(
        [(f"{name} {value}", file, value) for name, file, value in rows if value is not None]
    )
    return []


def _cpuset(directory: Directory, resources: Resources) -> list[str]:
    cpu = resources.cpu
    if cpu is not None:
        for name, text in (("cpus", cpu.cpus), ("mems", cpu.mems)):
            if text:
                directory.set(f"cpu.{name} {text}", f"cpuset.{name}", text)
    return []


def _pids(directory: Directory, resources: Resources) -> list[str]:
    if resources.pids is not None and resources.pids.limit is not None:
        limit = resources.pids.limit
        directory.set(f"pids.limit {limit}", "pids.max", "max" if limit == -1 else limit)
    return []


def _block_io(directory: Directory, resources: Resources) -> list[str]:
    block = resources.block_io
    if block is None:
        return []
    # BFQ keeps its own weights; a kernel has these files or the older policy's, hardly both.
    prefix = "blkio.bfq" if directory.has("blkio.bfq.weight") else "blkio"
    weight, leaf = given(block.weight), given(block.leaf_weight)
    if weight is not None:
        directory.set(f"blockIO.weight {weight}", f"{prefix}.weight", weight)
    if leaf is not None:
        directory.set(f"blockIO.leafWeight {leaf}", "blkio.leaf_weight", leaf)
    for row in block.weight_device:
        device = f"{row.major}:{row.minor}"
        for name, file, value in (
            ("weight", f"{prefix}.weight_device", given(row.weight)),
            ("leafWeight", "blkio.leaf_weight_device", given(row.leaf_weight)),
        ):
            if value is not None:
                resource = f"blockIO.weightDevice {device} {name} {value}"
                directory.set(resource, file, f"{device} {value}")
    for name, file, throttle in throttles(block):
        device = f"{throttle.major}:{throttle.minor}"
        resource = f"blockIO.{name} {device} {throttle.rate}"
        directory.set(resource, f"blkio.throttle.{file}", f"{device} {throttle.rate}")
    return []


def throttles(block: BlockIO) -> list[tuple[str, str, ThrottleDevice]]:
    """Every throttle asked for: (field, v1 file without its prefix, device and rate)."""
    rows = (
        ("throttleReadBpsDevice", "read_bps_device", block.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "write_bps_device", block.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "read_iops_device", block.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "write_iops_device", block.throttle_write_iops_device),
    )
    return [(name, file, item) for name, file, items in rows for item in items]


def _hugetlb(directory: Directory, resources: Resources) -> list[str]:
    for row in resources.hugepage_limits:
        resource = f"hugepageLimits {row.page_size} {row.limit}"
        for file in (
            f"hugetlb.{row.page_size}.rsvd.limit_in_bytes",
            f"hugetlb.{row.page_size}.limit_in_bytes",
        ):
            # Reservations are counted apart since Linux 5.7.
            if ".rsvd." not in file or directory.has(file):
                directory.set(resource, file, row.limit)
    return []


def _net_cls(directory: Directory, resources: Resources) -> list[str]:
    if resources.network is not None and resources.network.class_id is not None:
        value = resources.network.class_id
        directory.set(f"network.classID {value}", "net_cls.classid", value)
    return []


def _net_prio(directory: Directory, resources: Resources) -> list[str]:
    for row in resources.network.priorities if resources.network is not None else ():
        value = f"{row.name} {row.priority}"
        directory.set(f"network.priorities {value}", "net_prio.ifpriomap", value)
    return []


def rdma(directory: Directory, resources: Resources) -> list[str]:
    """rdma.max, the same file in both versions."""
    for name, row in resources.rdma.items():
        value = name
        for key, count in (("hca_handle", row.hca_handles), ("hca_object", row.hca_objects)):
            if count is not None:
                value += f" {key}={count}"
        directory.set(f"rdma {value}", "rdma.max", value)
    return []


LIMITS: dict[str, Callable[[Directory, Resources], list[str]]] = {
    "memory": _memory,
    "cpu": _cpu,
    "cpuset": _cpuset,
    "pids": _pids,
    "blkio": _block_io,
    "hugetlb": _hugetlb,
    "net_cls": _net_cls,
    "net_prio": _net_prio,
    "rdma": rdma,
}


def cpu_usage(cpu: Directory | None, cpuacct: Directory | None) -> CpuUsage:
    """From cpuacct (times) and cpu (throttling); each may be missing."""
    values: dict[str, Any] = {}
    if cpuacct is not None:
        # Ticks, but scaled so that both add up to the exact total; usage_user is only sampled.
        split = flat(cpuacct.find("cpuacct.stat"))
        rows = [line.split() for line in (cpuacct.find("cpuacct.usage_all") or "").splitlines()[1:]]
        per_user = tuple(int(row[1]) for row in rows)
        per_system = tuple(int(row[2]) for row in rows)
        values = {
            "total": cpuacct.number("cpuacct.usage") or 0,
            "user": split.get("user", 0) * _TICK,
            "system": split.get("system", 0) * _TICK,
            "percpu": tuple(int(n) for n in (cpuacct.find("cpuacct.usage_percpu") or "").split()),
            "percpu_user": per_user,
            "percpu_system": per_system,
        }
    if cpu is not None:
        stat = flat(cpu.find("cpu.stat"))
        values["periods"] = stat.get("nr_periods", 0)
        values["throttled_periods"] = stat.get("nr_throttled", 0)
        values["throttled_time"] = stat.get("throttled_time", 0)
    return CpuUsage(**values)


def _counter(directory: Directory, prefix: str) -> Counter:
    limit = directory.number(f"{prefix}.limit_in_bytes")
    return Counter(
        usage=directory.number(f"{prefix}.usage_in_bytes") or 0,
        max=directory.number(f"{prefix}.max_usage_in_bytes") or 0,
        failcnt=directory.number(f"{prefix}.failcnt") or 0,
        limit=None if limit is None or limit >= _UNLIMITED else limit,
    )


def memory_usage(directory: Directory) -> MemoryUsage:
    """Every counter of the memory controller."""
    stat = flat(directory.find("memory.stat"))
    return MemoryUsage(
        usage=_counter(directory, "memory"),
        swap=_counter(directory, "memory.memsw"),
        kernel=_counter(directory, "memory.kmem"),
        kernel_tcp=_counter(directory, "memory.kmem.tcp"),
        cache=stat.get("total_cache", stat.get("cache", 0)),
        oom_kills=flat(directory.find("memory.oom_control")).get("oom_kill", 0),
        stat=stat,
    )


def pids_usage(directory: Directory) -> PidsUsage:
    """pids.current and pids.max, the same files in both versions."""
    return PidsUsage(
        current=directory.number("pids.current") or 0, limit=directory.number("pids.max")
    )


def block_io_usage(directory: Directory) -> tuple[DeviceIO, ...]:
    """Per device, from the throttling policy, which sees every request."""
    devices: dict[str, dict[str, int]] = {}
    for file, names in (
        (
            "blkio.throttle.io_service_bytes_recursive",
            {"Read": "read_bytes", "Write": "write_bytes", "Discard": "discard_bytes"},
        ),
        (
            "blkio.throttle.io_serviced_recursive",
            {"Read": "reads", "Write": "writes", "Discard": "discards"},
        ),
    ):
        for line in (directory.find(file) or "").splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in names:
                devices.setdefault(fields[0], {})[names[fields[1]]] = int(fields[2])
    return tuple(device_io(number, values) for number, values in sorted(devices.items()))


def device_io(number: str, values: dict[str, int]) -> DeviceIO:
    """A ``major:minor`` and its counts as a record."""
    major, _, minor = number.partition(":")
    return DeviceIO(major=int(major), minor=int(minor), **values)


def hugetlb_usage(directory: Directory) -> dict[str, Counter]:
    """Per page size, as the files name it ("2MB")."""
    found: dict[str, Counter] = {}
    for entry in directory.files():
        if entry.startswith("hugetlb.") and entry.endswith(".usage_in_bytes"):
            size = entry.split(".")[1]
            if size not in found:
                found[size] = _counter(directory, f"hugetlb.{size}")
    return found
