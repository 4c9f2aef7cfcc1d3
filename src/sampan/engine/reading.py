"""Reading what a client asks: a request's JSON as the values of ``config``, or why it is refused.

The one gate of the house's rule that every field accepted is acted on or refused by name: a field
of ``REFUSED`` that is set to anything but its zero value is an error, so is a field nobody knows.
``null`` means "absent" and the names' case does not matter, as in Go's decoder, which clients were
written against.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec

from sampan.engine.config import (
    BindOptions,
    ContainerConfig,
    CreateRequest,
    DeviceMapping,
    DriverConfig,
    EndpointIpam,
    EndpointSettings,
    Healthcheck,
    HostConfig,
    ImageOptions,
    LogConfig,
    MountRequest,
    PortBinding,
    RestartPolicy,
    ThrottleDevice,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
    WeightDevice,
)
from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.links import mac_bytes

__all__ = [
    "ONLY",
    "REFUSED",
    "read_body",
    "read_create",
    "read_endpoint",
    "read_struct",
]

T = TypeVar("T", bound=msgspec.Struct)

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


@functools.cache
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
    return _convert(kind, _without_null(value), where)


def _convert(kind: type[T], value: object, where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{where or 'body'}: {_place(str(error))}") from error


def read_body(kind: type[T], body: object) -> T:
    """A request's decoded JSON: names in any case, and none that is not a field.

    Raises InvalidArgument.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    return _convert(kind, _known(_without_null(body), _struct_names(kind), ""), "")


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
