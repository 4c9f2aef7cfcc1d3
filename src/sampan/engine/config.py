"""What a client asks of a container: ``ContainerConfig`` and ``HostConfig`` of the Engine API.

The wire shapes of the Docker Engine API v1.51 as frozen values. Reading is the one gate of the
house's rule that every field accepted is acted on or refused by name: a field of ``REFUSED`` that
is set to anything but its zero value is an error, so is a field nobody knows. ``null`` means
"absent" and the names' case does not matter, as in Go's decoder, which clients were written
against.

The same values are stored with the container and shown by inspect.
"""

from __future__ import annotations

from typing import Any, TypeVar

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
    "read_body",
    "read_create",
    "read_link",
    "read_struct",
]

T = TypeVar("T", bound=msgspec.Struct)


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


# Place in the body -> why, and what to do instead.
REFUSED = {
    "ArgsEscaped": "it is for Windows containers",
    "OnBuild": "it belongs to an image, not to a container",
    "HostConfig.StorageOpt": "no storage driver here takes options per container",
    "HostConfig.Cgroup": "use CgroupParent",
    "HostConfig.KernelMemory": "the kernel has dropped it; limit Memory",
    "HostConfig.DeviceRequests": "name each device with Devices",
    "HostConfig.CpuCount": "it is for Windows containers; use NanoCpus",
    "HostConfig.CpuPercent": "it is for Windows containers; use NanoCpus",
    "HostConfig.IOMaximumIOps": "it is for Windows containers; use BlkioDeviceReadIOps",
    "HostConfig.IOMaximumBandwidth": "it is for Windows containers; use BlkioDeviceReadBps",
}

# Place -> the values that mean what we do anyway.
ONLY = {
    "HostConfig.UsernsMode": ("", "host"),
}


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


