"""Which controllers a set of resources asks for, and the first thing it asks of each. No I/O.

A limit whose controller is missing must be an error that names the limit, so what was asked is
found before anything is written. Zero means "not set" for the numbers of memory, cpu and blockIO
(runtimes have always read it so, and engines send it); it is a real value for pids, for a burst,
an idle flag, swappiness and a throttle's rate (which it removes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.oci.runtime import BlockIO, Cpu, Memory, Resources

__all__ = ["asked", "given"]


def given(value: int | None) -> int | None:
    """The number where one is set; None for an absent one and for 0."""
    return value or None


def asked(resources: Resources) -> dict[str, str]:
    """Controller, by its v1 name -> "field value" as an error would name it."""
    wanted: dict[str, str] = {}
    if resources.memory is not None and (said := _memory(resources.memory)):
        wanted["memory"] = said
    if resources.cpu is not None:
        wanted |= _cpu(resources.cpu)
    if resources.pids is not None and resources.pids.limit is not None:
        wanted["pids"] = f"pids.limit {resources.pids.limit}"
    if resources.block_io is not None and (said := _block_io(resources.block_io)):
        wanted["blkio"] = said
    for row in resources.hugepage_limits:
        wanted.setdefault("hugetlb", f"hugepageLimits {row.page_size} {row.limit}")
    if resources.network is not None:
        if resources.network.class_id is not None:
            wanted["net_cls"] = f"network.classID {resources.network.class_id}"
        for priority in resources.network.priorities:
            wanted.setdefault("net_prio", f"network.priorities {priority.name}")
    for name in resources.rdma:
        wanted.setdefault("rdma", f"rdma {name}")
    return wanted


def _memory(memory: Memory) -> str:
    rows = (
        ("limit", given(memory.limit)),
        ("reservation", given(memory.reservation)),
        ("swap", given(memory.swap)),
        ("swappiness", memory.swappiness),
        ("disableOOMKiller", memory.disable_oom_killer or None),
    )
    return next((f"memory.{name} {value}" for name, value in rows if value is not None), "")


def _cpu(cpu: Cpu) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for name, value in (
        ("shares", given(cpu.shares)),
        ("quota", given(cpu.quota)),
        ("period", given(cpu.period)),
        ("burst", cpu.burst),
        ("realtimeRuntime", given(cpu.realtime_runtime)),
        ("realtimePeriod", given(cpu.realtime_period)),
        ("idle", cpu.idle),
    ):
        if value is not None:
            wanted.setdefault("cpu", f"cpu.{name} {value}")
    for name, text in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        if text:
            wanted.setdefault("cpuset", f"cpu.{name} {text}")
    return wanted


def _block_io(block: BlockIO) -> str:
    for name, value in (("weight", block.weight), ("leafWeight", block.leaf_weight)):
        if given(value) is not None:
            return f"blockIO.{name} {value}"
    for row in block.weight_device:
        return f"blockIO.weightDevice {row.major}:{row.minor}"
    for name, throttles in (
        ("throttleReadBpsDevice", block.throttle_read_bps_device),
        ("throttleWriteBpsDevice", block.throttle_write_bps_device),
        ("throttleReadIOPSDevice", block.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", block.throttle_write_iops_device),
    ):
        for throttle in throttles:
            return f"blockIO.{name} {throttle.major}:{throttle.minor}"
    return ""
