"""What a container's bind mounts come from, looked at before each start.

A source that is missing is made where the request allows it (``-v``, ``create-mountpoint``), as
Docker does. ``shared`` and ``slave`` mean something only if the mount the source lies on is shared
(mount_namespaces(7)): one that is not would silently propagate nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.kernel.mounts import mountinfo

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord, UserMount
    from sampan.kernel.mounts import MountInfo

__all__ = ["check_sources"]


def check_sources(record: ContainerRecord, data_root: str) -> None:
    """Raises InvalidArgument, in Docker's words."""
    for mount in record.mounts:
        if mount.type != "bind":
            continue
        if not os.path.lexists(mount.source):
            _make(mount)
        kind = mount.propagation.removeprefix("r")
        # Near the data root "slave" is our own default, and no promise to anybody.
        own = f"{data_root}/".startswith(f"{mount.source.rstrip('/')}/")
        if kind in ("shared", "slave") and not own:
            _check_propagation(mount, kind)


def _make(mount: UserMount) -> None:
    if not mount.make_source:
        raise InvalidArgument(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        )
    try:
        os.makedirs(mount.source, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"error while creating mount source path '{mount.source}': {error.strerror}"
        ) from error


def _check_propagation(mount: UserMount, kind: str) -> None:
    on = _mount_of(os.path.realpath(mount.source))
    if on.shared is not None or (kind == "slave" and on.master is not None):
        return
    wanted = "shared" if kind == "shared" else "shared or slave"
    raise InvalidArgument(
        f"path {mount.source} is mounted on {on.mount_point} but it is not a {wanted} mount"
    )


def _mount_of(path: str) -> MountInfo:
    """The mount that ``path`` lies on; of several at one place the last covers the others."""
    found = [
        row
        for row in mountinfo()
        if row.mount_point == "/" or f"{path}/".startswith(f"{row.mount_point}/")
    ]
    return max(enumerate(found), key=lambda item: (len(item[1].mount_point), item[0]))[1]
