"""What one mount of a container is to be: validated, and its source opened, on the host's side.

Bind sources are cloned in the parent, by the host's paths and rights. For a container with a user
namespace the child clones them itself where its rights suffice: its copy of the mount tree carries
the kernel's locks on the host's flags (``ro``, ``nosuid``), which a clone from outside lacks.
"""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR, EPERM, EXDEV
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotFound
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.kernel.syscalls import AT_FDCWD
from sampan.runtime.mount_options import MountOptions, parse

if TYPE_CHECKING:
    from sampan.oci.runtime import Mount
    from sampan.runtime.idmap import UserNamespaces

__all__ = ["Plan", "Step", "apply", "locked", "steps"]

_BELOW = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_MAGICLINKS

# One call of mount_setattr(2): recursive, set, clear, propagation.
Step = tuple[bool, int, int, int]


class Plan:
    """One mount, validated; ``descriptor`` is its detached clone once ``open_source`` made one."""

    __slots__ = ("descriptor", "destination", "fstype", "mount", "options", "source", "userns")

    def __init__(self, mount: Mount, bundle: str) -> None:
        self.mount = mount
        self.destination = os.path.normpath("/" + mount.destination.lstrip("/"))
        self.options = parse(mount.options, mount.type, mount.destination)
        self.fstype = mount.type or ""
        self.descriptor = -1
        self.userns = -1
        self.source = mount.source or ""
        if self.options.bind and not self.options.remount:
            if not mount.source:
                raise InvalidArgument(f"mount {self.destination}: a bind mount needs a source")
            self.source = os.path.join(bundle, mount.source)
        mapped = bool(mount.uid_mappings or mount.gid_mappings)
        if mapped and not self.options.bind:
            raise InvalidArgument(
                f"mount {self.destination}: uidMappings and gidMappings are for bind mounts only"
            )
        if mapped and not self.options.idmap:
            self.options.idmap = "idmap"
        if not (self.fstype or self.options.bind or self.options.remount or self._propagates()):
            raise InvalidArgument(
                f"mount {self.destination}: no type, and neither bind nor remount among its options"
            )

    def _propagates(self) -> bool:
        return bool(self.options.propagation)

    @property
    def existing(self) -> bool:
        """Nothing new is mounted: what is at the destination is changed."""
        only_words = not self.fstype and not self.options.bind
        return self.options.remount or only_words

    def open_source(self, userns: UserNamespaces, propagation: int) -> None:
        """In the parent: clone the source of a bind mount, with its attributes and ID mapping."""
        if not self.options.bind or self.existing:
            return
        if self.options.idmap:
            self.userns = userns.descriptor(self.mount)
        try:
            self.descriptor = self.clone(propagation)
        except KernelError as error:
            # Without privilege on the host only the child, in its own user namespace, can clone.
            if error.errno != EPERM or self.options.idmap or os.geteuid() == 0:
                raise
            if not os.path.lexists(self.source):
                raise NotFound(f"bind source {self.source} does not exist") from None

    def clone(self, propagation: int) -> int:
        """A detached clone of a bind's source; ``NotFound`` names a missing one."""
        recursive = km.AT_RECURSIVE if self.options.recursive else 0
        try:
            if self.options.subpath:
                fd = self._clone_below(self.options.recursive)
            else:
                fd = km.open_tree(AT_FDCWD, self.source, km.OPEN_TREE_CLONE | recursive)
        except KernelError as error:
            if error.errno in (ENOENT, ENOTDIR):
                raise NotFound(f"bind source {self.source} does not exist") from None
            raise
        try:
            if self.userns >= 0:
                whole = km.AT_RECURSIVE if self.options.idmap == "ridmap" else 0
                km.mount_setattr(fd, "", whole, km.MOUNT_ATTR_IDMAP, userns_fd=self.userns)
            apply(fd, steps(self.options, propagation))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _clone_below(self, recursive: bool) -> int:
        source = km.open_tree(AT_FDCWD, self.source, 0)
        try:
            below = self.below(source)
            try:
                return km.clone_tree(below, recursive)
            finally:
                os.close(below)
        finally:
            os.close(source)

    def below(self, source: int) -> int:
        """What is at the subpath of the directory ``source``, which a container may be changing:
        nothing that leads out of it is followed."""
        subpath = self.options.subpath
        try:
            return paths.openat2(source, subpath, os.O_PATH, resolve=_BELOW)
        except KernelError as error:
            reason = {ENOENT: "it does not exist", EXDEV: "it leads out of the source"}.get(
                error.errno or 0, (error.strerror or "").lower()
            )
            raise InvalidArgument(
                f"mount {self.destination}: cannot access path {subpath}: {reason}"
            ) from None

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def steps(options: MountOptions, propagation: int) -> list[Step]:
    """The mount_setattr(2) calls that give a detached mount its attributes and propagation.

    ``propagation`` is what every clone starts from, before the mount's own words: a clone of a
    shared mount is a peer of the host's until it is told otherwise.
    """
    on, off = options.set, options.clear
    words = options.propagation
    # A first word for the whole tree that leaves the peers anyway makes the start redundant.
    if propagation and not (words and words[0][1] and words[0][0] != km.MS_SHARED):
        words = [(propagation, True), *words]
    result: list[Step] = [(whole, 0, 0, kind) for kind, whole in words]
    if on or off:
        result.append((False, on, off, 0))
    if options.recursive_set or options.recursive_clear:
        result.append((True, options.recursive_set, options.recursive_clear, 0))
    return result


def apply(fd: int, calls: list[Step]) -> None:
    """Make the calls ``steps`` listed on the mount at descriptor ``fd``."""
    for whole, on, off, propagation in calls:
        flags = km.AT_RECURSIVE if whole else 0
        km.mount_setattr(fd, "", flags, set=on, clear=off, propagation=propagation)


def locked(plan: Plan, error: KernelError) -> KernelError:
    """The refusal of a change that the host's flags forbid (mount_namespaces(7)), in words."""
    target = f"{plan.destination}: the mount's flags are locked by the host ({error.target})"
    return KernelError(error.call, EPERM, target)
