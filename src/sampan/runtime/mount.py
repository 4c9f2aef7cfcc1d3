"""One mount of a container (``mount_plan``), made and attached in the container.

After the runtime specification ("Mounts"), open_tree(2), move_mount(2), fsopen(2), openat2(2);
Linux 5.12 and later. A mount exists detached, with all its attributes, before anything in the
container can see it, and is then put on a descriptor of its destination, which the kernel resolved
inside the root. No path string is walked twice, so there is nothing to swap between the check and
the use (CVE-2019-14271, CVE-2021-30465, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.runtime import cgroup_mount, copyup, overlay
from sampan.runtime.mount_plan import Plan, apply, locked, steps

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group

__all__ = ["Builder"]

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

_STRICT = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS | paths.RESOLVE_NO_SYMLINKS
_VALUE_LIMIT = 255  # bytes fsconfig(2) takes as one string


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
                    raise locked(plan, error) from None
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
                raise locked(plan, error) from None
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
