"""A container's figures: ``stats``, its cgroup's accounts, and ``top``, its processes.

The shape is that of API 1.51 for either version of cgroups: what one of them does not count is not
there, or null, as with dockerd.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.docker.context import Context, reply
from sampan.api.docker.top import top
from sampan.engine.container import rfc3339
from sampan.engine.stats import sample
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer
    from sampan.engine.live import Live
    from sampan.engine.stats import Sample
    from sampan.kernel.cgroups.usage import MemoryUsage, PidsUsage, Usage

__all__ = ["ROUTES", "shown"]

_INTERVAL = 1.0
_UNLIMITED = (1 << 64) - 1
_BLOCK_IO = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_encode = msgspec.json.Encoder().encode


async def processes(context: Context) -> Answer:
    live, _ = context.engine.containers.running(context.parameters[0])
    group = context.engine.hierarchy.group(context.engine.cgroup_of(live.record))
    answer = await top(group.processes(), context.text("ps_args") or "-ef")
    context.engine.publish(live.record, "top")
    return reply(answer)


async def stats(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    streams = context.flag("stream", True)
    once = context.version >= (1, 41) and context.flag("one-shot")
    if once and streams:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    v1 = engine.hierarchy.kind != "v2"
    first = sample(engine, live)
    if not streams:
        if first is None or once:
            return reply(shown(live, first, None, v1=v1))
        await _pause(context)
        return reply(shown(live, sample(engine, live), first, v1=v1))
    stream = context.stream()
    previous: Sample | None = None
    while True:
        await stream.write(_encode(shown(live, first, previous, v1=v1)) + b"\n")
        if await _pause(context) or live.id not in engine.registry:
            return stream
        previous, first = first, sample(engine, live)


async def _pause(context: Context) -> bool:
    """Wait until the next sample is due; true when the client is gone before."""
    lost = context.connection.lost
    await asyncio.wait((lost,), timeout=_INTERVAL)
    return lost.done()


def shown(live: Live, one: Sample | None, previous: Sample | None, *, v1: bool) -> dict[str, Any]:
    """A sample as the API shows it, beside the one before it; None for a container that rests."""
    answer: dict[str, Any] = {
        "read": rfc3339(one.at if one else 0),
        "preread": rfc3339(previous.at if previous else 0),
        "pids_stats": _pids(one.usage.pids, v1) if one else {},
        "blkio_stats": _block_io(one.usage if one else None, v1),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(one) if one else _NO_CPU,
        "precpu_stats": _cpu(previous) if previous else _NO_CPU,
        "memory_stats": _memory(one.usage.memory, one.memory, v1) if one else {},
        "name": f"/{live.record.name}",
        "id": live.id,
    }
    if one is not None and one.networks:
        answer["networks"] = one.networks
    return answer


def _pids(pids: PidsUsage, v1: bool) -> dict[str, int]:
    counts = {"current": pids.current}
    if pids.limit is not None:
        counts["limit"] = pids.limit
    elif not v1:
        counts["limit"] = _UNLIMITED
    return counts


def _cpu(one: Sample) -> dict[str, Any]:
    cpu = one.usage.cpu
    usage: dict[str, Any] = {
        "total_usage": cpu.total,
        "usage_in_kernelmode": cpu.system,
        "usage_in_usermode": cpu.user,
    }
    if cpu.percpu:
        usage["percpu_usage"] = cpu.percpu
    return {
        "cpu_usage": usage,
        "system_cpu_usage": one.machine,
        "online_cpus": one.cpus,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled_time,
        },
    }


def _memory(memory: MemoryUsage, machine: int, v1: bool) -> dict[str, Any]:
    limit = memory.usage.limit
    counts: dict[str, Any] = {
        "usage": memory.usage.usage,
        "stats": memory.stat,
        "limit": machine if limit is None else min(limit, machine),
    }
    if v1:
        counts |= {"max_usage": memory.usage.max, "failcnt": memory.usage.failcnt}
    return counts


def _block_io(usage: Usage | None, v1: bool) -> dict[str, Any]:
    lists: dict[str, Any] = dict.fromkeys(_BLOCK_IO)
    if usage is None:
        return lists
    if v1:
        lists = {name: [] for name in _BLOCK_IO}
    done, served = [], []
    for device in usage.io:
        place = {"major": device.major, "minor": device.minor}
        for op, size, count in (
            ("read", device.read_bytes, device.reads),
            ("write", device.write_bytes, device.writes),
            ("discard", device.discard_bytes, device.discards),
        ):
            done.append({**place, "op": op, "value": size})
            served.append({**place, "op": op, "value": count})
    lists["io_service_bytes_recursive"] = done
    if v1:
        lists["io_serviced_recursive"] = served
    return lists


ROUTES = (
    ("GET", "/containers/{id}/top", processes),
    ("GET", "/containers/{id}/stats", stats),
)
