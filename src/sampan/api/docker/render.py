"""Containers in the API's JSON: the inspection and the list entry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.docker.context import ordered
from sampan.engine import ports, security
from sampan.engine.container import rfc3339
from sampan.network.types import PREDEFINED

if TYPE_CHECKING:
    from sampan.api.docker.versions import Version
    from sampan.engine.container import ContainerRecord, Health, UserMount
    from sampan.engine.core import Engine
    from sampan.engine.live import Exec, Live
    from sampan.network.types import Endpoint, Wish

__all__ = ["duration", "exec_json", "inspect", "status_text", "summary"]


def duration(seconds: float) -> str:
    """A span as people say it, in Docker's words: ``About a minute``, ``3 hours``, ``2 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' if whole != 1 else ''}"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def status_text(live: Live, now: float) -> str:
    """``ps``'s column STATUS."""
    state = live.record.state
    if live.status == "removing":
        return "Removal In Progress"
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {duration(now - state.finished_at / 1e9)} ago"
    if state.running:
        text = f"Up {duration(now - state.started_at / 1e9)}"
        if state.status == "paused":
            return f"{text} (Paused)"
        if state.health is not None:
            starting = "health: " if state.health.status == "starting" else ""
            return f"{text} ({starting}{state.health.status})"
        return text
    if state.status == "exited":
        return f"Exited ({state.exit_code}) {duration(now - state.finished_at / 1e9)} ago"
    return "Created"


def _mount(mount: UserMount) -> dict[str, Any]:
    point: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        point["Name"] = mount.name
    point["Source"] = mount.source
    point["Destination"] = mount.destination
    if mount.driver:
        point["Driver"] = mount.driver
    point["Mode"] = mount.mode
    point["RW"] = mount.writable
    point["Propagation"] = mount.propagation
    return point


def _mounts(record: ContainerRecord) -> list[dict[str, Any]]:
    return [_mount(mount) for mount in record.mounts if mount.listed]


def _endpoint(
    wish: Wish, endpoint: Endpoint | None, gateways: tuple[str, str], names: list[str]
) -> dict[str, Any]:
    ipam = {"IPv4Address": wish.ipv4, "IPv6Address": wish.ipv6}
    given: dict[str, Any] = {key: value for key, value in ipam.items() if value}
    if wish.link_local:
        given["LinkLocalIPs"] = list(wish.link_local)
    return {
        "IPAMConfig": given or None,
        "Links": list(wish.links) or None,
        "Aliases": list(wish.aliases) or None,
        "MacAddress": endpoint.mac if endpoint else wish.mac,
        "DriverOpts": ordered(wish.options) or None,
        "GwPriority": wish.priority,
        "NetworkID": wish.network,
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": gateways[0],
        "IPAddress": endpoint.address4 if endpoint else "",
        "IPPrefixLen": _prefix(endpoint.ipv4) if endpoint else 0,
        "IPv6Gateway": gateways[1],
        "GlobalIPv6Address": endpoint.address6 if endpoint else "",
        "GlobalIPv6PrefixLen": _prefix(endpoint.ipv6) if endpoint else 0,
        "DNSNames": names or None,
    }


def _prefix(address: str) -> int:
    return int(address.partition("/")[2] or 0)


def _networks(engine: Engine, record: ContainerRecord) -> dict[str, dict[str, Any]]:
    found = {}
    for wish in engine.networking.wishes_of(record):
        endpoint = engine.networking.endpoint(record.id, wish.network)
        gateways = engine.networking.gateways(endpoint) if endpoint else ("", "")
        names: list[str] = []
        if endpoint is not None and wish.name not in PREDEFINED:
            own = (record.name, *wish.aliases, record.id[:12], record.config.hostname)
            names = list(dict.fromkeys(name for name in own if name))
        found[wish.name] = shown = _endpoint(wish, endpoint, gateways, names)
        if not (record.state.up or record.state.started_at):
            shown["NetworkID"] = ""  # it may be another by then
    return found


