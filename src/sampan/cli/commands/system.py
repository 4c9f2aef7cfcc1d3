"""version and info."""

from __future__ import annotations

import json
import platform
import sys
from typing import TYPE_CHECKING, Any

from sampan import __version__, template
from sampan.cli import autostart
from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["info", "version"]

_FORMAT = [Flag("format", "str", "Format output using a Go template, or 'json'", short="f")]


def version(client: Client, argv: list[str]) -> int:
    """Versions of this client and of the daemon, if one answers."""
    flags = read("version", "[OPTIONS]", "Show the version information", _FORMAT, argv, most=0)
    if flags is None:
        return 0
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    mine = {
        "Version": __version__,
        "ApiVersion": "1.51",
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": machine,
    }
    failure = None
    server: dict[str, Any] | None = None
    try:
        server = client.call("GET", "/version")
    except SampanError as error:
        failure = error
    _print({"Client": mine, "Server": server}, flags.text("format"), _version_text)
    if failure is not None:
        print(f"sampan: {failure.message}", file=sys.stderr)
        return 1
    return 0


def _version_text(data: dict[str, Any]) -> str:
    lines = []
    for side in ("Client", "Server"):
        values = data[side]
        if not values:
            continue
        lines.append(f"{side}: Sampan")
        shown = [("Version", "Version"), ("API version", "ApiVersion"), ("OS/Arch", "Os")]
        for label, key in shown:
            value = f"{values['Os']}/{values['Arch']}" if key == "Os" else values.get(key, "")
            lines.append(f" {label + ':':<20}{value}")
        kernel = values.get("KernelVersion")
        if kernel:
            lines.append(f" {'Kernel version:':<20}{kernel}")
    return "\n".join(lines)


def info(client: Client, argv: list[str]) -> int:
    """What the daemon has and what the machine offers."""
    flags = read("info", "[OPTIONS]", "Display system-wide information", _FORMAT, argv, most=0)
    if flags is None:
        return 0
    autostart.ensure(client.host)
    _print(client.call("GET", "/info"), flags.text("format"), _info_text)
    return 0


_INFO = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Root Dir", "DockerRootDir"),
)


def _info_text(data: dict[str, Any]) -> str:
    lines = [f"{label}: {data[key]}" for label, key in _INFO if data.get(key) not in (None, "")]
    options = data.get("SecurityOptions") or []
    if options:
        lines += ["Security Options:", *(f" {option}" for option in options)]
    lines += [f"WARNING: {text}" for text in data.get("Warnings") or []]
    return "\n".join(lines)


def _print(data: dict[str, Any], layout: str, text: Any) -> None:
    if not layout:
        print(text(data))
    elif layout == "json":
        print(json.dumps(data, separators=(",", ":")))
    else:
        print(template.render(template.parse(layout), data))
