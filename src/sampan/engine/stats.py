"""What a running container uses, at one moment.

The daemon reads the container's cgroup itself: to ask the monitor would wake it, and a monitor that
is awake is larger than one that sleeps. A sample takes half a millisecond.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import now
from sampan.kernel.cgroups.usage import Usage  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.engine.live import Live

__all__ = ["Interface", "Sample", "sample"]

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these.
_TIMES = 8


class Interface(msgspec.Struct, frozen=True):
    """What went over a network interface, as proc_pid_net(5) counts it."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class Sample(msgspec.Struct, frozen=True):
    """``at`` in nanoseconds since the epoch; ``machine`` is the CPU time of the whole machine, idle
    time too, in nanoseconds, and ``cpus`` how many take part in it; ``memory`` is the machine's.
    ``networks`` are those of a network namespace of the container's own, without ``lo``.
    """

    at: int
    usage: Usage
    machine: int
    cpus: int
    memory: int
    networks: dict[str, Interface]


def sample(engine: Engine, live: Live) -> Sample | None:
    """None when nothing of the container runs."""
    record = live.record
    if not record.state.running:
        return None
    group = engine.hierarchy.group(engine.cgroup_of(record))
    machine, cpus = _machine()
    return Sample(
        at=now(),
        usage=group.account(),
        machine=machine,
        cpus=cpus,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        networks=_networks(record.state.pid),
    )


def _machine() -> tuple[int, int]:
    with open("/proc/stat", encoding="ascii") as file:
        lines = [line.split() for line in file if line.startswith("cpu")]
    total = sum(int(number) for number in lines[0][1 : 1 + _TIMES])
    return total * _TICK, len(lines) - 1


def _networks(pid: int) -> dict[str, Interface]:
    try:
        if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), os.stat("/proc/self/ns/net")):
            return {}
        with open(f"/proc/{pid}/net/dev", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return {}  # It has ended since.
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        n = [int(number) for number in rest.split()]
        if name.strip() != "lo":
            found[name.strip()] = Interface(n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11])
    return found
