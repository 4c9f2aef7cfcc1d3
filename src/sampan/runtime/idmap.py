"""User namespaces that exist only for their ID mappings: what an idmapped mount is made with.

After mount_setattr(2) ("ID-mapped mounts", Linux 5.12) and user_namespaces(7). In such a mapping
the inside ("containerID") is the ID on disk and the outside ("hostID") the one the machine sees. A
mount entry brings its own mappings, or takes those of the container's user namespace.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import namespaces
from sampan.kernel.clone import clone3

if TYPE_CHECKING:
    from sampan.oci.runtime import IdMapping, Linux, Mount

__all__ = ["UserNamespaces"]

Rows = tuple[tuple[int, int, int], ...]


def _rows(mappings: tuple[IdMapping, ...]) -> Rows:
    return tuple((row.container_id, row.host_id, row.size) for row in mappings)


class UserNamespaces:
    """Descriptors of user namespaces by their mappings; ``close`` releases them all."""

    __slots__ = ("_descriptors", "_joined", "_linux")

    def __init__(self, linux: Linux) -> None:
        self._linux = linux
        self._joined = next(
            (entry.path for entry in linux.namespaces if entry.type == "user" and entry.path), None
        )
        self._descriptors: dict[tuple[Rows, Rows] | str, int] = {}

    def descriptor(self, mount: Mount) -> int:
        """The namespace for ``mount``. ``InvalidArgument``: no mapping, or half of one."""
        uids, gids = mount.uid_mappings, mount.gid_mappings
        if bool(uids) != bool(gids):
            raise InvalidArgument(
                f"mount {mount.destination}: uidMappings and gidMappings come together"
            )
        if not uids:
            uids, gids = self._linux.uid_mappings, self._linux.gid_mappings
        if uids:
            key: tuple[Rows, Rows] | str = (_rows(uids), _rows(gids))
        elif self._joined is not None:
            key = self._joined
        else:
            raise InvalidArgument(
                f"mount {mount.destination}: idmap needs uidMappings and gidMappings of the mount, "
                "or a user namespace of the container"
            )
        if key not in self._descriptors:
            self._descriptors[key] = _open(key) if isinstance(key, str) else create(*key)
        return self._descriptors[key]

    def close(self) -> None:
        """Close every descriptor."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None


def create(uids: Rows, gids: Rows) -> int:
    """A new user namespace with these mappings; its one process is gone when this returns."""
    end, other = os.pipe()
    pid, pidfd = clone3(namespaces.CLONE_NEWUSER)
    if pid == 0:
        os.close(other)
        os.read(end, 1)  # ends when the parent closes its end, or dies
        os._exit(0)
    try:
        namespaces.write_id_map(pid, "uid_map", list(uids))
        namespaces.write_id_map(pid, "gid_map", list(gids))
        return namespaces.open_namespace(pid, "user")
    finally:
        os.close(other)
        os.close(end)
        os.close(pidfd)
        os.waitpid(pid, 0)