def _port_map(engine: Engine, record: ContainerRecord) -> dict[str, list[dict[str, str]] | None]:
    """What of a running container is exposed, and where it is published."""
    if not record.state.running or not engine.networking.networks.leases.of(record.id):
        return {}
    found: dict[str, list[dict[str, str]] | None]
    found = dict.fromkeys(ports.exposed(record.config, record.host_config))
    for port in engine.networking.ports(record.id):
        key = f"{port.inside}/{port.protocol}"
        place = {"HostIp": port.address, "HostPort": str(port.port or "")}
        found[key] = [*(found.get(key) or ()), place]
    return found


def _network_settings(engine: Engine, record: ContainerRecord) -> dict[str, Any]:
    networks = _networks(engine, record)
    # The fields from before there were several networks speak of the default one.
    old = networks.get("bridge") or {}
    return {
        "Bridge": "",
        "SandboxID": record.id if record.state.running else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if record.state.running else "",
        "Ports": ordered(_port_map(engine, record)),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": old.get("EndpointID", ""),
        "Gateway": old.get("Gateway", ""),
        "GlobalIPv6Address": old.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": old.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": old.get("IPAddress", ""),
        "IPPrefixLen": old.get("IPPrefixLen", 0),
        "IPv6Gateway": old.get("IPv6Gateway", ""),
        "MacAddress": old.get("MacAddress", ""),
        "Networks": ordered(networks),
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.streak,
        "Log": [
            {
                "Start": rfc3339(check.start),
                "End": rfc3339(check.end),
                "ExitCode": check.exit_code,
                "Output": check.output,
            }
            for check in health.log
        ],
    }


def _state(live: Live) -> dict[str, Any]:
    state = live.record.state
    return {
        "Status": live.status,
        "Running": state.up,
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": False,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_at),
        "FinishedAt": rfc3339(state.finished_at),
        **({"Health": _health(state.health)} if state.health is not None else {}),
    }


# What Docker leaves out where it is empty.
_UNSAID = (
    "Annotations", "Init", "KernelMemory", "KernelMemoryTCP", "Mounts", "StorageOpt", "Sysctls",
    "Tmpfs",
)  # fmt: skip
_UNSAID_CONFIG = (
    "ArgsEscaped", "ExposedPorts", "Healthcheck", "MacAddress", "NetworkDisabled", "Shell",
    "StopSignal", "StopTimeout",
)  # fmt: skip


def _said(shown: dict[str, Any], unsaid: tuple[str, ...]) -> dict[str, Any]:
    for name in unsaid:
        if shown[name] is None or shown[name] in ("", 0, {}, []):
            del shown[name]
    return shown


