"""What a group has used: the answer of ``account()``, the same for every cgroup version.

Units: bytes, nanoseconds, counts. Limits are None where unlimited. Records, so that they cross a
socket as JSON.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.oci.record import Record

__all__ = [
    "Counter",
    "CpuUsage",
    "DeviceIO",
    "MemoryUsage",
    "PidsUsage",
    "Pressure",
    "PressureLine",
    "Usage",
    "parse_pressure",
]


class PressureLine(Record):
    """Shares of time (percent) stalled over 10, 60 and 300 seconds; ``total`` in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


class Pressure(Record):
    """Pressure stall information, Documentation/accounting/psi.rst: some tasks, or all of them."""

    some: PressureLine = PressureLine()
    full: PressureLine = PressureLine()


class CpuUsage(Record):
    """Nanoseconds of CPU time. The ``percpu`` rows exist in v1 only."""

    total: int = 0
    user: int = 0
    system: int = 0
    percpu: tuple[int, ...] = ()
    percpu_user: tuple[int, ...] = ()
    percpu_system: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    pressure: Pressure | None = None


class Counter(Record):
    """A counted resource: now, the most there was, how often the limit was hit, the limit."""

    usage: int = 0
    max: int = 0
    failcnt: int = 0
    limit: int | None = None


class MemoryUsage(Record):
    """``swap`` counts memory and swap together, as v1 and the runtime specification do.

    ``stat`` is memory.stat as the kernel gives it; its keys differ between the versions.
    """

    json_names: ClassVar[dict[str, str]] = {"kernel_tcp": "kernelTCP"}

    usage: Counter = Counter()
    swap: Counter = Counter()
    kernel: Counter = Counter()
    kernel_tcp: Counter = Counter()
    cache: int = 0
    oom_kills: int = 0
    stat: dict[str, int] = {}
    pressure: Pressure | None = None


class PidsUsage(Record):
    current: int = 0
    limit: int | None = None


class DeviceIO(Record):
    """What went to and from one block device."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    discard_bytes: int = 0
    reads: int = 0
    writes: int = 0
    discards: int = 0


class Usage(Record):
    """Everything ``account()`` tells; a part whose controller is missing keeps its zeros."""

    cpu: CpuUsage = CpuUsage()
    memory: MemoryUsage = MemoryUsage()
    pids: PidsUsage = PidsUsage()
    io: tuple[DeviceIO, ...] = ()
    io_pressure: Pressure | None = None
    hugetlb: dict[str, Counter] = {}


def parse_pressure(text: str | None) -> Pressure | None:
    """A ``*.pressure`` file; None where the kernel has none or has it switched off."""
    if not text:
        return None
    lines: dict[str, PressureLine] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.partition("=")[::2] for pair in pairs)
        lines[kind] = PressureLine(
            avg10=float(values["avg10"]),
            avg60=float(values["avg60"]),
            avg300=float(values["avg300"]),
            total=int(values["total"]),
        )
    return Pressure(**lines)
