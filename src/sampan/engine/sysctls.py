"""Kernel parameters of a container's own network that differ from the kernel's defaults.

As in Docker since 20.10: a port below 1024 needs no capability, for the network it is on is the
container's own, and anybody may send ICMP echo requests (ip(7), icmp(7)). A program of a user that
is not root's listens on port 80 because of the first, and ``ping`` works without CAP_NET_RAW
because of the second. What the user asks for goes over both.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.engine.config import HostConfig

__all__ = ["sysctls"]

_LAST_GROUP = 2**31 - 1
_UNPRIVILEGED = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": f"0 {_LAST_GROUP}",
}


def sysctls(host: HostConfig) -> dict[str, str]:
    """All that is set in a new container."""
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        return host.sysctls
    return {**_defaults(), **host.sysctls}


@functools.cache
def _defaults() -> dict[str, str]:
    """Those that this kernel has, and takes from us."""
    return {
        name: value
        for name, value in _UNPRIVILEGED.items()
        if os.path.exists(f"/proc/sys/{name.replace('.', '/')}")
        and (name != "net.ipv4.ping_group_range" or _has_every_group())
    }


def _has_every_group() -> bool:
    """Whether each group of the range exists here: in a user namespace it may not (EINVAL)."""
    with open("/proc/self/gid_map", encoding="ascii") as file:
        spans = [line.split() for line in file]
    return any(first == "0" and int(count) > _LAST_GROUP for first, _, count in spans)
