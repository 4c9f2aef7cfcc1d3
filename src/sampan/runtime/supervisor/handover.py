"""What zygote, makers and monitors agree upon: the numbers of the descriptors they hand over."""

from __future__ import annotations

__all__ = ["BASE", "CONTROL", "ENDED", "HIGHEST", "REPORT", "SLOTS", "SOCKET_FD", "TAKEN"]

SOCKET_FD = 3
"""The zygote's connection with the daemon, where spawn requests come in."""

BASE = 64
"""From here on are the descriptors of a monitor that sleeps."""

CONTROL = BASE
REPORT = BASE + 1

SLOTS = 16
"""How many places the poll set has: the maker, the daemon, what the container has, and the end."""

HIGHEST = 2 * BASE - 1
"""No descriptor is handed over under a higher number than this."""

TAKEN = b"t"
"""A maker to its zygote: I have a request, another may wait for the next."""

ENDED = b"e"
"""A maker to its zygote: the daemon is gone."""
