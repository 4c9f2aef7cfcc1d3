"""What JSON does not say of the daemon's answers, for ``--format``: which objects are Go maps.

Docker's client fills its own types and then the template, so that ``{{.Config.Labels.x}}`` may be
absent and ``{{.Config.X}}`` may not, and null prints as ``[]``, ``map[]`` or ``<nil>``. The names
are those of the Engine API's document (v1.51: ContainerInspectResponse, ImageInspect, SystemInfo,
Volume, Network).
"""

from __future__ import annotations

from typing import Any

from sampan.template.values import Map, Nil, NilList, Struct

__all__ = ["shaped"]

_MAPS = frozenset(
    """
    Annotations Config Containers Data Driver DriverOpts ExposedPorts ExtraAttributes IndexConfigs
    Labels Metadata Networks Options PortBindings Ports Runtimes Status StorageOpt Sysctls Tmpfs
    Volumes
    """.split()
)
# `Config` is a map in a log configuration and a struct in a container.
_STRUCT_UNLESS_TEXTS = frozenset(("Config", "Driver", "Containers", "Status"))
_LISTS = frozenset(
    """
    Aliases Args Authorization Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps
    BlkioDeviceWriteIOps BlkioWeightDevice CapAdd CapDrop Cmd DNSNames DeviceCgroupRules
    DeviceRequests Devices Dns DnsOptions DnsSearch DriverStatus Entrypoint Env ExecIDs ExtraHosts
    GroupAdd IPAM Layers LinkLocalIPs Links Log MaskedPaths Mirrors Mounts OnBuild Plugins
    ReadonlyPaths RepoDigests RepoTags SecondaryIPAddresses SecondaryIPv6Addresses SecurityOpt
    SecurityOptions Shell Test Ulimits VolumesFrom Warnings
    """.split()
)
_POINTERS = ("Health", "Healthcheck", "Init", "SizeRootFs", "SizeRw", "StopTimeout", "UsageData")
_TEXTS = """Author Comment Driver GraphDriver MacAddress Name Platform StopSignal Variant
VolumeDriver""".split()
_MOUNT = ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation")


class _Map(Map):
    pass


class _PortMap(Map):
    empty: Any = []


class _PointerMap(Map):
    empty: Any = None


class _NilMap(Nil, _Map):
    pass


class _NilPortMap(Nil, _PortMap):
    pass


class _NilPointerMap(Nil, _PointerMap):
    pass


# Fields of Docker's types whose JSON has another name.
_ALIASES = {
    "APIVersion": "ApiVersion",
    "CPUCfsPeriod": "CpuCfsPeriod",
    "CPUCfsQuota": "CpuCfsQuota",
    "CPUPeriod": "CpuPeriod",
    "CPUQuota": "CpuQuota",
    "CPURealtimePeriod": "CpuRealtimePeriod",
    "CPURealtimeRuntime": "CpuRealtimeRuntime",
    "CPUShares": "CpuShares",
    "DNS": "Dns",
    "DNSOptions": "DnsOptions",
    "DNSSearch": "DnsSearch",
    "HTTPProxy": "HttpProxy",
    "HTTPSProxy": "HttpsProxy",
    "ID": "Id",
    "NanoCPUs": "NanoCpus",
}


class _Answer(Struct):
    aliases = _ALIASES
    optional = {
        **dict.fromkeys(_TEXTS, ""),
        **dict.fromkeys(_POINTERS),
        **{name: _NilMap() for name in _MAPS - _STRUCT_UNLESS_TEXTS},
        **{name: NilList() for name in _LISTS},
    }


class _Mount(_Answer):
    fields = _MOUNT


class _Volume(_Answer):
    optional = {**_Answer.optional, "ClusterVolume": None, "Status": _NilMap()}


_KINDS: dict[str, tuple[type[Map], type[Map]]] = {
    "PortBindings": (_PortMap, _NilPortMap),
    "Ports": (_PortMap, _NilPortMap),
    "Networks": (_PointerMap, _NilPointerMap),
}
_USUAL = (_Map, _NilMap)


def shaped(value: Any, name: str = "") -> Any:
    """A decoded answer with its maps told from its structs, and its nulls by what they are."""
    if isinstance(value, Map):
        return type(value)({key: shaped(item) for key, item in value.items()})
    if isinstance(value, dict):
        texts = not any(isinstance(item, dict) for item in value.values())
        if name in _MAPS and (name not in _STRUCT_UNLESS_TEXTS or _only_texts(value)):
            kind, _ = _KINDS.get(name, _USUAL)
            return kind({key: shaped(item) for key, item in value.items()})
        if texts and "Destination" in value and "Propagation" in value:
            return _Mount(value)
        if "Mountpoint" in value and "Scope" in value:
            return _Volume({key: shaped(item, key) for key, item in value.items()})
        return _Answer({key: shaped(item, key) for key, item in value.items()})
    if isinstance(value, list):
        return [shaped(item) for item in value]
    if value is None and name in _LISTS:
        return NilList()
    if value is None and name in _MAPS:
        return _KINDS.get(name, _USUAL)[1]()
    return value


def _only_texts(value: dict[str, Any]) -> bool:
    return all(isinstance(item, str) for item in value.values())
