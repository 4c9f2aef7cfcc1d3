"""What a container may do: capabilities, security options, masked paths, device access.

The defaults are Docker's, so that what runs there runs here: fourteen capabilities, seven
devices, the paths of procfs and sysfs that would show or change the machine. See capabilities(7),
cgroups(7) and the runtime specification's "Default Devices".
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.capabilities import NAMES, last_supported
from sampan.oci.runtime import Device, DeviceRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.engine.config import DeviceMapping, HostConfig

__all__ = [
    "DEFAULT_CAPABILITIES",
    "DEFAULT_DEVICE_RULES",
    "MASKED_PATHS",
    "READONLY_PATHS",
    "SecurityOptions",
    "all_capabilities",
    "capabilities",
    "device_rules",
    "devices",
    "every_device",
    "hidden_paths",
    "read_security",
]

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)

READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


def _allow(kind: str, major: int | None, minor: int | None, access: str = "rwm") -> DeviceRule:
    return DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)


# Any node may be made (mknod), few may be opened.
DEFAULT_DEVICE_RULES = (
    DeviceRule(allow=False, access="rwm"),
    _allow("c", None, None, "m"),
    _allow("b", None, None, "m"),
    _allow("c", 1, 3),  # null
    _allow("c", 1, 5),  # zero
    _allow("c", 1, 7),  # full
    _allow("c", 1, 8),  # random
    _allow("c", 1, 9),  # urandom
    _allow("c", 5, 0),  # tty
    _allow("c", 5, 1),  # console
    _allow("c", 5, 2),  # ptmx
    _allow("c", 136, None),  # pts
)
_ALL_DEVICES = (DeviceRule(allow=True, access="rwm"),)


def _capability(name: str, field: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in NAMES:
        raise InvalidArgument(f'invalid {field}: unknown capability: "{name}"')
    return full


def all_capabilities() -> tuple[str, ...]:
    """Every capability this kernel knows, by name."""
    return tuple(NAMES[: last_supported() + 1])


def capabilities(host: HostConfig) -> tuple[str, ...]:
    """The container's capabilities by name, in the order of their numbers."""
    every = all_capabilities()
    adds = {_capability(name, "CapAdd") for name in host.cap_add or ()}
    drops = {_capability(name, "CapDrop") for name in host.cap_drop or ()}
    if host.privileged:
        return every
    base: set[str] = set() if "ALL" in drops else set(DEFAULT_CAPABILITIES)
    if "ALL" in adds:
        base = set(every)
    base = (base - (drops - adds)) | (adds - {"ALL"})
    if "ALL" in adds:
        base -= drops
    return tuple(name for name in NAMES if name in base)


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``seccomp``: None for the default profile, "unconfined", or a profile's JSON text."""

    seccomp: str | None = None
    no_new_privileges: bool = False
    unmasked: bool = False
    writable_cgroups: bool = False


def _boolean(text: str, option: str) -> bool:
    if text.lower() in ("", "true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise InvalidArgument(f"invalid --security-opt {option}: {text} is not true or false")


def read_security(options: Iterable[str]) -> SecurityOptions:
    """Check ``HostConfig.SecurityOpt``. Raises InvalidArgument, NotSupported."""
    found: dict[str, str | bool] = {}
    for option in options:
        cut = re.match(r"([a-z-]+)(?:[=:](.*))?\Z", option, re.DOTALL)
        name, value = (cut[1], cut[2] or "") if cut else (option, "")
        if name == "no-new-privileges":
            found["no_new_privileges"] = _boolean(value, name)
        elif name == "writable-cgroups":
            found["writable_cgroups"] = _boolean(value, name)
        elif name == "seccomp":
            if value != "builtin":
                found["seccomp"] = value
        elif name == "systempaths" and value == "unconfined":
            found["unmasked"] = True
        elif (name, value) not in (("apparmor", "unconfined"), ("label", "disable")):
            if name in ("apparmor", "label", "systempaths"):
                raise NotSupported(f"HostConfig.SecurityOpt {option!r} is not supported")
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return msgspec.convert(found, SecurityOptions)


_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})\Z")
# Made by the runtime for every container, or a view of the machine's own processes and terminals.
_NOT_GIVEN = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}


def hidden_paths(host: HostConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is masked in a container, and what is read-only."""
    masked: tuple[str, ...] = MASKED_PATHS
    readonly: tuple[str, ...] = READONLY_PATHS
    if host.privileged or read_security(host.security_opt or ()).unmasked:
        masked = readonly = ()
    if host.masked_paths is not None:
        masked = tuple(host.masked_paths)
    if host.readonly_paths is not None:
        readonly = tuple(host.readonly_paths)
    return masked, readonly


def device_rules(host: HostConfig, given: Iterable[tuple[Device, str]]) -> tuple[DeviceRule, ...]:
    """Rules of the device cgroup: the defaults, the devices ``given``, the user's own rules."""
    if host.privileged:
        return _ALL_DEVICES
    rules = list(DEFAULT_DEVICE_RULES)
    rules += (_allow(device.type, device.major, device.minor, access) for device, access in given)
    for text in host.device_cgroup_rules or ():
        match = _RULE.match(text)
        if match is None:
            raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
        major, minor = (None if part == "*" else int(part) for part in (match[2], match[3]))
        rules.append(_allow(match[1], major, minor, match[4]))
    return tuple(rules)


def _device(path: str, inside: str) -> Device | None:
    """The node at ``path`` as a device of the container at ``inside``; None: not a device."""
    status = os.stat(path)
    if stat.S_ISBLK(status.st_mode):
        kind = "b"
    elif stat.S_ISCHR(status.st_mode):
        kind = "c"
    else:
        return None
    return Device(
        type=kind,
        path=inside,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def devices(mappings: Iterable[DeviceMapping]) -> list[tuple[Device, str]]:
    """``--device``: each node with its access, and every node below a directory.

    Raises InvalidArgument, NotFound.
    """
    found: list[tuple[Device, str]] = []
    for mapping in mappings:
        outer, access = mapping.path_on_host, mapping.cgroup_permissions or "rwm"
        inner = mapping.path_in_container or outer
        if "\0" in outer or "\0" in inner:
            raise InvalidArgument(f"device {outer!r} at {inner!r}: contains a NUL character")
        if not set(access) <= set("rwm"):
            raise InvalidArgument(f"invalid device mode {access!r} of {outer}: use r, w and m")
        try:
            if os.path.isdir(outer):
                below = list(_nodes(outer, inner))
                if not below:
                    raise InvalidArgument(f"no device node is below {outer}")
                found += ((device, access) for device in below)
                continue
            device = _device(outer, inner)
        except FileNotFoundError as error:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{outer}": '
                "no such file or directory"
            ) from error
        if device is None:
            raise InvalidArgument(f"{outer} is not a device node")
        found.append((device, access))
    return found


def _nodes(outer: str, inner: str) -> Iterable[Device]:
    with os.scandir(outer) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.name in _NOT_GIVEN or entry.is_symlink():
                continue
            place = f"{inner}/{entry.name}"
            if entry.is_dir():
                yield from _nodes(entry.path, place)
                continue
            device = _device(entry.path, place)
            if device is not None:
                yield device


def every_device() -> list[tuple[Device, str]]:
    """What ``--privileged`` gives: the machine's device nodes."""
    return [(device, "rwm") for device in _nodes("/dev", "/dev")]
