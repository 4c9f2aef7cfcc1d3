"""Which cgroup hierarchies this process sees, and where: cgroups(7), cgroup_namespaces(7).

Three arrangements are met: every controller in a v1 hierarchy of its own (or sharing one); all of
them in the one v2 hierarchy; and the hybrid, v1 hierarchies beside a v2 hierarchy ("unified") which
holds the controllers no v1 hierarchy has claimed, often none. Even without controllers the v2
hierarchy can kill, freeze and tell emptiness, so on a hybrid a container gets a group there too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import NotSupported
from sampan.kernel.mounts import MountInfo, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Tree", "find_trees", "membership"]

# Words among a v1 mount's options that are no controllers.
_OPTIONS = frozenset(
    {
        "rw",
        "ro",
        "clone_children",
        "xattr",
        "noprefix",
        "cpuset_v2_mode",
        "favordynmods",
        "seclabel",
    }
)


class Tree:
    """One mounted hierarchy.

    ``controllers``: what it controls (for v2, what its root offers). ``name``: of a named v1
    hierarchy ("systemd"), else "". ``root``: the group that its mount point shows, "/" unless a
    container's runtime bound a sub-tree there. ``own``: the group this process is in, as seen from
    the mount point ("/" is the mount point itself; None: it is outside what the mount shows).
    """

    __slots__ = ("controllers", "mount_point", "name", "own", "root", "version")

    def __init__(
        self,
        version: int,
        mount_point: str,
        controllers: frozenset[str],
        *,
        name: str = "",
        root: str = "/",
        own: str | None = "/",
    ) -> None:
        self.version = version
        self.mount_point = mount_point
        self.controllers = controllers
        self.name = name
        self.root = root
        self.own = own

    def __repr__(self) -> str:
        return f"<cgroup v{self.version} {self.label} on {self.mount_point}>"

    @property
    def label(self) -> str:
        """``unified``, ``name=systemd`` or the controllers joined by commas."""
        if self.version == 2:
            return "unified"
        return f"name={self.name}" if self.name else ",".join(sorted(self.controllers))

    @property
    def keys(self) -> tuple[str, ...]:
        """The names its group goes by in ``Group.paths``."""
        if self.version == 2:
            return ("unified",)
        return (self.label,) if self.name else tuple(sorted(self.controllers))


def membership(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as: controller, ``name=x`` or "" (v2) -> group."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        # A removed group of a process that lives on is marked so.
        group = group.removesuffix(" (deleted)")
        for controller in controllers.split(","):
            found[controller] = group
    return found


def find_trees(
    mounts: Iterable[MountInfo] | None = None, own: dict[str, str] | None = None
) -> list[Tree]:
    """Every hierarchy mounted in this mount namespace, v1 first.

    Of several mounts of one hierarchy the one that shows the most counts, then the earliest below
    ``/sys/fs/cgroup``. ``NotSupported`` where there is none at all.
    """
    if own is None:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            own = membership(file.read())
    best: dict[str, Tree] = {}
    for row in mountinfo() if mounts is None else mounts:
        if row.fstype not in ("cgroup", "cgroup2"):
            continue
        tree = _tree(row, own)
        known = best.get(tree.label)
        if known is None or _rank(tree) < _rank(known):
            best[tree.label] = tree
    if not best:
        raise NotSupported(
            "no cgroup hierarchy is mounted: mount one (mount -t cgroup2 cgroup2 /sys/fs/cgroup)"
        )
    return sorted(best.values(), key=lambda tree: tree.version)


def _rank(tree: Tree) -> tuple[bool, bool]:
    return (tree.root != "/", not tree.mount_point.startswith("/sys/fs/cgroup"))


def _tree(row: MountInfo, own: dict[str, str]) -> Tree:
    if row.fstype == "cgroup2":
        group = _seen_from(row.root, own.get("", "/"))
        return Tree(2, row.mount_point, _offered(row.mount_point), root=row.root, own=group)
    options = [word for word in row.super_options if word not in _OPTIONS]
    name = next((word[5:] for word in options if word.startswith("name=")), "")
    controllers = frozenset(word for word in options if "=" not in word)
    key = f"name={name}" if name else next(iter(sorted(controllers)), "")
    group = _seen_from(row.root, own.get(key, "/"))
    return Tree(1, row.mount_point, controllers, name=name, root=row.root, own=group)


def _seen_from(root: str, group: str) -> str | None:
    """A group's name below a mount that shows ``root``."""
    if root == "/":
        # Above the root of our cgroup namespace: "/.." and further up.
        return None if group.startswith("/..") else group
    if group == root or group.startswith(root + "/"):
        return group[len(root) :] or "/"
    return None


def _offered(mount_point: str) -> frozenset[str]:
    fd = os.open(f"{mount_point}/cgroup.controllers", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return frozenset(os.read(fd, 4096).decode().split())
    finally:
        os.close(fd)
