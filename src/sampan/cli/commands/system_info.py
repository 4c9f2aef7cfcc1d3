"""The text of ``info``."""

from __future__ import annotations

from typing import Any

from sampan.cli.output import binary_size

__all__ = ["describe"]


def describe(client: dict[str, Any], server: dict[str, Any]) -> str:
    """Both sides, a fact a line, in the order Docker's users know."""
    lines = [
        "Client: Sampan",
        f" Version:    {client['Version']}",
        f" Context:    {client['Context']}",
        f" Debug Mode: {_word(client['Debug'])}",
        "",
        "Server:",
    ]
    for part in (_counts, _storage, _drivers, _runtimes, _security, _machine, _rest):
        lines += [f" {line}" for line in part(server)]
    return "\n".join([*lines, ""])


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _counts(server: dict[str, Any]) -> list[str]:
    return [
        f"Containers: {server.get('Containers', 0)}",
        f" Running: {server.get('ContainersRunning', 0)}",
        f" Paused: {server.get('ContainersPaused', 0)}",
        f" Stopped: {server.get('ContainersStopped', 0)}",
        f"Images: {server.get('Images', 0)}",
        *_facts(server, (("Server Version", "ServerVersion"),)),
    ]


def _facts(server: dict[str, Any], wanted: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"{label}: {_word(server[key])}" for label, key in wanted if server.get(key)]


def _storage(server: dict[str, Any]) -> list[str]:
    lines = [f"Storage Driver: {server.get('Driver', '')}"]
    lines += [f" {label}: {value}" for label, value in server.get("DriverStatus") or []]
    for label, value in server.get("SystemStatus") or []:
        lines.append(f"{label}: {value}")
    wanted = (
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    )
    return lines + _facts(server, wanted)


def _drivers(server: dict[str, Any]) -> list[str]:
    plugins = server.get("Plugins") or {}
    lines = ["Plugins:"]
    for kind in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(kind) or kind in ("Volume", "Network", "Log"):
            lines.append(f" {kind}: {' '.join(plugins.get(kind) or [])}")
    devices = server.get("CDISpecDirs") or []
    if devices:
        lines += ["CDI spec directories:", *(f"  {directory}" for directory in devices)]
    return lines


def _runtimes(server: dict[str, Any]) -> list[str]:
    swarm = (server.get("Swarm") or {}).get("LocalNodeState") or "inactive"
    lines = [f"Swarm: {swarm}"]
    runtimes = server.get("Runtimes") or {}
    if runtimes:
        lines.append(f"Runtimes: {' '.join(sorted(runtimes))}")
        lines += _facts(server, (("Default Runtime", "DefaultRuntime"),))
    lines += _facts(server, (("Init Binary", "InitBinary"),))
    for label, key in (
        ("containerd", "ContainerdCommit"),
        ("runc", "RuncCommit"),
        ("init", "InitCommit"),
    ):
        commit = (server.get(key) or {}).get("ID")
        if commit:
            lines.append(f"{label} version: {commit}")
    return lines


def _security(server: dict[str, Any]) -> list[str]:
    options = server.get("SecurityOptions") or []
    lines = ["Security Options:"] if options else []
    for option in options:
        keys = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f" {keys.pop('name', option)}")
        lines += [f"  {key.capitalize()}: {value}" for key, value in keys.items()]
    return lines


def _machine(server: dict[str, Any]) -> list[str]:
    lines = _facts(
        server,
        (
            ("Kernel Version", "KernelVersion"),
            ("Operating System", "OperatingSystem"),
            ("OSType", "OSType"),
            ("Architecture", "Architecture"),
        ),
    )
    return [
        *lines,
        f"CPUs: {server.get('NCPU', 0)}",
        f"Total Memory: {binary_size(server.get('MemTotal') or 0)}",
        f"Name: {server.get('Name', '')}",
        f"ID: {server.get('ID', '')}",
        f"Docker Root Dir: {server.get('DockerRootDir', '')}",
        f"Debug Mode: {_word(bool(server.get('Debug')))}",
    ]


def _rest(server: dict[str, Any]) -> list[str]:
    lines = []
    if server.get("Debug"):
        lines = [
            f" File Descriptors: {server.get('NFd', 0)}",
            f" Goroutines: {server.get('NGoroutines', 0)}",
            f" System Time: {server.get('SystemTime', '')}",
            f" EventsListeners: {server.get('NEventsListener', 0)}",
        ]
    proxies = (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"))
    lines += _facts(server, proxies)
    labels = server.get("Labels") or []
    lines += ["Labels:", *(f" {label}" for label in labels)] if labels else []
    lines.append(f"Experimental: {_word(bool(server.get('ExperimentalBuild')))}")
    registries = server.get("RegistryConfig") or {}
    insecure = [
        name
        for name, config in sorted((registries.get("IndexConfigs") or {}).items())
        if not config.get("Secure", True)
    ] + list(registries.get("InsecureRegistryCIDRs") or [])
    lines += ["Insecure Registries:", *(f" {name}" for name in insecure)] if insecure else []
    mirrors = registries.get("Mirrors") or []
    lines += ["Registry Mirrors:", *(f" {mirror}" for mirror in mirrors)] if mirrors else []
    lines.append(f"Live Restore Enabled: {_word(bool(server.get('LiveRestoreEnabled')))}")
    lines += _facts(server, (("Product License", "ProductLicense"),))
    return lines
