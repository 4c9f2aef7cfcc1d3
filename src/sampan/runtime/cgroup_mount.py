"""The ``cgroup`` mount of a container: its own part of the tree, as this machine's version has it.

After the runtime specification ("Linux", mounts of type cgroup), cgroups(7) and
cgroup_namespaces(7). On v2 one mount; on v1 a small tmpfs with a directory per hierarchy, named as
on the host, and a link for each controller of one that is mounted together with others; on a
hybrid machine the same, and the v2 tree at ``unified``.

With a cgroup namespace of the container's own, new mounts show the namespace's root. Without, the
container's group is bound from the host's mounts. Both leave nothing above the group in reach.
"""

from __future__ import annotations

import os
from errno import EEXIST
from typing import TYPE_CHECKING

from sampan.errors import KernelError, NotSupported
from sampan.kernel import mounts as km
from sampan.kernel.syscalls import AT_FDCWD

if TYPE_CHECKING:
    from sampan.runtime.mount import Plan

__all__ = ["mount"]

_SAFE = km.MOUNT_ATTR_NOSUID | km.MOUNT_ATTR_NODEV | km.MOUNT_ATTR_NOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount(plan: Plan, target: int, own_namespace: bool) -> None:
    """Put the container's view of its cgroup on the directory ``target``.

    It hides nothing and gives nothing: what may be written is decided by ``ro`` among the options.
    ``NotSupported``: no cgroup file system is mounted on this machine.
    """
    mounts = _mounts()
    v1 = [entry for entry in mounts if entry.fstype == "cgroup"]
    v2 = [entry for entry in mounts if entry.fstype == "cgroup2"]
    if not mounts:
        raise NotSupported(
            f"mount {plan.destination}: this machine has no cgroup file system mounted"
        )
    attributes = plan.options.set | plan.options.recursive_set
    if not v1:
        _attach(_tree(v2[0], own_namespace, attributes), target)
        return
    top = _top(attributes)
    try:
        _attach(top, target, keep=True)
        for entry in (*v1, *v2[:1]):
            _add(top, entry, own_namespace, attributes)
        if attributes & km.MOUNT_ATTR_RDONLY:
            km.mount_setattr(top, "", 0, km.MOUNT_ATTR_RDONLY)
    finally:
        os.close(top)


def _mounts() -> list[km.MountInfo]:
    """The host's cgroup mounts, one per hierarchy: the first that shows the most of it."""
    found: dict[tuple[int, int], km.MountInfo] = {}
    for entry in km.mountinfo():
        if entry.fstype in ("cgroup", "cgroup2"):
            known = found.setdefault((entry.major, entry.minor), entry)
            if len(entry.root) < len(known.root):
                found[(entry.major, entry.minor)] = entry
    return list(found.values())


def _top(attributes: int) -> int:
    """The tmpfs that holds the hierarchies' directories."""
    context = km.fsopen("tmpfs")
    try:
        km.fsconfig_string(context, "source", "tmpfs")
        km.fsconfig_string(context, "mode", "755")
        km.fsconfig_create(context)
        kept = attributes & (km.MOUNT_ATTR__ATIME | km.MOUNT_ATTR_NODIRATIME)
        return km.fsmount(context, _SAFE | kept)
    finally:
        os.close(context)


def _add(top: int, entry: km.MountInfo, own_namespace: bool, attributes: int) -> None:
    name = os.path.basename(entry.mount_point)
    os.mkdir(name, 0o755, dir_fd=top)
    directory = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        _attach(_tree(entry, own_namespace, attributes), directory)
    finally:
        os.close(directory)
    for controller in name.split(","):
        if controller != name:
            try:
                os.symlink(name, controller, dir_fd=top)
            except OSError as error:
                if error.errno != EEXIST:
                    raise KernelError("symlink", error.errno or 0, controller) from None


def _tree(entry: km.MountInfo, own_namespace: bool, attributes: int) -> int:
    """A detached mount of the container's part of one hierarchy."""
    if own_namespace:
        return _new(entry, attributes)
    fd = km.open_tree(AT_FDCWD, _own_directory(entry), km.OPEN_TREE_CLONE)
    km.mount_setattr(fd, "", 0, attributes | _SAFE, propagation=km.MS_PRIVATE)
    return fd


def _new(entry: km.MountInfo, attributes: int) -> int:
    context = km.fsopen(entry.fstype)
    try:
        km.fsconfig_string(context, "source", "cgroup")
        if entry.fstype == "cgroup":
            for option in entry.super_options:
                key, equals, value = option.partition("=")
                if equals and key == "name":
                    km.fsconfig_flag(context, "none")
                    km.fsconfig_string(context, key, value)
                elif not equals and key not in ("rw", "ro", "xattr", "clone_children"):
                    km.fsconfig_flag(context, key)
        km.fsconfig_create(context)
        return km.fsmount(context, attributes | _SAFE)
    finally:
        os.close(context)


def _own_directory(entry: km.MountInfo) -> str:
    """Where this process's group of the hierarchy is in the mount ``entry``."""
    names = set(entry.super_options) if entry.fstype == "cgroup" else {""}
    with open("/proc/thread-self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if set(controllers.split(",")) <= names:
                relative = os.path.relpath(path, entry.root)
                return os.path.normpath(os.path.join(entry.mount_point, relative))
    return entry.mount_point


def _attach(fd: int, target: int, keep: bool = False) -> None:
    try:
        km.attach(fd, target)
    finally:
        if not keep:
            os.close(fd)
