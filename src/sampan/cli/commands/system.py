"""version and info."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any

from sampan import __version__
from sampan.cli import autostart
from sampan.cli.client import API_VERSION
from sampan.cli.commands.common import TEMPLATE, read, report
from sampan.cli.output import warn
from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.client import Client

__all__ = ["info", "version"]


def version(client: Client, argv: list[str]) -> int:
    """Versions of this client and of the daemon, if one answers."""
    summary = "Show the versions of client and daemon"
    flags = read("version", "[OPTIONS]", summary, [TEMPLATE], argv, most=0)
    if flags is None:
        return 0
    failure = None
    server: dict[str, Any] | None = None
    spoken = API_VERSION
    try:
        server = client.call("GET", "/version")
        spoken = client.api_version
    except SampanError as error:
        failure = error
    mine = {
        "Version": __version__,
        "ApiVersion": spoken,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": _machine(),
        "Context": client.settings.context_name(),
    }
    _print({"Client": mine, "Server": server}, flags.text("format"), _version_text)
    if failure is not None:
        report(failure)
        return 1
    return 0


def _machine() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _version_text(data: dict[str, Any]) -> str:
    mine, server = data["Client"], data["Server"]
    rows = [
        ("Version", mine["Version"]),
        ("API version", mine["ApiVersion"]),
        ("Python version", mine["PythonVersion"]),
        ("OS/Arch", f"{mine['Os']}/{mine['Arch']}"),
        ("Context", mine["Context"]),
    ]
    if mine["ApiVersion"] != mine["DefaultAPIVersion"]:
        rows[1] = ("API version", f"{mine['ApiVersion']} (newest {mine['DefaultAPIVersion']})")
    lines = ["Client: Sampan", *(f" {label + ':':<18} {value}" for label, value in rows)]
    if server:
        lines += ["", *_server_text(server)]
    return "\n".join(lines)


def _server_text(server: dict[str, Any]) -> list[str]:
    name = (server.get("Platform") or {}).get("Name") or ""
    lines = [f"Server: {name}".rstrip()]
    for component in server.get("Components") or []:
        details = component.get("Details") or {}
        lines += [f" {component['Name']}:", f"  {'Version:':<17} {component['Version']}"]
        rows = [
            ("API version", _api_versions(details)),
            ("Python version", details.get("GoVersion", "").removeprefix("Python ")),
            ("Git commit", details.get("GitCommit")),
            ("Built", details.get("BuildTime")),
            ("OS/Arch", f"{details['Os']}/{details.get('Arch')}" if details.get("Os") else ""),
            ("Kernel version", details.get("KernelVersion")),
            ("Experimental", details.get("Experimental")),
        ]
        if "Python" not in details.get("GoVersion", ""):
            rows[1] = ("Go version", details.get("GoVersion"))
        lines += [f"  {label + ':':<17} {value}" for label, value in rows if value]
    return lines


def _api_versions(details: dict[str, Any]) -> str:
    newest, oldest = details.get("ApiVersion"), details.get("MinAPIVersion")
    return f"{newest} (oldest {oldest})" if newest and oldest else newest or ""


def info(client: Client, argv: list[str]) -> int:
    """What the daemon has and what the machine offers."""
    summary = "Show what the daemon has and what the machine offers"
    flags = read("info", "[OPTIONS]", summary, [TEMPLATE], argv, most=0)
    if flags is None:
        return 0
    autostart.ensure(client.host)
    layout = flags.text("format")
    server = client.call("GET", "/info")
    mine = {
        "Debug": client.settings.debug,
        "Context": client.settings.context_name(),
        "Plugins": [],
        "Warnings": None,
        "Version": __version__,
        "DefaultAPIVersion": API_VERSION,
        "Os": "linux",
        "Arch": _machine(),
    }
    if layout:
        _print({**server, "ClientInfo": mine}, layout, str)
    else:
        from sampan.cli.commands.system_info import describe

        print(describe(mine, server))
    for warning in (server.get("Warnings") or []) if not layout else []:
        warn(warning)
    errors = server.get("ServerErrors") or []
    for error in errors:
        print(f"ERROR: {error}", file=sys.stderr)
    return 1 if errors else 0


def _print(data: dict[str, Any], layout: str, text: Callable[[dict[str, Any]], str]) -> None:
    if not layout:
        print(text(data))
        return
    from sampan import template
    from sampan.cli.shapes import shaped

    parsed = template.parse("{{json .}}" if layout == "json" else template.unescape(layout))
    print(template.render(parsed, shaped(data)))
