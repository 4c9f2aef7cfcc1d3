"""Values of the runtime specification in the units of each cgroup version. No I/O.

The specification speaks cgroup v1's language (shares, block weights of 10 to 1000, memory and swap
as one sum); cgroup v2 has weights of 1 to 10000 and swap on its own.
"""

from __future__ import annotations

from sampan.errors import InvalidArgument

__all__ = [
    "SHARES",
    "block_weight",
    "cpu_weight",
    "maximum",
    "swap_alone",
]

SHARES = range(2, 262145)
"""What cpu.shares takes: include/linux/sched, MIN_SHARES to MAX_SHARES."""


def cpu_weight(shares: int) -> int:
    """cpu.shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100).

    In proportion, 1024 to 100: both defaults meet, and two groups share a processor as their
    shares say. What lies beyond cpu.weight's ends is cut: under 10 shares, over 102400. Other
    runtimes bend the line to reach both ends, and pay with ratios: 2:1 becomes 1.7:1.
    """
    if shares not in SHARES:
        raise InvalidArgument(f"cpu.shares {shares}: expected {SHARES[0]} to {SHARES[-1]}")
    return max(1, min(10000, round(shares * 100 / 1024)))


def block_weight(weight: int) -> int:
    """blkio.weight (10 to 1000) as io.weight (1 to 10000), linearly from end to end."""
    if not 10 <= weight <= 1000:
        raise InvalidArgument(f"blockIO.weight {weight}: expected 10 to 1000")
    return 1 + (weight - 10) * 9999 // 990


def swap_alone(resource: str, both: int, limit: int | None) -> int:
    """Memory-and-swap minus memory: what memory.swap.max counts; -1 is unlimited."""
    if both == -1:
        return -1
    if limit is None or limit == -1:
        raise InvalidArgument(f"{resource}: a swap limit needs a memory limit (it counts both)")
    if both < limit:
        raise InvalidArgument(f"{resource}: smaller than the memory limit {limit} (it counts both)")
    return both - limit


def maximum(value: int) -> str:
    """A v2 limit: the specification's -1 is ``max``."""
    return "max" if value == -1 else str(value)
