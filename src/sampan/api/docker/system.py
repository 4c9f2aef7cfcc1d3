"""The API's tag *System*: ping, version, info."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

from sampan import __version__
from sampan.api.docker import versions
from sampan.api.docker.context import Context, reply
from sampan.api.http.messages import Response
from sampan.engine.container import rfc3339

if TYPE_CHECKING:
    from sampan.api.http.connection import Answer
    from sampan.engine.core import Engine

__all__ = ["ROUTES"]

_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


async def ping(context: Context) -> Answer:
    """Clients begin with this; ``Builder-Version`` 1 means: the daemon has no BuildKit."""
    return Response(
        200,
        b"" if context.request.method == "HEAD" else b"OK",
        "text/plain; charset=utf-8",
        {
            "Builder-Version": "1",
            "Swarm": "inactive",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
        },
    )


async def version(context: Context) -> Answer:
    system = os.uname()
    machine = _GO_MACHINES.get(system.machine, system.machine)
    common = {
        "ApiVersion": versions.text(versions.MAXIMUM),
        "MinAPIVersion": versions.text(versions.MINIMUM),
        "GitCommit": "",
        "GoVersion": f"Python {platform.python_version()}",
        "Os": "linux",
        "Arch": machine,
        "KernelVersion": system.release,
        "BuildTime": "",
    }
    details = {**common, "Experimental": "false"}
    return reply(
        {
            "Platform": {"Name": "Sampan"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            **common,
            "Experimental": False,
        }
    )


def _os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                pairs = (line.strip().partition("=") for line in file if "=" in line)
                return {name: value.strip("\"'") for name, _, value in pairs}
        except FileNotFoundError:
            continue
    return {}


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _identity(engine: Engine) -> str:
    """Stable for a data root, and different for two of them."""
    import hashlib

    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            machine = file.read().strip()
    except FileNotFoundError:
        machine = os.uname().nodename
    text = f"{machine}:{os.path.realpath(engine.settings.data_root)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _plugins(engine: Engine) -> dict[str, Any]:
    return {
        "Volume": ["local"],
        "Network": ["host", "none"],
        "Authorization": None,
        "Log": ["json-file", "none"],
    }


async def info(context: Context) -> Answer:
    engine = context.engine
    system, release = os.uname(), _os_release()
    statuses = [live.record.state.status for live in engine.registry]
    controllers = engine.hierarchy.controllers
    paused, running = statuses.count("paused"), statuses.count("running")
    images = await engine.images.select({})
    return reply(
        {
            "ID": _identity(engine),
            "Containers": len(statuses),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(statuses) - running - paused,
            "Images": len(images),
            "Driver": engine.driver.name,
            "DriverStatus": [],
            "Plugins": _plugins(engine),
            "MemoryLimit": "memory" in controllers,
            "SwapLimit": "memory" in controllers,
            "CpuCfsPeriod": "cpu" in controllers,
            "CpuCfsQuota": "cpu" in controllers,
            "CPUShares": "cpu" in controllers,
            "CPUSet": "cpuset" in controllers,
            "PidsLimit": "pids" in controllers,
            "OomKillDisable": engine.hierarchy.kind != "v2" and "memory" in controllers,
            "IPv4Forwarding": _forwarding(),
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": 1,
            "SystemTime": rfc3339(time.time_ns()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if engine.hierarchy.kind == "v2" else "1",
            "NEventsListener": sum(1 for _ in engine.events),
            "KernelVersion": system.release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": system.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "InsecureRegistryCIDRs": [],
                "IndexConfigs": {},
                "Mirrors": [],
            },
            "NCPU": os.cpu_count() or 1,
            "MemTotal": _memory(),
            "GenericResources": None,
            "DockerRootDir": engine.settings.data_root,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": system.nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"sampan": {"path": "sampan-runtime"}},
            "DefaultRuntime": "sampan",
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "Error": ""},
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "sampan",
            "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": "", "Expected": ""},
            "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "Warnings": _warnings(engine),
        }
    )


def _forwarding() -> bool:
    try:
        with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def _warnings(engine: Engine) -> list[str] | None:
    missing = [
        f"WARNING: No {name} cgroup controller"
        for name in ("memory", "cpu", "cpuset", "pids")
        if name not in engine.hierarchy.controllers
    ]
    return missing or None


ROUTES = (
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
)
