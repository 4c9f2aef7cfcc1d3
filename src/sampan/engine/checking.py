"""What of a container's configuration can be known to be wrong without making it.

Each check raises InvalidArgument in Docker's words, where tools look for them, or with the field's
name. Limits are checked by ``resources``, mounts by ``mounts``, namespaces by ``spec``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.engine.control import read_signal
from sampan.engine.health import check_health
from sampan.engine.restarts import check_policy
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.engine.config import ContainerConfig, HostConfig

__all__ = ["check_config", "check_host", "check_joined"]

RUNTIME = "sampan"


def check_config(config: ContainerConfig) -> None:
    """``config`` is merged with the image's."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute "
            "path"
        )
    if config.stop_signal:
        read_signal(config.stop_signal)
    check_health(config.healthcheck)


def check_joined(config: ContainerConfig, host: HostConfig) -> None:
    """Who is in another container's network has that one's names. ``config`` is not merged."""
    if not host.network_mode.startswith("container:"):
        return
    own = {
        "hostname": config.hostname,
        "dns": host.dns,
        "custom host-to-IP mapping": host.extra_hosts,
        "mac-address": config.mac_address,
    }
    for what, value in own.items():
        if value:
            raise InvalidArgument(f"conflicting options: {what} and the network mode")
    if config.exposed_ports:
        raise InvalidArgument(
            "conflicting options: port exposing and the container type network mode"
        )


def check_host(host: HostConfig) -> None:
    if host.runtime not in ("", RUNTIME):
        raise InvalidArgument(
            f"unknown or invalid runtime name: {host.runtime}; this engine's own is {RUNTIME}"
        )
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"invalid isolation '{host.isolation}' on linux")
    if host.shm_size < 0:
        raise InvalidArgument(f"HostConfig.ShmSize {host.shm_size} is less than 0")
    if min(host.console_size) < 0 or max(host.console_size) > 65535:
        raise InvalidArgument(f"HostConfig.ConsoleSize {list(host.console_size)}: 0 to 65535 each")
    if "" in host.annotations:
        raise InvalidArgument(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    check_policy(host.restart_policy, auto_remove=host.auto_remove)
