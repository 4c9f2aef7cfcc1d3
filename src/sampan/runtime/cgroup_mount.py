"""The ``cgroup`` mount of a container: its own part of the tree, as this machine's version has it.

After the runtime specification ("Linux", mounts of type cgroup), cgroups(7) and
cgroup_namespaces(7). On v2 one mount; on v1 a small tmpfs with a directory per hierarchy, named as
on the host, and a link for each controller of one that is mounted together with others; on a
hybrid machine the same. What there is to mount, ``Group.mounts_for_container`` says.

With a cgroup namespace of the container's own, new mounts show the namespace's root. Without, the
container's group is bound from the host's mounts. Both leave nothing above the group in reach.
"""

from __future__ import annotations

import os
from errno import EEXIST
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import mounts as km
from sampan.kernel.syscalls import AT_FDCWD

if TYPE_CHECKING:
    from sampan.kernel.cgroups import ContainerMount, Group
    from sampan.runtime.mount_plan import Plan

__all__ = ["mount"]

_SAFE = km.MOUNT_ATTR_NOSUID | km.MOUNT_ATTR_NODEV | km.MOUNT_ATTR_NOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount(plan: Plan, target: int, group: Group | None, own_namespace: bool) -> None:
    """Put the container's view of its cgroup on the directory ``target``.

    ``ro`` among the options makes all of it read-only. ``InvalidArgument``: no group is known.
    """
    if group is None:
        raise InvalidArgument(
            f"mount {plan.destination}: a cgroup mount needs a container with a cgroup of its own"
        )
    attributes = plan.options.set | plan.options.recursive_set | _SAFE
    entries = group.mounts_for_container()
    if all(not entry.directory for entry in entries):
        fd = _tree(entries[0], own_namespace, attributes)
        try:
            km.attach(fd, target)
        finally:
            os.close(fd)
        return
    top = _top(attributes)
    try:
        km.attach(top, target)
        for entry in entries:
            _add(top, entry, own_namespace, attributes)
        if attributes & km.MOUNT_ATTR_RDONLY:
            km.mount_setattr(top, "", 0, km.MOUNT_ATTR_RDONLY)
    finally:
        os.close(top)


def _top(attributes: int) -> int:
    """The tmpfs that holds the hierarchies' directories; read-only when it is filled."""
    context = km.fsopen("tmpfs")
    try:
        km.fsconfig_string(context, "source", "tmpfs")
        km.fsconfig_string(context, "mode", "755")
        km.fsconfig_create(context)
        return km.fsmount(context, attributes & ~km.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def _add(top: int, entry: ContainerMount, own_namespace: bool, attributes: int) -> None:
    os.mkdir(entry.directory, 0o755, dir_fd=top)
    directory = os.open(entry.directory, _DIRECTORY, dir_fd=top)
    try:
        fd = _tree(entry, own_namespace, attributes)
        try:
            km.attach(fd, directory)
        finally:
            os.close(fd)
    finally:
        os.close(directory)
    for name in entry.links:
        try:
            os.symlink(entry.directory, name, dir_fd=top)
        except OSError as error:
            if error.errno != EEXIST:
                raise KernelError("symlink", error.errno or 0, name) from None


def _tree(entry: ContainerMount, own_namespace: bool, attributes: int) -> int:
    """A detached mount of the container's part of one hierarchy."""
    if own_namespace:
        return _new(entry, attributes)
    fd = km.open_tree(AT_FDCWD, entry.source, km.OPEN_TREE_CLONE)
    km.mount_setattr(fd, "", 0, set=attributes, propagation=km.MS_PRIVATE)
    return fd


def _new(entry: ContainerMount, attributes: int) -> int:
    context = km.fsopen(entry.fstype)
    try:
        km.fsconfig_string(context, "source", "cgroup")
        for option in entry.data.split(",") if entry.data else ():
            key, equals, value = option.partition("=")
            if equals:
                km.fsconfig_string(context, key, value)
            else:
                km.fsconfig_flag(context, key)
        km.fsconfig_create(context)
        return km.fsmount(context, attributes)
    finally:
        os.close(context)
