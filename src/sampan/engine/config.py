"""What a client asks of a container: ``ContainerConfig`` and ``HostConfig`` of the Engine API.

The wire shapes of the Docker Engine API v1.51 as frozen values, read by ``reading``. The same
values are stored with the container and shown by inspect.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.links import mac_bytes
from sampan.network.options import OPTIONS, SYSCTLS, link_local, parameters
from sampan.network.types import Wish

__all__ = [
    "BindOptions",
    "ContainerConfig",
    "CreateRequest",
    "DeviceMapping",
    "EndpointIpam",
    "EndpointSettings",
    "Healthcheck",
    "HostConfig",
    "ImageOptions",
    "LogConfig",
    "MountRequest",
    "PortBinding",
    "RestartPolicy",
    "ThrottleDevice",
    "TmpfsOptions",
    "Ulimit",
    "VolumeOptions",
    "WeightDevice",
    "read_link",
]


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    pass


class PortBinding(_Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``host_port`` is a port, a range to choose from, or empty for any."""

    host_ip: str = ""
    host_port: str = ""


class Healthcheck(_Wire, frozen=True, kw_only=True):
    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(_Wire, frozen=True, kw_only=True):
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, str]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(_Wire, frozen=True, kw_only=True):
    type: str = ""
    config: dict[str, str] = {}


class RestartPolicy(_Wire, frozen=True, kw_only=True):
    name: str = ""
    maximum_retry_count: int = 0


class DeviceMapping(_Wire, frozen=True, kw_only=True):
    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(_Wire, frozen=True, kw_only=True):
    name: str
    soft: int = 0
    hard: int = 0


class WeightDevice(_Wire, frozen=True, kw_only=True):
    path: str
    weight: int = 0


class ThrottleDevice(_Wire, frozen=True, kw_only=True):
    path: str
    rate: int = 0


class BindOptions(_Wire, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(_Wire, frozen=True, kw_only=True):
    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(_Wire, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(_Wire, frozen=True, kw_only=True):
    subpath: str = ""


class TmpfsOptions(_Wire, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = []


class MountRequest(_Wire, frozen=True, kw_only=True):
    """One ``--mount``."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(_Wire, frozen=True, kw_only=True):
    binds: list[str] | None = None
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding]] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[MountRequest] = []
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] = {}
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    # Resources
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_iops: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="BlkioDeviceWriteIOps"
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = []
    device_cgroup_rules: list[str] | None = None
    device_requests: list[Any] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    init: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] = []
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = msgspec.field(default=0, name="IOMaximumBandwidth")


class EndpointIpam(_Wire, frozen=True, kw_only=True):
    ipv4_address: str = msgspec.field(default="", name="IPv4Address")
    ipv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_ips: list[str] = msgspec.field(default_factory=list, name="LinkLocalIPs")


class EndpointSettings(_Wire, frozen=True, kw_only=True):
    """What is asked of one network. What else stands in the API's object is an answer's, which
    clients send back: it asks for nothing."""

    ipam_config: EndpointIpam = msgspec.field(default=EndpointIpam(), name="IPAMConfig")
    links: list[str] = []
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0

    def wish(self, network: str, name: str) -> Wish:
        """Raises InvalidArgument, NotSupported."""
        where = f"NetworkingConfig.EndpointsConfig.{name}"
        ipam = self.ipam_config
        for address in ipam.link_local_ips:
            link_local(address)
        for link in self.links:
            read_link(link)
        for option in self.driver_opts:
            if option not in OPTIONS:
                raise NotSupported(f"{where}.DriverOpts: {option} is not supported")
        parameters(self.driver_opts.get(SYSCTLS, ""))
        if self.mac_address:
            mac_bytes(self.mac_address)
        return Wish(
            network=network,
            name=name,
            ipv4=ipam.ipv4_address,
            ipv6=ipam.ipv6_address,
            mac=self.mac_address,
            aliases=tuple(self.aliases),
            links=tuple(self.links),
            link_local=tuple(ipam.link_local_ips),
            options=self.driver_opts,
            priority=self.gw_priority,
        )


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The checked body of ``POST /containers/create``."""

    config: ContainerConfig
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings] = {}
    deep_read_only: bool = True
    warnings: tuple[str, ...] = ()


def read_link(text: str) -> tuple[str, str]:
    """(name, alias) of ``NAME[:ALIAS]``, or of what inspection shows, ``/NAME:/PARENT/ALIAS``.

    Raises InvalidArgument.
    """
    name, _, alias = text.partition(":")
    if text.startswith("/"):
        name, alias = name[1:], alias.rpartition("/")[2]
    alias = alias or name
    if not name or ":" in alias or "/" in alias or not alias.isprintable() or " " in alias:
        raise InvalidArgument(f"bad format for links: {text!r}; write NAME or NAME:ALIAS")
    return name, alias