def _filled(value: Any) -> Any:
    """What of an object says something: Go's ``omitempty`` stands at each of its fields."""
    if isinstance(value, dict):
        kept = {key: _filled(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item or (item == {} and value[key])}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _config(record: ContainerRecord) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(record.config, order="deterministic")
    timeout = shown["StopTimeout"]
    shown["Healthcheck"] = _filled(shown["Healthcheck"])
    shown = _said(shown, _UNSAID_CONFIG)
    return shown if timeout is None else {**shown, "StopTimeout": timeout}


def _host_config(record: ContainerRecord) -> dict[str, Any]:
    """What was asked for, with the defaults that stand behind silence."""
    shown: dict[str, Any] = _said(
        msgspec.to_builtins(record.host_config, order="deterministic"), _UNSAID
    )
    if "Mounts" in shown:
        shown["Mounts"] = _filled(shown["Mounts"])
    shown["LogConfig"]["Type"] = shown["LogConfig"]["Type"] or "json-file"
    shown["NetworkMode"] = shown["NetworkMode"] or "default"
    shown["IpcMode"] = shown["IpcMode"] or "private"
    shown["CgroupnsMode"] = shown["CgroupnsMode"] or "private"
    shown["Runtime"] = shown["Runtime"] or "sampan"
    shown["ShmSize"] = shown["ShmSize"] or 64 * 1024 * 1024
    shown["RestartPolicy"]["Name"] = shown["RestartPolicy"]["Name"] or "no"
    shown["PidsLimit"] = shown["PidsLimit"] or None
    hidden = security.hidden_paths(record.host_config)
    shown["MaskedPaths"], shown["ReadonlyPaths"] = (list(paths) or None for paths in hidden)
    return shown


def _links(engine: Engine, record: ContainerRecord) -> list[str] | None:
    if not record.links:
        return None
    from sampan.engine.links import shown

    return shown(engine, record)


def inspect(engine: Engine, live: Live) -> dict[str, Any]:
    """``GET /containers/{id}/json``."""
    record = live.record
    directory = engine.names_directory(record)
    place = engine.log_place(record)
    running = [item.id for item in live.execs.values() if item.running]
    return {
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Path": record.args[0],
        "Args": list(record.args[1:]),
        "State": _state(live),
        "Image": record.image_id,
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": place.path if place is not None and place.driver == "json-file" else "",
        "Name": f"/{record.name}",
        "RestartCount": record.state.restarts,
        "Driver": record.driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": running or None,
        "HostConfig": {**_host_config(record), "Links": _links(engine, record)},
        "GraphDriver": {"Name": record.driver, "Data": engine.driver.graph(record.id)},
        "Mounts": _mounts(record),
        "Config": _config(record),
        "NetworkSettings": _network_settings(engine, record),
    }


def add_own_names(shown: dict[str, Any], record: ContainerRecord) -> None:
    """As clients before API 1.45 know it, which had no DNSNames: a container's ID and its host name
    are among its aliases. docker-compose 1 connects anew who is without."""
    for name, endpoint in shown["NetworkSettings"]["Networks"].items():
        if name not in PREDEFINED:
            own = [*(endpoint["Aliases"] or ()), record.id[:12], record.config.hostname]
            endpoint["Aliases"] = list(dict.fromkeys(alias for alias in own if alias))


def _command(record: ContainerRecord) -> str:
    """Path and arguments on one line; arguments with spaces quoted as Docker does."""
    args = [f"'{arg}'" if " " in arg else arg for arg in record.args[1:]]
    return " ".join([record.args[0], *args])


def _ports(engine: Engine, record: ContainerRecord) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for text, places in _port_map(engine, record).items():
        number, _, kind = text.partition("/")
        inside = {"PrivatePort": int(number), "Type": kind}
        if places is None:
            shown.append(inside)
        for place in places or ():
            public = {"PublicPort": int(place["HostPort"])} if place["HostPort"] else {}
            shown.append({"IP": place["HostIp"], **public, **inside})
    return shown


def summary(engine: Engine, live: Live, version: Version, image_name: str) -> dict[str, Any]:
    """One entry of ``GET /containers/json``."""
    record = live.record
    host: dict[str, Any] = {"NetworkMode": record.host_config.network_mode or "default"}
    if version >= (1, 46) and record.host_config.annotations:
        host["Annotations"] = ordered(record.host_config.annotations)
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image_name,
        "ImageID": record.image_id,
        "Command": _command(record),
        "Created": record.created // 1_000_000_000,
        "Ports": _ports(engine, record),
        "Labels": ordered(record.config.labels) or {},
        "State": live.status,
        "Status": status_text(live, time.time()),
        "HostConfig": host,
        "NetworkSettings": {"Networks": ordered(_networks(engine, record))},
        "Mounts": _mounts(record),
    }


def exec_json(request: Exec) -> dict[str, Any]:
    """``GET /exec/{id}/json``."""
    arguments = list(request.args)
    return {
        "ID": request.id,
        "Running": request.running,
        "ExitCode": request.exit_code,
        "ProcessConfig": {
            "tty": request.tty,
            "entrypoint": arguments[0] if arguments else "",
            "arguments": arguments[1:],
            "privileged": request.privileged,
            "user": request.user,
        },
        "OpenStdin": request.stdin,
        "OpenStderr": request.stderr,
        "OpenStdout": request.stdout,
        "CanRemove": request.exit_code is not None,
        "ContainerID": request.container_id,
        "DetachKeys": request.detach_keys,
        "Pid": request.pid,
    }
