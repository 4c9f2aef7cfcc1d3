"""The machine's cgroups as one thing: what ``detect`` returns, and how groups are named in it.

A path that starts with "/" counts from the mount points. A relative one counts from the group this
process is in, hierarchy by hierarchy; on pure v2, from that group's *parent*, for a group with
processes in it (ours) may not hand controllers to children (cgroups(7), "no internal processes").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.kernel.cgroups.detect import Tree, find_trees
from sampan.kernel.cgroups.group import Group
from sampan.kernel.cgroups.v2 import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Hierarchy", "detect", "systemd_path"]


class Hierarchy:
    """Every hierarchy of the machine behind one interface.

    ``kind``: ``v1``, ``v2`` or ``hybrid``. ``controllers``: controller (by its v1 name, so block
    devices are ``blkio``) -> the tree that has it. ``unified``: the v2 tree, or None.
    """

    __slots__ = ("controllers", "kind", "trees", "unified")

    def __init__(self, trees: list[Tree]) -> None:
        self.trees = tuple(trees)
        self.unified = next((tree for tree in trees if tree.version == 2), None)
        versions = {tree.version for tree in trees}
        self.kind = {frozenset({1}): "v1", frozenset({2}): "v2"}.get(frozenset(versions), "hybrid")
        self.controllers: dict[str, Tree] = {}
        old_names = {new: old for old, new in NAMES.items() if old != "cpuacct"}
        for tree in sorted(trees, key=lambda tree: -tree.version):
            for name in tree.controllers:
                self.controllers[old_names.get(name, name) if tree.version == 2 else name] = tree

    def __repr__(self) -> str:
        return f"<{self.kind} {' '.join(sorted(self.controllers))}>"

    @property
    def mounts(self) -> dict[str, str]:
        """Where each hierarchy is mounted, by its label."""
        return {tree.label: tree.mount_point for tree in self.trees}

    @property
    def limits_swap(self) -> bool:
        """Whether swap is accounted: a kernel option of its own, on both versions."""
        tree = self.controllers.get("memory")
        if tree is None:
            return False
        if tree.version == 1:
            return os.path.exists(f"{tree.mount_point}/memory.memsw.limit_in_bytes")
        # The root has no such file, every other group does.
        own = tree.own if tree.own not in (None, "/") else next(_groups(tree), "")
        return own != "" and os.path.exists(f"{tree.mount_point}{own}/memory.swap.max")

    def group(self, path: str) -> Group:
        """The group of that name: a value; nothing is made and nothing need exist.

        ``InvalidArgument`` for the root itself, for ``..`` and for characters no group's name has.
        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or "\n" in path or "\0" in path:
            raise InvalidArgument(f"cgroup path {path!r}: expected a/name or /a/name without '..'")
        # A file of the parent's would be meant: cgroup.x, memory.x. The kernel has reserved these.
        name = "/".join(parts)
        if path.startswith("/"):
            return Group(self, "/" + name, dict.fromkeys(self.trees, "/" + name))
        paths = {}
        for tree in self.trees:
            if tree.own is None:
                raise InvalidArgument(
                    f"cgroup path {path!r}: relative to this process's own group, which lies"
                    f" outside of what is mounted at {tree.mount_point}; give an absolute one"
                )
            own = tree.own
            if self.kind == "v2":
                own = own.rpartition("/")[0]
            paths[tree] = f"{own.rstrip('/')}/{name}"
        main = self.unified or self.trees[0]
        return Group(self, paths[main], paths)


def _groups(tree: Tree) -> Iterator[str]:
    """The groups below the root of a hierarchy."""
    with os.scandir(tree.mount_point) as entries:
        yield from (f"/{entry.name}" for entry in entries if entry.is_dir())


def detect() -> Hierarchy:
    """What is mounted now. ``NotSupported`` where no hierarchy is."""
    return Hierarchy(find_trees())


def systemd_path(value: str) -> str:
    """systemd's name for a group, ``slice:prefix:name``, as the path systemd would give it.

    ``a-b.slice:docker:x`` is ``/a.slice/a-b.slice/docker-x.scope``; no slice is ``system.slice``; a
    name that ends in ``.slice`` is a slice itself, below the first. See systemd.slice(5).
    """
    fields = value.split(":")
    if len(fields) != 3 or not fields[2] or "/" in value:
        raise InvalidArgument(
            f"cgroup path {value!r}: with --systemd-cgroup expected slice:prefix:name"
        )
    parent, prefix, name = fields
    path = _slice_path(parent or "system.slice", value)
    if name.endswith(".slice"):
        return f"{path}/{name}"
    return f"{path}/{prefix}-{name}.scope" if prefix else f"{path}/{name}.scope"


def _slice_path(name: str, value: str) -> str:
    if name == "-.slice":
        return ""
    stem = name.removesuffix(".slice")
    words = stem.split("-")
    if stem == name or not all(words):
        raise InvalidArgument(f"cgroup path {value!r}: {name!r} is not the name of a slice")
    heads = ("-".join(words[: count + 1]) for count in range(len(words)))
    return "".join(f"/{head}.slice" for head in heads)
