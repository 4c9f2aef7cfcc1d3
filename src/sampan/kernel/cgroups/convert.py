"""Values of the runtime specification in the units of each cgroup version. No I/O.

The specification speaks cgroup v1's language (shares, block weights of 10 to 1000, memory and swap
as one sum); cgroup v2 has weights of 1 to 10000 and swap on its own.
"""

from __future__ import annotations

import math

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

    A parabola in the logarithm through (2, 1), (1024, 100), (262144, 10000): both defaults meet,
    and the ratio between neighbours stays near what it was. A straight line would make 39 of 1024,
    so that a container with the default loses against the machine's services.
    """
    if shares not in SHARES:
        raise InvalidArgument(f"cpu.shares {shares}: expected {SHARES[0]} to {SHARES[-1]}")
    level = math.log2(shares)
    exponent = (level * level + 125 * level) / 612 - 7 / 34
    return min(10000, math.ceil(10**exponent))


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
