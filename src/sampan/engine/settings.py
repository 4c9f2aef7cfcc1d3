"""What the administrator decided: where state lies, and the defaults of containers and transfers.

The daemon makes these values from its command line and its configuration file. A reload replaces
``Engine.settings`` as a whole: who needs a value asks for it when it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.network.types import Options as NetworkOptions

if TYPE_CHECKING:
    from sampan.engine.config import HostConfig

__all__ = ["Defaults", "Settings", "Transfers", "parse_size"]


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What containers get that ask for nothing of it; ``seccomp`` as in ``SecurityOpt``."""

    log_driver: str = "json-file"
    log_options: dict[str, str] = {}
    init: bool = False
    shm_size: int = 0
    ulimits: dict[str, tuple[int, int]] = {}
    seccomp: str = ""
    no_new_privileges: bool = False
    ipc_mode: str = ""
    cgroupns_mode: str = ""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()

    def applied(self, host: HostConfig) -> HostConfig:
        """``host`` with the defaults in it: a container keeps them when the daemon's change."""
        from sampan.engine.config import LogConfig, Ulimit

        changed: dict[str, object] = {}
        log = host.log_config
        if (log.type or self.log_driver) == self.log_driver:
            options = {**self.log_options, **log.config}
            if options != log.config or self.log_driver not in (log.type, "json-file"):
                changed["log_config"] = LogConfig(type=self.log_driver, config=options)
        if self.init and host.init is None:
            changed["init"] = True
        for name in ("shm_size", "ipc_mode", "cgroupns_mode"):
            if getattr(self, name) and not getattr(host, name):
                changed[name] = getattr(self, name)
        own = {item.name.lower() for item in host.ulimits}
        more = [
            Ulimit(name=name, soft=soft, hard=hard)
            for name, (soft, hard) in self.ulimits.items()
            if name not in own
        ]
        if more:
            changed["ulimits"] = [*host.ulimits, *more]
        security = self._security(host)
        if security:
            changed["security_opt"] = [*(host.security_opt or ()), *security]
        return msgspec.structs.replace(host, **changed) if changed else host

    def _security(self, host: HostConfig) -> list[str]:
        given = {option.partition("=")[0].partition(":")[0] for option in host.security_opt or ()}
        added = []
        if self.no_new_privileges and "no-new-privileges" not in given:
            added.append("no-new-privileges")
        if self.seccomp and "seccomp" not in given and not host.privileged:
            added.append(f"seccomp={self.seccomp}")
        return added

    def resolved(self, host: HostConfig) -> HostConfig:
        """``host`` with the name servers it uses, which inspection does not show."""
        return msgspec.structs.replace(
            host,
            dns=host.dns or list(self.dns),
            dns_options=host.dns_options or list(self.dns_options),
            dns_search=host.dns_search or list(self.dns_search),
        )


class Transfers(msgspec.Struct, frozen=True, kw_only=True):
    """How images are pulled and pushed: ``insecure`` registries by name, address or network."""

    insecure: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    downloads: int = 3
    uploads: int = 5
    attempts: int = 5
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where state lies (docs/architecture.md, "State"), what containers' cgroups stand below, and
    what this daemon says of itself.
    """

    data_root: str
    exec_root: str
    storage_driver: str = "overlay2"
    cgroup_parent: str = "/sampan"
    debug: bool = False
    labels: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    """Addresses at which anybody may use this daemon."""
    seccomp_profile: str = "builtin"
    defaults: Defaults = Defaults()
    transfers: Transfers = Transfers()
    network: NetworkOptions = NetworkOptions()

    @property
    def containers(self) -> str:
        return f"{self.data_root}/containers"

    @property
    def run_dirs(self) -> str:
        return f"{self.exec_root}/containers"

    @property
    def mount_point(self) -> str:
        """Where each container, in a mount namespace of its own, mounts its root."""
        return f"{self.exec_root}/rootfs"

    @property
    def trash(self) -> str:
        return f"{self.data_root}/trash"


def parse_size(text: str) -> int:
    """``10m`` in bytes: b, k, m, g, t, in powers of 1024. Raises InvalidArgument."""
    lowered = text.lower().removesuffix("b").removesuffix("i")
    factor = 1
    if lowered and lowered[-1] in "kmgt":
        factor = 1024 ** ("kmgt".index(lowered[-1]) + 1)
        lowered = lowered[:-1]
    try:
        size = int(float(lowered) * factor)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise InvalidArgument(f"invalid size: '{text}'; write a number and b, k, m or g")
    return size
