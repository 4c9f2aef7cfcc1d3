"""What create meant in older versions of the API.

A client that speaks an old version was written against its defaults, and sends fields that did not
exist in it at most by accident: they are ignored where Docker ignores them, and refused where
ignoring them would be dangerous. The table of changes is in the API's version history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.api.docker.versions import Version
    from sampan.engine.config import CreateRequest, HostConfig, MountRequest

__all__ = ["of_version"]


def _mount(mount: MountRequest, version: Version) -> MountRequest:
    bind, volume = mount.bind_options, mount.volume_options
    if version < (1, 48) and mount.type == "image":
        raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')
    if version < (1, 45) and volume is not None and volume.subpath:
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 44) and bind is not None and bind.read_only_force_recursive:
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    changes: dict[str, Any] = {}
    if version < (1, 42):
        if bind is not None:
            bind = replace(bind, create_mountpoint=False)
            changes["bind_options"] = bind
        if mount.type != "volume":
            changes["volume_options"] = None
        if mount.type != "tmpfs":
            changes["tmpfs_options"] = None
    if version < (1, 40) and bind is not None:
        changes["bind_options"] = replace(bind, non_recursive=False)
    return replace(mount, **changes) if changes else mount


def _host(host: HostConfig, version: Version, *, unified: bool) -> HostConfig:
    changes: dict[str, Any] = {}
    if host.mounts and version < (1, 48):
        changes["mounts"] = [_mount(mount, version) for mount in host.mounts]
    if version < (1, 43):
        changes["annotations"] = {}
    if version < (1, 42):
        changes["console_size"] = (0, 0)
    if version < (1, 41) and not host.cgroupns_mode and not unified:
        changes["cgroupns_mode"] = "host"
    if version < (1, 40) and not host.ipc_mode:
        changes["ipc_mode"] = "shareable"
    if version < (1, 25):
        # The client removed the container itself.
        changes["auto_remove"] = False
    return replace(host, **changes) if changes else host


def of_version(request: CreateRequest, version: Version, *, unified: bool) -> CreateRequest:
    """``request`` as its version meant it; ``unified`` says whether this is a cgroup v2 machine.

    Raises InvalidArgument.
    """
    if version >= (1, 48):
        return request
    config = request.config
    if version < (1, 44) and config.healthcheck is not None:
        config = replace(config, healthcheck=replace(config.healthcheck, start_interval=0))
    return replace(
        request,
        config=config,
        host_config=_host(request.host_config, version, unified=unified),
        deep_read_only=version >= (1, 44),
    )
