"""What a container sees of its cgroups: cgroup_namespaces(7), and delegation (cgroups(7)).

Inside a cgroup namespace a fresh mount of a hierarchy shows the container's own group as its root.
Without one the group's directory is bound there instead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.oci.record import Record

if TYPE_CHECKING:
    from sampan.kernel.cgroups.detect import Tree
    from sampan.kernel.cgroups.files import Directory

__all__ = ["ContainerMount", "container_mounts", "delegate"]


class ContainerMount(Record):
    """One hierarchy as a container mounts it at its ``/sys/fs/cgroup``.

    ``directory``: below that mount point ("" on pure v2: the mount point itself). ``fstype`` and
    ``data``: for a fresh mount, in a cgroup namespace of its own. ``source``: the directory to bind
    where there is no such namespace. ``links``: further names of ``directory``, to be made as
    symbolic links to it (controllers that share one hierarchy).
    """

    directory: str
    fstype: str
    data: str
    source: str
    links: tuple[str, ...] = ()


def container_mounts(directories: list[tuple[Tree, Directory]]) -> tuple[ContainerMount, ...]:
    """The mounts for a group. Where there is a v1 hierarchy, a tmpfs holds their mount points.

    The v2 hierarchy of a hybrid is left out unless it controls something.
    """
    if all(tree.version == 2 for tree, _ in directories):
        return tuple(
            ContainerMount(directory="", fstype="cgroup2", data="", source=group.path)
            for _, group in directories
        )
    mounts = []
    for tree, group in directories:
        if tree.version == 2:
            if tree.controllers:
                mounts.append(
                    ContainerMount(
                        directory="unified", fstype="cgroup2", data="", source=group.path
                    )
                )
            continue
        # Named as the machine names it: programs look for /sys/fs/cgroup/cpu,cpuacct by that name.
        name = tree.name or os.path.basename(tree.mount_point)
        data = f"none,name={tree.name}" if tree.name else ",".join(sorted(tree.controllers))
        mounts.append(
            ContainerMount(
                directory=name,
                fstype="cgroup",
                data=data,
                source=group.path,
                links=tuple(key for key in sorted(tree.controllers) if key != name),
            )
        )
    return tuple(mounts)


def delegate(directory: Directory, uid: int, gid: int) -> None:
    """Give a v2 group to a user: its directory and the files the kernel says go with it.

    The limits stay ours: memory.max and its like are not in the kernel's list.
    """
    with open("/sys/kernel/cgroup/delegate", encoding="ascii") as listed:
        files = listed.read().split()
    for path in (directory.path, *(f"{directory.path}/{file}" for file in files)):
        try:
            os.chown(path, uid, gid)
        except FileNotFoundError:
            continue  # of a controller that is not enabled here
        except OSError as error:
            raise KernelError(f"chown to {uid}:{gid} of", error.errno or 0, path) from None