def _struct_names(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {name.lower(): name for name in kind.__struct_encode_fields__}


# What is an object, or a list of them, wherever a field has this name (or is at this place).
_INNER = {
    "BindOptions": _struct_names(BindOptions),
    "BlkioDeviceReadBps": _struct_names(ThrottleDevice),
    "BlkioDeviceReadIOps": _struct_names(ThrottleDevice),
    "BlkioDeviceWriteBps": _struct_names(ThrottleDevice),
    "BlkioDeviceWriteIOps": _struct_names(ThrottleDevice),
    "BlkioWeightDevice": _struct_names(WeightDevice),
    "Devices": _struct_names(DeviceMapping),
    "IPAMConfig": _struct_names(EndpointIpam),
    # Of a network (sampan.network.creation), which few daemons need to know.
    "IPAM": {name.lower(): name for name in ("Driver", "Config", "Options")},
    "IPAM.Config": {
        name.lower(): name for name in ("Subnet", "Gateway", "IPRange", "AuxiliaryAddresses")
    },
    "ConfigFrom": {"network": "Network"},
    "DriverConfig": _struct_names(DriverConfig),
    "Healthcheck": _struct_names(Healthcheck),
    "ImageOptions": _struct_names(ImageOptions),
    "LogConfig": _struct_names(LogConfig),
    "Mounts": _struct_names(MountRequest),
    "RestartPolicy": _struct_names(RestartPolicy),
    "TmpfsOptions": _struct_names(TmpfsOptions),
    "Ulimits": _struct_names(Ulimit),
    "VolumeOptions": _struct_names(VolumeOptions),
}
# The same of what stands under names of the client's.
_MAPS = {
    "HostConfig.PortBindings": _struct_names(PortBinding),
}
_CONFIG_NAMES = _struct_names(ContainerConfig)
_HOST_NAMES = _struct_names(HostConfig)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value


def _known(value: dict[str, Any], names: dict[str, str], where: str) -> dict[str, Any]:
    """Canonical field names; an unknown field that carries a value is refused."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = names.get(key.lower())
        if name is not None:
            held = _MAPS.get(where + name)
            inner = _INNER.get(where + name) or _INNER.get(name)
            if held is not None and isinstance(item, dict):
                result[name] = {
                    one: _inside(held, each, f"{where}{name}.{one}") for one, each in item.items()
                }
            elif inner is not None and item:
                result[name] = _inside(inner, item, where + name)
            else:
                result[name] = item
        elif item:
            raise InvalidArgument(f"{where}{key} is not a field of API 1.51: leave it out")
    return result


def _inside(names: dict[str, str], value: Any, where: str) -> Any:
    """The same for an object in a field, or for each of a list of them."""
    if isinstance(value, dict):
        return _known(value, names, f"{where}.")
    if isinstance(value, list):
        return [_inside(names, item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value  # of the wrong type, which is found later


def read_struct(kind: type[T], value: object, where: str = "") -> T:
    """Convert a decoded JSON value; the error names the place.

    Raises InvalidArgument.
    """
    try:
        return msgspec.convert(_without_null(value), kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{where or 'body'}: {_place(str(error))}") from error


def read_body(kind: type[T], body: object) -> T:
    """A request's decoded JSON: names in any case, and none that is not a field.

    Raises InvalidArgument.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    return read_struct(kind, _known(_without_null(body), _struct_names(kind), ""))


def _place(message: str) -> str:
    """msgspec's "… - at `$.a.b`" as "a.b: …"."""
    text, _, at = message.partition(" - at `$")
    return f"{at.rstrip('`').lstrip('.')}: {text}" if at else text


def _refuse(config: ContainerConfig, host: HostConfig) -> None:
    shown = msgspec.to_builtins(config)
    shown["HostConfig"] = msgspec.to_builtins(host)
    for place, why in REFUSED.items():
        if _at(shown, place):
            raise NotSupported(f"{place} is not supported: {why}")
    for place, values in ONLY.items():
        value = _at(shown, place)
        if value not in values:
            allowed = " or ".join(f'"{item}"' for item in values if item)
            raise NotSupported(f'{place} "{value}" is not supported: use {allowed}')


def _at(shown: dict[str, Any], place: str) -> Any:
    value: Any = shown
    for name in place.split("."):
        value = value[name]
    return value


def _endpoints(networking: object) -> dict[str, EndpointSettings]:
    if not isinstance(networking, dict):
        raise InvalidArgument("NetworkingConfig: expected an object")
    known = _known(networking, {"endpointsconfig": "EndpointsConfig"}, "NetworkingConfig.")
    given = known.get("EndpointsConfig") or {}
    if not isinstance(given, dict):
        raise InvalidArgument("NetworkingConfig.EndpointsConfig: expected an object")
    return {name: read_endpoint(name, value or {}) for name, value in given.items()}


def read_endpoint(name: str, value: object) -> EndpointSettings:
    """One network's settings. Raises InvalidArgument."""
    where = f"NetworkingConfig.EndpointsConfig.{name}"
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: expected an object")
    asked = {key: item for key, item in value.items() if key.lower() not in _ANSWERED}
    known = _known(_without_null(asked), _ENDPOINT_NAMES, f"{where}.")
    return read_struct(EndpointSettings, known, where)


_ENDPOINT_NAMES = _struct_names(EndpointSettings)
_ANSWERED = frozenset(
    (
        "networkid", "endpointid", "gateway", "ipaddress", "ipprefixlen", "ipv6gateway",
        "globalipv6address", "globalipv6prefixlen", "dnsnames",
    )
)  # fmt: skip


def read_create(body: object) -> CreateRequest:
    """Check the body of ``POST /containers/create`` (its decoded JSON).

    Raises InvalidArgument for a wrong shape or value, NotSupported for a field that we know and do
    not do; the message names the field.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("config cannot be empty in order to create a container")
    top = _without_null(body)
    host_value: object = {}
    networking: object = {}
    rest: dict[str, Any] = {}
    for key, item in top.items():
        lowered = key.lower()
        if lowered == "hostconfig":
            host_value = item
        elif lowered == "networkingconfig":
            networking = item
        else:
            rest[key] = item
    if not isinstance(host_value, dict):
        raise InvalidArgument("HostConfig: expected an object")
    config = read_struct(ContainerConfig, _known(rest, _CONFIG_NAMES, ""), "Config")
    host = read_struct(HostConfig, _known(host_value, _HOST_NAMES, "HostConfig."), "HostConfig")
    if isinstance(config.cmd, str):
        config = msgspec.structs.replace(config, cmd=[config.cmd])
    if isinstance(config.entrypoint, str):
        config = msgspec.structs.replace(config, entrypoint=[config.entrypoint])
    if host.memory_swappiness == -1:
        # The client's word for "not given".
        host = msgspec.structs.replace(host, memory_swappiness=None)
    if config.mac_address:
        mac_bytes(config.mac_address)
    _refuse(config, host)
    return CreateRequest(config=config, host_config=host, endpoints=_endpoints(networking))
