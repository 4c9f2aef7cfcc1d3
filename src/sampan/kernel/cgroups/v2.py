"""Limits and accounts of cgroup v2 controllers: Documentation/admin-guide/cgroup-v2.rst.

``LIMITS`` is keyed by the controller's v1 name, as the specification's resources are (blkio became
io there). A field of v1 that has no counterpart is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.cgroups.asked import given
from sampan.kernel.cgroups.convert import block_weight, cpu_weight, maximum, swap_alone
from sampan.kernel.cgroups.files import flat, nested
from sampan.kernel.cgroups.usage import Counter, CpuUsage, DeviceIO, MemoryUsage, parse_pressure
from sampan.kernel.cgroups.v1 import device_io, rdma, refuse_below_usage, throttles

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.kernel.cgroups.files import Directory
    from sampan.oci.runtime import BlockIO, Resources

__all__ = [
    "LIMITS",
    "NAMES",
    "block_io_usage",
    "cpu_usage",
    "hugetlb_usage",
    "memory_usage",
    "unified",
]

NAMES = {"blkio": "io", "cpuacct": "cpu"}
"""v1 controller -> v2 controller, where the names differ."""


def _memory(directory: Directory, resources: Resources) -> list[str]:
    memory = resources.memory
    if memory is None:
        return []
    for name, value in (
        ("swappiness", memory.swappiness),
        ("disableOOMKiller", memory.disable_oom_killer or None),
    ):
        if value is not None:
            raise NotSupported(f"memory.{name} {value}: cgroup v2 has no file for it")
    warnings = [
        f"memory.{name} {value}: ignored; the kernel no longer limits it apart"
        for name, value in (("kernel", memory.kernel), ("kernelTCP", memory.kernel_tcp))
        if given(value) is not None
    ]
    limit, both = given(memory.limit), given(memory.swap)
    if limit == -1 and both is None:
        both = -1  # as in v1, where the sum cannot stay below its part
    if memory.check_before_update and limit is not None and limit > 0:
        refuse_below_usage(limit, directory.number("memory.current") or 0)
    swap = None
    if both is not None:
        base = limit if limit is not None else directory.number("memory.max")
        swap = swap_alone(f"memory.swap {both}", both, base)
    # Swap first: whoever lowers both wants pages that leave memory to find swap already bounded.
    if swap is not None and not (swap == -1 and not directory.has("memory.swap.max")):
        directory.set(f"memory.swap {both}", "memory.swap.max", maximum(swap))
    if limit is not None:
        directory.set(f"memory.limit {limit}", "memory.max", maximum(limit))
    reservation = given(memory.reservation)
    if reservation is not None:
        directory.set(f"memory.reservation {reservation}", "memory.low", maximum(reservation))
    return warnings


def _cpu(directory: Directory, resources: Resources) -> list[str]:
    cpu = resources.cpu
    if cpu is None:
        return []
    for name, value in (
        ("realtimeRuntime", given(cpu.realtime_runtime)),
        ("realtimePeriod", given(cpu.realtime_period)),
    ):
        if value is not None:
            raise NotSupported(f"cpu.{name} {value}: cgroup v2 has no file for it")
    settings: list[tuple[str, str, object]] = []
    shares, quota, period = given(cpu.shares), given(cpu.quota), given(cpu.period)
    if shares is not None:
        settings.append((f"cpu.shares {shares}", "cpu.weight", cpu_weight(shares)))
    if cpu.idle is not None:
        settings.append((f"cpu.idle {cpu.idle}", "cpu.idle", cpu.idle))
    if quota is not None or period is not None:
        fields = (("quota", quota), ("period", period))
        resource = " ".join(f"cpu.{name} {value}" for name, value in fields if value is not None)
        # A quota alone keeps the period; the period alone cannot be said without a quota.
        wanted = maximum(quota) if quota is not None else directory.read("cpu.max").split()[0]
        settings.append((resource, "cpu.max", f"{wanted} {period or ''}".rstrip()))
    if cpu.burst is not None:
        settings.append((f"cpu.burst {cpu.burst}", "cpu.max.burst", cpu.burst))
    directory.settle(settings)
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
        directory.set(f"pids.limit {limit}", "pids.max", maximum(limit))
    return []


_RATES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def _block_io(directory: Directory, resources: Resources) -> list[str]:
    block = resources.block_io
    if block is None:
        return []
    _block_weights(directory, block)
    for name, _, row in throttles(block):
        device = f"{row.major}:{row.minor}"
        value = f"{device} {_RATES[name]}={row.rate or 'max'}"
        directory.set(f"blockIO.{name} {device} {row.rate}", "io.max", value)
    return []


def _block_weights(directory: Directory, block: BlockIO) -> None:
    # BFQ takes v1's numbers; io.weight belongs to the io.cost policy.
    bfq = directory.has("io.bfq.weight")
    file = "io.bfq.weight" if bfq else "io.weight"
    weight, leaf = given(block.weight), given(block.leaf_weight)
    if leaf is not None:
        raise NotSupported(f"blockIO.leafWeight {leaf}: cgroup v2 has no file for it")
    if weight is not None:
        value = weight if bfq else block_weight(weight)
        directory.set(f"blockIO.weight {weight}", file, value)
    for row in block.weight_device:
        device = f"{row.major}:{row.minor}"
        if given(row.leaf_weight) is not None:
            raise NotSupported(
                f"blockIO.weightDevice {device} leafWeight {row.leaf_weight}:"
                " cgroup v2 has no file for it"
            )
        own = given(row.weight)
        if own is not None:
            value = own if bfq else block_weight(own)
            resource = f"blockIO.weightDevice {device} weight {own}"
            directory.set(resource, file, f"{device} {value}")


def _hugetlb(directory: Directory, resources: Resources) -> list[str]:
    for row in resources.hugepage_limits:
        resource = f"hugepageLimits {row.page_size} {row.limit}"
        for file in (f"hugetlb.{row.page_size}.rsvd.max", f"hugetlb.{row.page_size}.max"):
            if ".rsvd." not in file or directory.has(file):
                directory.set(resource, file, row.limit)
    return []


LIMITS: dict[str, Callable[[Directory, Resources], list[str]]] = {
    "memory": _memory,
    "cpu": _cpu,
    "cpuset": _cpuset,
    "pids": _pids,
    "blkio": _block_io,
    "hugetlb": _hugetlb,
    "rdma": rdma,
}


def unified(directory: Directory, files: dict[str, str], controllers: frozenset[str]) -> None:
    """Write the specification's ``unified`` map, file by file, as given.

    A file of a controller that is not enabled here is an error that names the controller.
    """
    for file, value in files.items():
        if "/" in file or file in ("", ".", ".."):
            raise InvalidArgument(f"unified: {file!r} is not the name of a cgroup file")
        controller = file.partition(".")[0]
        if controller != "cgroup" and controller not in controllers and not directory.has(file):
            raise NotSupported(
                f"unified {file}: controller {controller} is not enabled in {directory.group}"
                f" (there are: {' '.join(sorted(controllers)) or 'none'})"
            )
        directory.set(f"unified {file} {value}", file, value)


def cpu_usage(directory: Directory) -> CpuUsage:
    """From cpu.stat, which every v2 group has, and cpu.pressure."""
    stat = flat(directory.find("cpu.stat"))
    return CpuUsage(
        total=stat.get("usage_usec", 0) * 1000,
        user=stat.get("user_usec", 0) * 1000,
        system=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_time=stat.get("throttled_usec", 0) * 1000,
        pressure=parse_pressure(directory.find("cpu.pressure")),
    )


def memory_usage(directory: Directory) -> MemoryUsage:
    """From memory.*; the sum of memory and swap is made here. memory.peak came with Linux 5.19."""
    stat = flat(directory.find("memory.stat"))
    events = flat(directory.find("memory.events"))
    used, limit = directory.number("memory.current") or 0, directory.number("memory.max")
    swap_used = directory.number("memory.swap.current") or 0
    swap_limit = directory.number("memory.swap.max")
    both = None if limit is None or swap_limit is None else limit + swap_limit
    return MemoryUsage(
        usage=Counter(
            usage=used,
            max=directory.number("memory.peak") or 0,
            failcnt=events.get("max", 0),
            limit=limit,
        ),
        swap=Counter(
            usage=used + swap_used,
            failcnt=flat(directory.find("memory.swap.events")).get("max", 0),
            limit=both,
        ),
        kernel=Counter(usage=stat.get("kernel", 0)),
        kernel_tcp=Counter(usage=stat.get("sock", 0)),
        cache=stat.get("file", 0),
        oom_kills=events.get("oom_kill", 0),
        stat=stat,
        pressure=parse_pressure(directory.find("memory.pressure")),
    )


def block_io_usage(directory: Directory) -> tuple[DeviceIO, ...]:
    """From io.stat, per device."""
    names = {
        "rbytes": "read_bytes",
        "wbytes": "write_bytes",
        "dbytes": "discard_bytes",
        "rios": "reads",
        "wios": "writes",
        "dios": "discards",
    }
    return tuple(
        device_io(number, {names[key]: int(n) for key, n in values.items() if key in names})
        for number, values in sorted(nested(directory.find("io.stat")).items())
    )


def hugetlb_usage(directory: Directory) -> dict[str, Counter]:
    """Per page size, as the files name it ("2MB")."""
    found: dict[str, Counter] = {}
    for entry in directory.files():
        size = entry[len("hugetlb.") : -len(".current")]
        if entry.startswith("hugetlb.") and entry.endswith(".current") and "." not in size:
            found[size] = Counter(
                usage=directory.number(entry) or 0,
                failcnt=flat(directory.find(f"hugetlb.{size}.events")).get("max", 0),
                limit=directory.number(f"hugetlb.{size}.max"),
            )
    return found
