"""``--mount`` and ``--volume`` as the API's mounts and binds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sampan.cli.container_values import fields
from sampan.cli.flags import UsageError, number

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = ["mounts", "volumes"]

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
# key: the options object it belongs to, its field, how it is read
_OPTIONS: dict[str, tuple[str, str, str]] = {
    "bind-propagation": ("BindOptions", "Propagation", "text"),
    "bind-nonrecursive": ("BindOptions", "NonRecursive", "bool"),
    "bind-create-mountpoint": ("BindOptions", "CreateMountpoint", "bool"),
    "image-subpath": ("ImageOptions", "Subpath", "text"),
    "tmpfs-mode": ("TmpfsOptions", "Mode", "octal"),
    "tmpfs-size": ("TmpfsOptions", "SizeBytes", "bytes"),
    "volume-label": ("VolumeOptions", "Labels", "pair"),
    "volume-nocopy": ("VolumeOptions", "NoCopy", "bool"),
    "volume-subpath": ("VolumeOptions", "Subpath", "text"),
}
_OWNERS = {"BindOptions": "bind", "ImageOptions": "image"}
_OWNERS |= {"TmpfsOptions": "tmpfs", "VolumeOptions": "volume"}
_RECURSION = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}


def volumes(flags: Values) -> tuple[list[str], dict[str, Any]]:
    """``-v``: binds as they are, relative sources made absolute, and nameless volumes."""
    binds: list[str] = []
    anonymous: dict[str, Any] = {}
    for item in flags.items("volume"):
        source, colon, rest = item.partition(":")
        if not colon:
            anonymous[item] = {}
            continue
        if not source or not rest.partition(":")[0]:
            raise UsageError(f"--volume: {item}: expected [SOURCE:]PATH[:OPTIONS]")
        if source.startswith("."):
            source = os.path.abspath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous


def mounts(items: list[str]) -> list[dict[str, Any]]:
    """``--mount``, each."""
    return [_mount(item) for item in items]


def _mount(item: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume", "Source": "", "Target": ""}
    for part in fields(item, "--mount"):
        key, equals, value = part.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals and key not in ("readonly", "volume-nocopy", "bind-nonrecursive"):
            raise UsageError(f"--mount: {item}: {part!r}: expected key=value")
        if key in ("type", "source", "target"):
            mount[key.capitalize()] = value.lower() if key == "type" else value
        elif key == "readonly":
            mount["ReadOnly"] = _boolean(item, part)
        elif key == "consistency":
            mount["Consistency"] = value
        elif key == "bind-recursive":
            if value not in _RECURSION:
                raise UsageError(f"--mount: {part}: expected {', '.join(_RECURSION)}")
            mount.setdefault("BindOptions", {}).update(_RECURSION[value])
        elif key == "volume-driver":
            _driver(mount)["Name"] = value
        elif key == "volume-opt":
            name, _, setting = value.partition("=")
            _driver(mount).setdefault("Options", {})[name] = setting
        elif key in _OPTIONS:
            _option(mount, item, key, part)
        else:
            raise UsageError(f"--mount: {item}: unknown option {key}")
    return _checked(item, mount)


def _driver(mount: dict[str, Any]) -> dict[str, Any]:
    driver: dict[str, Any] = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
    return driver


def _option(mount: dict[str, Any], item: str, key: str, part: str) -> None:
    owner, field, kind = _OPTIONS[key]
    value = part.partition("=")[2]
    options = mount.setdefault(owner, {})
    if kind == "bool":
        options[field] = _boolean(item, part)
    elif kind == "bytes":
        options[field] = number("bytes", value, f"--mount {key}")
    elif kind == "octal":
        try:
            options[field] = int(value, 8)
        except ValueError:
            raise UsageError(f"--mount: {part}: expected an octal mode such as 1770") from None
    elif kind == "pair":
        name, _, setting = value.partition("=")
        options.setdefault(field, {})[name] = setting
    else:
        options[field] = value


def _boolean(item: str, part: str) -> bool:
    _, equals, value = part.partition("=")
    if not equals or value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise UsageError(f"--mount: {item}: {part}: expected true or false")


def _checked(item: str, mount: dict[str, Any]) -> dict[str, Any]:
    if not mount["Target"]:
        raise UsageError(f"--mount: {item}: target is required")
    for owner, kind in _OWNERS.items():
        if owner in mount and mount["Type"] != kind:
            raise UsageError(f"--mount: {item}: {kind}-… options are for type={kind}")
    bind = mount.get("BindOptions", {})
    if {"ReadOnlyNonRecursive", "ReadOnlyForceRecursive"} & set(bind) and not mount.get("ReadOnly"):
        raise UsageError(f"--mount: {item}: bind-recursive=writable|readonly needs readonly")
    if "ReadOnlyForceRecursive" in bind and bind.get("Propagation") != "rprivate":
        raise UsageError(
            f"--mount: {item}: bind-recursive=readonly needs bind-propagation=rprivate"
        )
    if mount["Type"] == "bind" and mount["Source"].startswith("."):
        mount["Source"] = os.path.abspath(mount["Source"])
    return mount
