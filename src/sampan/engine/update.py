"""Changing a container's limits and restart policy while it lives (``docker update``).

The new configuration is checked as a whole, as create checks it. In a running container the limits
that change are written first, by its monitor; where the kernel refuses one of them, those that were
written are set back, and nothing is stored. Then the row is committed. A daemon that dies between
the two leaves limits that the row does not know: the next start of the container has the row's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine import resources as limits
from sampan.engine.config import HostConfig, RestartPolicy
from sampan.engine.log import log
from sampan.engine.reading import read_struct
from sampan.engine.restarts import check_policy
from sampan.errors import (
    Conflict,
    InvalidArgument,
    KernelError,
    NotSupported,
    SampanError,
)
from sampan.kernel.processes import is_ending
from sampan.oci.runtime import BlockIO, Cpu, Memory, Pids, Resources

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.engine.monitors import Monitor

__all__ = ["changed", "read_update", "update"]

# Fields by which group of limits they belong to. 0 and "" mean "as it is".
_MEMORY = ("memory", "memory_swap", "memory_reservation", "memory_swappiness")
_CPU = (
    "cpu_shares", "cpu_period", "cpu_quota", "nano_cpus", "cpu_realtime_period",
    "cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems",
)  # fmt: skip
_BLOCK_IO = (
    "blkio_weight", "blkio_weight_device", "blkio_device_read_bps", "blkio_device_write_bps",
    "blkio_device_read_iops", "blkio_device_write_iops",
)  # fmt: skip
_CHANGEABLE = (*_MEMORY, *_CPU, *_BLOCK_IO, "pids_limit")

_FIXED = {
    "CgroupParent": "a container's group cannot be moved",
    "CpuCount": "it is for Windows containers; use NanoCpus",
    "CpuPercent": "it is for Windows containers; use NanoCpus",
    "DeviceCgroupRules": "devices are given when a container is made",
    "DeviceRequests": "devices are given when a container is made",
    "Devices": "devices are given when a container is made",
    "Init": "it is decided when a container is made",
    "IOMaximumBandwidth": "it is for Windows containers; use BlkioDeviceReadBps",
    "IOMaximumIOps": "it is for Windows containers; use BlkioDeviceReadIOps",
    "KernelMemory": "the kernel has dropped it; limit Memory",
    "KernelMemoryTCP": "the kernel has dropped it; limit Memory",
    "OomKillDisable": "it is decided when a container is made",
    "Ulimits": "a process keeps the limits that it was started with",
}
_NAMES = {
    HostConfig.__struct_encode_fields__[HostConfig.__struct_fields__.index(field)].lower(): field
    for field in _CHANGEABLE
}
_FIXED_NAMES = {name.lower(): name for name in _FIXED}


def read_update(body: object) -> tuple[dict[str, Any], RestartPolicy | None]:
    """What changes: fields of HostConfig by their names there, and the policy.

    Raises InvalidArgument for what is malformed, NotSupported for what cannot be changed.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("update: expected a JSON object")
    policy: RestartPolicy | None = None
    given: dict[str, Any] = {}
    for key, value in body.items():
        lowered = key.lower()
        if lowered == "restartpolicy":
            policy = read_struct(RestartPolicy, value or {}, "RestartPolicy")
        elif lowered in _NAMES:
            given[key] = value
        elif value and lowered in _FIXED_NAMES:
            name = _FIXED_NAMES[lowered]
            raise NotSupported(f"{name} cannot be updated: {_FIXED[name]}")
        elif value:
            raise InvalidArgument(f"{key} is not a field of an update: leave it out")
    wire = HostConfig.__struct_encode_fields__
    canonical = {name.lower(): name for name in wire}
    host = read_struct(HostConfig, {canonical[key.lower()]: v for key, v in given.items()})
    changes: dict[str, Any] = {}
    for field in _CHANGEABLE:
        value = getattr(host, field)
        if field in ("pids_limit", "memory_swappiness"):
            if value is not None:
                changes[field] = value
        elif value:
            changes[field] = value
    if changes.get("pids_limit", 1) <= 0:
        changes["pids_limit"] = -1  # 0 and everything below it mean "none"
    if changes.get("memory_swappiness") == -1:
        del changes["memory_swappiness"]
    if policy is not None and not policy.name:
        policy = None
    return changes, policy


def _check_conflicts(old: HostConfig, changes: dict[str, Any]) -> None:
    nano = changes.get("nano_cpus", 0)
    for field, name in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
        if nano > 0 and getattr(old, field) > 0:
            raise InvalidArgument(
                f"Conflicting options: Nano CPUs cannot be updated as {name} has already been set"
            )
        if changes.get(field, 0) > 0 and old.nano_cpus > 0:
            raise InvalidArgument(
                f"Conflicting options: {name} cannot be updated as NanoCPUs has already been set"
            )
    memory = changes.get("memory", 0)
    if "memory_swap" not in changes and 0 < old.memory_swap < memory:
        raise InvalidArgument(
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )


