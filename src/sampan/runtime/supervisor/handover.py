"""What zygote, makers and monitors agree upon: the numbers of the descriptors they hand over."""

from __future__ import annotations

__all__ = [
    "BASE",
    "CONTROL",
    "ENDED",
    "HIGHEST",
    "PROMISE",
    "REPORT",
    "SLOTS",
    "SOCKET_FD",
    "TAKEN",
    "TAKEN_OVER",
]

SOCKET_FD = 3
"""The zygote's connection with the daemon, where spawn requests come in."""

BASE = 64
"""From here on are the descriptors of a monitor that sleeps."""

CONTROL = BASE
REPORT = BASE + 1

PROMISE = b"S"
"""An init to its monitor, before an event for the daemon: it is true when our connection ends."""

TAKEN_OVER = -2
"""In the first place of the poll set: the maker is the init now; what was it is to be killed."""

SLOTS = 16
"""How many places the poll set has: the maker, the daemon, what the container has, and the end."""

HIGHEST = 2 * BASE - 1
"""No descriptor is handed over under a higher number than this."""

TAKEN = b"t"
"""A maker to its zygote: I have a request, another may wait for the next."""

ENDED = b"e"
"""A maker to its zygote: the daemon is gone."""
