"""One mount of a container: planned and opened on the host, made and attached in the container.

After the runtime specification ("Mounts"), open_tree(2), move_mount(2), fsopen(2), openat2(2);
Linux 5.12 and later. A mount exists detached, with all its attributes, before anything in the
container can see it, and is then put on a descriptor of its destination, which the kernel resolved
inside the root. No path string is walked twice, so there is nothing to swap between the check and
the use (CVE-2019-14271, CVE-2021-30465, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).

Bind sources are cloned in the parent, by the host's paths and rights. For a container with a user
namespace the child clones them itself where its rights suffice: its copy of the mount tree carries
the kernel's locks on the host's flags (``ro``, ``nosuid``), which a clone from outside lacks.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM, EXDEV
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotFound
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.kernel.syscalls import AT_FDCWD
from sampan.runtime import cgroup_mount, copyup, overlay
from sampan.runtime.mount_options import MountOptions, parse

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group
    from sampan.oci.runtime import Mount
    from sampan.runtime.idmap import UserNamespaces

__all__ = ["Builder", "Plan"]

# What may be mounted over below /proc by something that is not procfs itself: files that tools such
# as lxcfs replace by the container's own view. Anything else could fake what the kernel says.
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)
_MAGIC = {"proc": km.PROC_SUPER_MAGIC, "sysfs": km.SYSFS_MAGIC}

# One superblock stands behind many mounts of these: "ro" may be this mount's only.
_SHARED_SUPERBLOCK = frozenset({"proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2", "bpf"})

# The policy labels what is in these by itself.
_UNLABELLED = frozenset({"proc", "sysfs", "mqueue", "cgroup", "cgroup2"})

_BELOW = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_MAGICLINKS
_STRICT = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS | paths.RESOLVE_NO_SYMLINKS
_VALUE_LIMIT = 255  # bytes fsconfig(2) takes as one string

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


class Builder:
    """Makes and attaches planned mounts below one root, in the container's namespaces."""

    __slots__ = (
        "_fresh",
        "group",
        "has_userns",
        "image",
        "label",
        "own_cgroupns",
        "procfs",
        "propagation",
        "root",
    )

    def __init__(
        self,
        *,
        root: int,
        procfs: paths.Procfs,
        propagation: int,
        has_userns: bool,
        group: Group | None,
        own_cgroupns: bool,
        label: str | None = None,
    ) -> None:
        self.root = root
        self.label = label  # linux.mountLabel: the SELinux context of new file systems
        self.procfs = procfs
        self.propagation = propagation
        self.has_userns = has_userns
        self.group = group
        self.image: frozenset[int] = frozenset()  # the mounts that hold the image's files
        self._fresh: dict[str, int] = {}  # empty tmpfs of ours by destination
        self.own_cgroupns = own_cgroupns

    def mount(self, plan: Plan) -> None:
        """Make ``plan``'s mount and put it at its destination."""
        try:
            if plan.existing:
                self._change(plan)
            elif plan.options.wants_old_call and not plan.options.bind:
                self._mount_old(plan)
            elif plan.fstype in ("cgroup", "cgroup2") and not plan.options.bind:
                self._cgroup(plan)
            else:
                self._new(plan)
        except KernelError as error:
            where = f"for mount {plan.destination}"
            if where in error.target:
                raise
            raise KernelError(error.call, error.errno or 0, f"{error.target} {where}") from None

    def close(self) -> None:
        """Release what was held for speed."""
        while self._fresh:
            os.close(self._fresh.popitem()[1])

    def clone(self, plan: Plan) -> int:
        """The detached clone of a bind's source; the caller owns the descriptor."""
        if self.has_userns and plan.userns < 0:
            try:
                fd = plan.clone(self.propagation)
            except KernelError as error:
                if error.errno == EPERM:
                    raise _locked(plan, error) from None
                if error.errno != EACCES or plan.descriptor < 0:
                    raise
            else:
                plan.close()
                return fd
        fd, plan.descriptor = plan.descriptor, -1
        return fd

    def filesystem(self, plan: Plan, mode: int | None = None) -> int:
        """A detached mount of a new file system (or a new view of an old one).

        ``mode``: of the directory it will cover, which a tmpfs takes over unless told otherwise.
        """
        options, fstype = plan.options, plan.fstype
        if fstype == "overlay":
            return overlay.detached(options)
        context = km.fsopen(fstype)
        try:
            km.fsconfig_string(context, "source", plan.source or fstype)
            for word in options.superblock:
                km.fsconfig_flag(context, word)
            on = (options.set & ~options.recursive_clear) | options.recursive_set
            if options.copyup or _late_readonly(plan):
                on &= ~km.MOUNT_ATTR_RDONLY
            if on & km.MOUNT_ATTR_RDONLY and fstype not in _SHARED_SUPERBLOCK:
                km.fsconfig_flag(context, "ro")
            if fstype == "tmpfs" and mode is not None:
                km.fsconfig_string(context, "mode", f"{mode:o}")
            if self.label and fstype not in _UNLABELLED:
                km.fsconfig_string(context, "context", self.label)
            for word in options.data:
                key, equals, value = word.partition("=")
                if equals:
                    km.fsconfig_string(context, key, value)
                else:
                    km.fsconfig_flag(context, key)
            km.fsconfig_create(context)
            fd = km.fsmount(context, on)
        finally:
            os.close(context)
        for kind, whole in options.propagation:
            if kind in (km.MS_SHARED, km.MS_UNBINDABLE):  # the others a new mount is already
                km.mount_setattr(fd, "", km.AT_RECURSIVE if whole else 0, propagation=kind)
        return fd

    def attach(self, plan: Plan, fd: int, target: int) -> None:
        """Put the detached mount ``fd`` on ``target`` after the rules for /, /proc and /sys."""
        if os.path.samestat(os.fstat(target), os.fstat(self.root)):
            # What hides the root is hidden from init, which is below already, and not from exec.
            raise InvalidArgument(f"mount {plan.destination}: it leads to the root directory")
        self._check_proc(plan, fd, target)
        try:
            km.attach(fd, target)
        except KernelError as error:
            if error.errno not in (ENOTDIR, EINVAL):
                raise
            new, old = stat.S_ISDIR(os.fstat(fd).st_mode), stat.S_ISDIR(os.fstat(target).st_mode)
            if new == old:
                raise
            raise InvalidArgument(
                f"mount {plan.destination}: cannot put a {'directory' if new else 'file'} "
                f"on a {'directory' if old else 'file'}"
            ) from None

    def target(self, plan: Plan, directory: bool) -> tuple[int, bool]:
        """A descriptor of the destination, made where it is missing, and whether it was there."""
        parent, _, name = plan.destination.rpartition("/")
        if directory and parent in self._fresh:
            # Most mounts are on a /dev that was made just now: no need to look for what is not.
            try:
                os.mkdir(name, 0o755, dir_fd=self._fresh[parent])
            except FileExistsError:
                pass
            else:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
                return paths.openat2(self._fresh[parent], name, flags), False
        strict = plan.fstype in _MAGIC and not plan.options.bind
        try:
            if strict:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                return paths.openat2(self.root, plan.destination, flags, resolve=_STRICT), True
            return paths.open_in_root(self.root, plan.destination, os.O_PATH), True
        except KernelError as error:
            if strict and error.errno in (ELOOP, ENOTDIR):
                raise InvalidArgument(
                    f"mount {plan.destination}: {plan.fstype} wants a real directory, and the root "
                    "file system has a symbolic link or a file there"
                ) from None
            if error.errno != ENOENT:
                raise
        if directory:
            return paths.make_directory_in_root(self.root, plan.destination, 0o755), False
        return paths.make_file_in_root(self.root, plan.destination, 0o644), False

    def mount_id(self, fd: int) -> int:
        """Which mount ``fd`` is on (proc_pid_fdinfo(5))."""
        for line in self.procfs.read(f"thread-self/fdinfo/{fd}").splitlines():
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
        raise KernelError("read", ENOENT, f"mnt_id of fd {fd}")

    def _new(self, plan: Plan) -> None:
        options = plan.options
        if options.bind:
            fd = self.clone(plan)
        elif options.subpath:
            fd = self._part(plan)
        else:
            fd, plan.descriptor = plan.descriptor, -1
        directory = fd < 0 or stat.S_ISDIR(os.fstat(fd).st_mode)
        target = -1
        try:
            target, existed = self.target(plan, directory)
            if fd < 0:
                inherits = plan.fstype == "tmpfs" and existed
                mode = stat.S_IMODE(os.fstat(target).st_mode) if inherits else None
                if not _too_long(plan):
                    fd = self.filesystem(plan, mode)
                if fd < 0:
                    self._mount_old(plan, target)
                    return
            if options.copyup:
                if directory and existed and self.mount_id(target) in self.image:
                    given = any(word.startswith(("mode=", "uid=", "gid=")) for word in options.data)
                    copyup.fill(fd, target, keep_root=given)
                if (options.set | options.recursive_set) & km.MOUNT_ATTR_RDONLY:
                    km.mount_setattr(fd, "", 0, km.MOUNT_ATTR_RDONLY)
            self.attach(plan, fd, target)
            self._forget(plan.destination)
            if plan.fstype in _MAGIC and not options.bind:
                self._verify(plan)
            elif plan.fstype == "tmpfs" and not options.bind and not options.copyup:
                self._fresh[plan.destination], fd = fd, -1
        finally:
            for descriptor in (fd, target):
                if descriptor >= 0:
                    os.close(descriptor)

    def _part(self, plan: Plan) -> int:
        """A detached clone of what is at the subpath of a new file system. Only a part of what is
        mounted somewhere can be cloned: for that long it covers the root, which is ours alone."""
        whole = self.filesystem(plan)
        if whole < 0:
            raise InvalidArgument(
                f"mount {plan.destination}: this kernel cannot mount a part of so many layers"
            )
        try:
            apply(whole, [(False, 0, 0, km.MS_PRIVATE)])
            km.attach(whole, self.root)
            try:
                below = plan.below(whole)
                try:
                    return km.clone_tree(below, True)
                finally:
                    os.close(below)
            finally:
                km.umount(self.procfs.fd_path(whole), km.MNT_DETACH)
        finally:
            os.close(whole)

    def _forget(self, destination: str) -> None:
        """What is at or below ``destination`` is covered now."""
        for place in [*self._fresh]:
            if place == destination or place.startswith(destination + "/"):
                os.close(self._fresh.pop(place))

    def _cgroup(self, plan: Plan) -> None:
        target, _ = self.target(plan, True)
        try:
            cgroup_mount.mount(plan, target, self.group, self.own_cgroupns)
        finally:
            os.close(target)

    def _check_proc(self, plan: Plan, fd: int, target: int) -> None:
        """Nothing but known files may be mounted over in /proc, unless by procfs itself."""
        over_proc = km.filesystem_magic(target) == km.PROC_SUPER_MAGIC
        if plan.destination != "/proc" and not over_proc:
            return
        if km.filesystem_magic(fd) == km.PROC_SUPER_MAGIC:
            return
        if plan.destination in _PROC_FILES and over_proc:
            return
        raise InvalidArgument(
            f"mount {plan.destination}: only procfs may be mounted over a part of /proc "
            "(but for a few known files)"
        )

    def _verify(self, plan: Plan) -> None:
        """The destination, resolved again, leads to what was mounted."""
        fd = paths.open_in_root(self.root, plan.destination, os.O_PATH)
        try:
            if km.filesystem_magic(fd) != _MAGIC[plan.fstype]:
                raise InvalidArgument(
                    f"mount {plan.destination}: something was swapped under it while it was made"
                )
        finally:
            os.close(fd)

    def _mount_old(self, plan: Plan, target: int = -1) -> None:
        """By mount(2), on the descriptor's name in procfs."""
        opened = target < 0
        if opened:
            target, _ = self.target(plan, True)
        try:
            where = self.procfs.fd_path(target)
            flags = plan.options.old_flags()
            if plan.fstype == "overlay":
                overlay.mount_old(plan.options, where, flags)
            else:
                data = ",".join(plan.options.data) or None
                km.mount(plan.source or plan.fstype, where, plan.fstype, flags, data)
        finally:
            if opened:
                os.close(target)
        if plan.options.propagation:
            self._change_mount(plan)

    def _change(self, plan: Plan) -> None:
        """``remount`` and propagation of what is mounted at the destination already."""
        options = plan.options
        self._change_mount(plan)
        superblock = options.data or options.superblock or options.wants_old_call
        if options.remount and not options.bind and (superblock or options.set or options.clear):
            self._reconfigure(plan)

    def _change_mount(self, plan: Plan) -> None:
        fd = paths.open_in_root(self.root, plan.destination, os.O_PATH)
        try:
            apply(fd, steps(plan.options, 0))
        except KernelError as error:
            if error.errno == EPERM:
                raise _locked(plan, error) from None
            raise
        finally:
            os.close(fd)

    def _reconfigure(self, plan: Plan) -> None:
        """The superblock's part of ``remount``."""
        fd = paths.open_in_root(self.root, plan.destination, os.O_PATH)
        try:
            where = self.procfs.fd_path(fd)
            flags = plan.options.old_flags(_current_flags(fd)) | km.MS_REMOUNT
            km.mount(None, where, None, flags, ",".join(plan.options.data) or None)
        finally:
            os.close(fd)


def _too_long(plan: Plan) -> bool:
    """Some value is longer than fsconfig(2) takes; overlay.py has its own ways."""
    if plan.fstype == "overlay":
        return False
    return any(len(os.fsencode(word)) > _VALUE_LIMIT for word in plan.options.data)


def _late_readonly(plan: Plan) -> bool:
    """/dev becomes read-only last: the default devices are still to be made in it."""
    return plan.destination == "/dev"


def _current_flags(fd: int) -> int:
    """The ``MS_*`` flags of the mount at ``fd``; statvfs(3) has the same bits for these."""
    flags = os.fstatvfs(fd).f_flag
    kept = km.MS_RDONLY | km.MS_NOSUID | km.MS_NODEV | km.MS_NOEXEC | km.MS_SYNCHRONOUS
    return flags & (kept | km.MS_NOATIME | km.MS_NODIRATIME)


def _locked(plan: Plan, error: KernelError) -> KernelError:
    target = f"{plan.destination}: the mount's flags are locked by the host ({error.target})"
    return KernelError(error.call, EPERM, target)
