"""``spec``: a ``config.json`` to start from: a shell in ``rootfs``, with the usual protections."""

from __future__ import annotations

import json
import os
from errno import EEXIST
from typing import TYPE_CHECKING

from sampan.errors import AlreadyExists, KernelError
from sampan.oci.runtime import SPEC_VERSION

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run", "template"]

_KEPT = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def run(_: Context, parsed: Parsed) -> int:
    path = os.path.join(parsed.text("bundle") or ".", "config.json")
    text = json.dumps(template(rootless=parsed.flag("rootless")), indent=4) + "\n"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if error.errno == EEXIST:
            raise AlreadyExists(f"{path} exists already: remove it first") from None
        raise KernelError("open", error.errno or 0, path) from None
    return 0


def template(*, rootless: bool) -> dict[str, object]:
    """The configuration as JSON; ``rootless``: mapped to the calling user, without its networks."""
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, object] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if rootless:
        kinds = [kind for kind in kinds if kind != "network"] + ["user"]
        linux |= {
            "resources": {},
            "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
        }
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _KEPT),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "sampan",
        "mounts": _mounts(rootless),
        "linux": linux,
    }


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, object]:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }


def _mounts(rootless: bool) -> list[dict[str, object]]:
    safe = ("nosuid", "noexec", "nodev")
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    sys = _mount("/sys", "sysfs", "sysfs", *safe, "ro")
    if rootless:
        # A group that is not mapped cannot own the terminals; a sysfs belongs to the network
        # namespace, which is not the user's.
        terminals.remove("gid=5")
        sys = _mount("/sys", "none", "/sys", "rbind", *safe, "ro")
    mounts = [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *terminals),
        _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        sys,
    ]
    if not rootless:
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", "ro"))
    return mounts
