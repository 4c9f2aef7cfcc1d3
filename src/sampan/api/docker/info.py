"""``GET /info``: this machine and this daemon, each field true at the moment it is asked for."""

from __future__ import annotations

import asyncio
import glob
import os
import re
import time
from typing import TYPE_CHECKING, Any

from sampan import __version__
from sampan.api.docker.context import Context, reply
from sampan.engine import log_drivers
from sampan.engine.container import rfc3339
from sampan.kernel.mounts import mountinfo

if TYPE_CHECKING:
    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine
    from sampan.engine.settings import Settings
    from sampan.kernel.cgroups import Hierarchy

__all__ = ["ROUTES"]

_LOOPBACK = ("::1/128", "127.0.0.0/8")


def _os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                pairs = (line.strip().partition("=") for line in file if "=" in line)
                return {name: value.strip("\"'") for name, _, value in pairs}
        except FileNotFoundError:
            continue
    return {}


def _file(hierarchy: Hierarchy, controller: str, v1: str, v2: str) -> bool:
    """The controller is there, with this file (v2: in a group, since its root has none)."""
    tree = hierarchy.controllers.get(controller)
    if tree is None:
        return False
    if tree.version == 1:
        return os.path.exists(f"{tree.mount_point}/{v1}")
    return not v2 or bool(glob.glob(f"{tree.mount_point}/*/{v2}"))


def _limits(hierarchy: Hierarchy) -> dict[str, bool]:
    """Which limits this kernel has."""
    old = hierarchy.kind != "v2"
    return {
        "MemoryLimit": _file(hierarchy, "memory", "memory.limit_in_bytes", ""),
        "SwapLimit": _file(hierarchy, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
        "KernelMemoryTCP": old
        and _file(hierarchy, "memory", "memory.kmem.tcp.limit_in_bytes", "none"),
        "CpuCfsPeriod": _file(hierarchy, "cpu", "cpu.cfs_period_us", ""),
        "CpuCfsQuota": _file(hierarchy, "cpu", "cpu.cfs_quota_us", ""),
        "CPUShares": _file(hierarchy, "cpu", "cpu.shares", ""),
        "CPUSet": "cpuset" in hierarchy.controllers,
        "PidsLimit": "pids" in hierarchy.controllers,
        "OomKillDisable": old and _file(hierarchy, "memory", "memory.oom_control", "none"),
    }


_NAMES = {
    "MemoryLimit": "memory limit",
    "SwapLimit": "swap limit",
    "OomKillDisable": "oom kill disable",
    "CpuCfsPeriod": "cpu cfs period",
    "CpuCfsQuota": "cpu cfs quota",
    "CPUShares": "cpu shares",
    "CPUSet": "cpuset",
    "PidsLimit": "pids limit",
}


def _warnings(engine: Engine, limits: dict[str, bool], forwarding: bool) -> list[str]:
    found = [
        f"WARNING: API is accessible on {place} without a check of who uses it.\n"
        "         Whoever reaches it becomes root on this machine: give --tlsverify."
        for place in engine.settings.exposed
    ]
    old = engine.hierarchy.kind != "v2"
    found += [
        f"WARNING: No {name} support"
        for field, name in _NAMES.items()
        if not limits[field] and (old or field != "OomKillDisable")
    ]
    if not forwarding:
        found.append("WARNING: IPv4 forwarding is disabled")
    return found


def _forwarding() -> bool:
    try:
        with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def _file_system(path: str) -> str:
    """The type of the file system a directory is on."""
    real = os.path.realpath(path)
    best = ("", "unknown")
    for row in mountinfo():
        place = row.mount_point.rstrip("/")
        if (real == place or real.startswith(f"{place}/")) and len(place) >= len(best[0]):
            best = (place, row.fstype)
    return best[1]


def _registries(settings: Settings) -> dict[str, Any]:
    transfers = settings.transfers
    networks = [item for item in transfers.insecure if "/" in item]
    named = [item for item in transfers.insecure if "/" not in item]
    indexes = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in named
    }
    indexes["docker.io"] = {
        "Name": "docker.io",
        "Mirrors": list(transfers.mirrors),
        "Secure": True,
        "Official": True,
    }
    return {
        "InsecureRegistryCIDRs": [*_LOOPBACK, *networks],
        "IndexConfigs": indexes,
        "Mirrors": list(transfers.mirrors),
    }


def _masked(url: str) -> str:
    """A proxy's address without its user's name and password."""
    return re.sub(r"//[^/@]*@", "//xxxxx:xxxxx@", url)


def _security(settings: Settings, names_only: bool) -> list[str]:
    if names_only:
        return ["seccomp"]
    options = [f"name=seccomp,profile={settings.seccomp_profile}"]
    if settings.defaults.no_new_privileges:
        options.append("name=no-new-privileges")
    return [*options, "name=cgroupns"]


def _of_old(version: tuple[int, int]) -> dict[str, Any]:
    """Fields that the API had once, and clients of its time look for."""
    fields: dict[str, Any] = {}
    if version < (1, 50):
        fields |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if version < (1, 42):
        fields["KernelMemory"] = False
    if version < (1, 25):
        fields["ExecutionDriver"] = "<not supported>"
    return fields


async def info(context: Context) -> Answer:
    engine = context.engine
    settings = engine.settings
    system, release = os.uname(), _os_release()
    statuses = [live.record.state.status for live in engine.registry]
    paused, running = statuses.count("paused"), statuses.count("running")
    images = await engine.images.select({})
    limits, forwarding = _limits(engine.hierarchy), _forwarding()
    transfers = settings.transfers
    foreign = await asyncio.to_thread(engine.networking.networks.warnings)
    return reply(
        {
            "ID": engine.identity,
            "Containers": len(statuses),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(statuses) - running - paused,
            "Images": len(images),
            "Driver": engine.driver.name,
            "DriverStatus": [["Backing Filesystem", _file_system(settings.data_root)]],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": sorted(log_drivers.DRIVERS),
            },
            **limits,
            "IPv4Forwarding": forwarding,
            "Debug": settings.debug,
            # Of a daemon's insides, as dockerd, in debug mode only.
            "NFd": len(os.listdir("/proc/self/fd")) if settings.debug else 0,
            "NGoroutines": len(asyncio.all_tasks()) if settings.debug else 0,
            "NEventsListener": sum(1 for _ in engine.events) if settings.debug else 0,
            "SystemTime": rfc3339(time.time_ns()),
            "LoggingDriver": settings.defaults.log_driver,
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if engine.hierarchy.kind == "v2" else "1",
            "KernelVersion": system.release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": system.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": _registries(settings),
            "NCPU": len(os.sched_getaffinity(0)),
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": settings.data_root,
            "HttpProxy": _masked(transfers.http_proxy),
            "HttpsProxy": _masked(transfers.https_proxy),
            "NoProxy": transfers.no_proxy,
            "Name": system.nodename,
            "Labels": list(settings.labels),
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"sampan": {"path": "sampan-runtime"}},
            "DefaultRuntime": "sampan",
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "sampan",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": _security(settings, context.version < (1, 25)),
            "CDISpecDirs": [],
            **_of_old(context.version),
            "Warnings": [*_warnings(engine, limits, forwarding), *foreign] or None,
        }
    )


ROUTES = (("GET", "/info", info),)
