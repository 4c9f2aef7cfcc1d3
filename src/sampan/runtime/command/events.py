"""``events``: a container's usage as runc prints it, and when it ran out of memory.

One JSON object a line: ``{"type": "stats" | "oom", "id", "data"}``.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument
from sampan.kernel.cgroups import drain_oom
from sampan.runtime.command.destroy import open_init

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group, Usage
    from sampan.kernel.cgroups.usage import Counter, Pressure
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed
    from sampan.runtime.state import State

__all__ = ["run", "seconds"]

_UNLIMITED = (1 << 64) - 1
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def run(context: Context, parsed: Parsed) -> int:
    state = context.store.read(parsed.arguments[0])
    interval = seconds(parsed.text("interval") or "5s")
    group = context.group_of(state)
    if group is None:
        raise Conflict(f"container {state.id} has no cgroup of its own: nothing is counted")
    pidfd = open_init(state)
    try:
        if parsed.flag("stats"):
            _say(state, "stats", stats(group.account()))
        else:
            _follow(state, group, pidfd, interval)
    finally:
        os.close(pidfd)
    return 0


def seconds(text: str) -> float:
    """A duration as Go writes it: ``5s``, ``1m30s``, ``100ms``."""
    total, rest = 0.0, text
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµmsh"))]
        rest = rest[len(unit) :]
        try:
            total += float(digits) * _UNITS[unit]
        except (ValueError, KeyError):
            total = 0.0
            break
    if total <= 0:
        raise InvalidArgument(f"--interval: expected a duration (5s, 1m30s), not {text!r}")
    return total


def _follow(state: State, group: Group, pidfd: int, interval: float) -> None:
    watch = group.oom_watch()
    seen = group.oom_count()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if watch is not None:
        poll.register(*watch)
    due = time.monotonic()
    try:
        while True:
            if time.monotonic() >= due:
                _say(state, "stats", stats(group.account()))
                due = time.monotonic() + interval
            ready = [fd for fd, _ in poll.poll(max(due - time.monotonic(), 0) * 1000)]
            if watch is not None and watch[0] in ready and not drain_oom(watch[0]):
                poll.unregister(watch[0])
            # Also at its end: what ended it may be told after the end itself.
            if ready and group.exists() and (count := group.oom_count()) > seen:
                seen = count
                _say(state, "oom", None)
            if pidfd in ready:
                return
    finally:
        if watch is not None:
            os.close(watch[0])


def _say(state: State, kind: str, data: object) -> None:
    event: dict[str, object] = {"type": kind, "id": state.id}
    if data is not None:
        event["data"] = data
    print(json.dumps(event))
    sys.stdout.flush()


def stats(usage: Usage) -> dict[str, object]:
    """The ``data`` of one ``stats`` event."""
    cpu, memory = usage.cpu, usage.memory
    io = {
        "ioServiceBytesRecursive": (("Read", "read_bytes"), ("Write", "write_bytes")),
        "ioServicedRecursive": (("Read", "reads"), ("Write", "writes")),
    }
    return {
        "cpu": {
            "usage": {
                "total": cpu.total,
                "percpu": list(cpu.percpu),
                "percpu_kernel": list(cpu.percpu_system),
                "percpu_user": list(cpu.percpu_user),
                "kernel": cpu.system,
                "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_time,
            },
            **_pressure(cpu.pressure),
        },
        "cpuset": {},
        "memory": {
            "cache": memory.cache,
            "usage": _counter(memory.usage),
            "swap": _counter(memory.swap),
            "kernel": _counter(memory.kernel),
            "kernelTCP": _counter(memory.kernel_tcp),
            "raw": memory.stat,
            **_pressure(memory.pressure),
        },
        "pids": {"current": usage.pids.current, "limit": usage.pids.limit or 0},
        "blkio": {
            **{
                name: [
                    {
                        "major": device.major,
                        "minor": device.minor,
                        "op": op,
                        "value": getattr(device, field),
                    }
                    for device in usage.io
                    for op, field in fields
                ]
                for name, fields in io.items()
            },
            **_pressure(usage.io_pressure),
        },
        "hugetlb": {
            size: {"usage": one.usage, "max": one.max, "failcnt": one.failcnt}
            for size, one in usage.hugetlb.items()
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _counter(counter: Counter) -> dict[str, int]:
    return {
        "limit": _UNLIMITED if counter.limit is None else counter.limit,
        "usage": counter.usage,
        "max": counter.max,
        "failcnt": counter.failcnt,
    }


def _pressure(pressure: Pressure | None) -> dict[str, object]:
    return {} if pressure is None else {"psi": pressure.to_json()}
