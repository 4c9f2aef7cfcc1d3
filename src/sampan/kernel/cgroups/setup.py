"""Making a group: its directory and those above it, and what a new one needs to be usable.

v1 cpuset groups start empty and refuse processes until they have CPUs and memory nodes, so these
are handed down the path. v2 groups have only the controllers their parents hand out through
cgroup.subtree_control, which a group with processes of its own may not do (cgroups(7)). The root is
exempt, except a container's, which is a root by name only.
"""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, ENOENT, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError
from sampan.kernel.cgroups.files import Directory

if TYPE_CHECKING:
    from sampan.kernel.cgroups.detect import Tree

__all__ = ["enable", "make"]

_LEAF = "sampan-self"


def make(tree: Tree, name: str) -> bool:
    """Make group ``name`` and what is missing above it; False where it was there already."""
    path = tree.mount_point + name
    made = _mkdir(path, missing_ok=True)
    if made is None:
        at = 0
        while (at := name.find("/", at + 1)) != -1:
            if _mkdir(tree.mount_point + name[:at]):
                _furnish(tree, name[:at])
        made = _mkdir(path)
    _furnish(tree, name)
    return bool(made)


def _mkdir(path: str, missing_ok: bool = False) -> bool | None:
    """True: made. False: it was there. None: its parent is not."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        if error.errno == EEXIST:
            return False
        if error.errno == ENOENT and missing_ok:
            return None
        raise KernelError("mkdir", error.errno or 0, path) from None
    # Whatever our umask is: a container's group is the root of its cgroup namespace, where programs
    # of any user read their limits.
    os.chmod(path, 0o755)
    return True


def _furnish(tree: Tree, name: str) -> None:
    if tree.version == 1 and "cpuset" in tree.controllers:
        for file in ("cpuset.cpus", "cpuset.mems"):
            _inherit(tree, name, file)


def _inherit(tree: Tree, name: str, file: str) -> str:
    """The group's CPUs or memory nodes; where it has none, given it from above.

    The one above may be as empty: another process has made it this moment, and not yet filled it.
    """
    group = Directory(tree.mount_point + name, name)
    value = group.read(file).strip()
    if not value and name:
        value = _inherit(tree, name.rpartition("/")[0], file)
        if value:
            group.write(file, value)
    return value


def enable(tree: Tree, name: str, controllers: frozenset[str]) -> None:
    """Have v2 group ``name`` offer these controllers, as far as the machine has them.

    Asked of each group above it in turn, from the top. A controller the kernel will not hand out is
    left out (a limit that needs it then says so). ``Conflict``: a group on the way has processes of
    its own and they are not this process's neighbours in its own group, which are moved into a leaf
    below it (as is the custom for engines inside containers).
    """
    group = Directory(tree.mount_point + name, name)
    wanted = controllers & tree.controllers
    if not wanted - frozenset(group.read("cgroup.controllers").split()):
        return
    at = 0
    while at != -1:
        above = name[:at]
        _hand_out(tree, Directory(tree.mount_point + above, above or "/"), wanted)
        at = name.find("/", at + 1)


def _hand_out(tree: Tree, group: Directory, wanted: frozenset[str]) -> None:
    missing = sorted(
        (wanted & frozenset(group.read("cgroup.controllers").split()))
        - frozenset(group.read("cgroup.subtree_control").split())
    )
    if not missing:
        return
    try:
        group.write("cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
        return
    except KernelError as error:
        if error.errno == EBUSY:
            _make_room(tree, group)
    for controller in missing:
        try:
            group.write("cgroup.subtree_control", f"+{controller}")
        except KernelError as error:
            if error.errno == EBUSY:
                raise _occupied(group) from error


def _make_room(tree: Tree, group: Directory) -> None:
    """Move the processes of our own group into a leaf below it."""
    if tree.own != group.group:
        raise _occupied(group)
    leaf = group.below(_LEAF)
    _mkdir(leaf.path)
    while pids := group.processes():
        for pid in pids:
            try:
                leaf.write("cgroup.procs", str(pid))
            except KernelError as error:
                if error.errno != ESRCH:
                    raise
    tree.own = leaf.group


def _occupied(group: Directory) -> Conflict:
    shown = " ".join(str(pid) for pid in group.processes()[:8])
    return Conflict(
        f"cgroup {group.group} has processes of its own ({shown}), so the kernel will not let it"
        " hand controllers to groups below it; move them into a sub-group, or choose another parent"
    )