def changed(old: HostConfig, changes: dict[str, Any], *, swap: bool) -> HostConfig:
    """The new configuration, checked; ``swap`` says whether the kernel accounts it.

    Raises InvalidArgument.
    """
    _check_conflicts(old, changes)
    new = limits.with_swap(msgspec.structs.replace(old, **changes), accounted=swap)
    limits.resources(new, ())
    return new


def _written(host: HostConfig, changes: dict[str, Any]) -> Resources:
    """Of a configuration's limits those that the changes touch, as the monitor writes them."""
    every = limits.resources(host, ())
    memory, cpu, block = every.memory or Memory(), every.cpu or Cpu(), every.block_io or BlockIO()
    touched = set(changes)
    return Resources(
        memory=Memory(
            limit=memory.limit,
            swap=memory.swap,
            reservation=memory.reservation,
            swappiness=memory.swappiness,
        )
        if touched & set(_MEMORY)
        else None,
        cpu=cpu if touched & set(_CPU) else None,
        block_io=block if touched & set(_BLOCK_IO) else None,
        pids=Pids(limit=host.pids_limit if (host.pids_limit or 0) > 0 else -1)
        if "pids_limit" in touched
        else None,
    )


def _back(old: HostConfig, changes: dict[str, Any]) -> Resources:
    """What undoes a part of the changes: the old limits, none where there were none."""
    neutral: dict[str, Any] = {"memory": -1, "memory_swap": -1, "memory_reservation": -1}
    memory = {name: getattr(old, name) or neutral[name] for name in neutral if name in changes}
    quota, period = old.cpu_quota or -1, old.cpu_period or 100_000
    if old.nano_cpus:
        quota = old.nano_cpus * period // 1_000_000_000
    cpu = Cpu(
        shares=(old.cpu_shares or 1024) if "cpu_shares" in changes else None,
        quota=quota if {"cpu_quota", "nano_cpus"} & set(changes) else None,
        period=period if {"cpu_period", "nano_cpus"} & set(changes) else None,
        cpus=old.cpuset_cpus or None,
        mems=old.cpuset_mems or None,
    )
    return Resources(
        memory=Memory(
            limit=memory.get("memory"),
            swap=memory.get("memory_swap"),
            reservation=memory.get("memory_reservation"),
        )
        if memory
        else None,
        cpu=cpu if set(changes) & set(_CPU) else None,
        pids=Pids(limit=old.pids_limit if (old.pids_limit or 0) > 0 else -1)
        if "pids_limit" in changes
        else None,
    )


async def update(
    engine: Engine, reference: str, changes: dict[str, Any], policy: RestartPolicy | None
) -> list[str]:
    """Change a container; the warnings. Raises InvalidArgument, Conflict, NotSupported."""
    live = engine.registry.find(reference)
    try:
        async with live.lock:
            return await _update(engine, live, changes, policy)
    except KernelError:
        raise
    except SampanError as error:
        error.args = (f"Cannot update container {live.id}: {error.message}",)
        raise


async def _set_back(live: Live, monitor: Monitor, resources: Resources) -> None:
    try:
        await monitor.call("update", resources=resources.to_json())
    except SampanError as error:
        log.error("limits were not set back", container=live.id, error=error.message)


async def _update(
    engine: Engine, live: Live, changes: dict[str, Any], policy: RestartPolicy | None
) -> list[str]:
    if live.removing or live.id not in engine.registry:
        raise Conflict('container is marked for removal and cannot be "update"')
    old = live.record.host_config
    if policy is not None:
        if old.auto_remove and policy.name != "no":
            raise InvalidArgument(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
            )
        check_policy(policy, auto_remove=False)
    new = changed(old, changes, swap=engine.hierarchy.limits_swap)
    if policy is not None:
        new = msgspec.structs.replace(new, restart_policy=policy)
    warnings: list[str] = []
    if changes and live.record.state.running and live.monitor is not None:
        monitor = live.monitor
        try:
            answer = await monitor.call("update", resources=_written(new, changes).to_json())
        except SampanError as error:
            if not is_ending(live.record.state.pid):
                await _set_back(live, monitor, _back(old, changes))
                raise
            if live.id not in engine.registry:
                raise Conflict(f"container {live.id} is not running") from error
            answer = {}  # Its next start has them.
        warnings = list(answer.get("warnings") or ())
    # Whatever happened to its state meanwhile is in the record now.
    live.record = msgspec.structs.replace(live.record, host_config=new)
    live.spec = None
    engine.store.put(live.record)
    engine.publish(live.record, "update")
    return warnings
