"""The container's root file system: prepared on the host, built in the container, entered, sealed.

After the runtime specification ("Root", "Mounts", "Linux Container Configuration"), pivot_root(2)
and section 5 of mount_namespaces(7). Four steps, with the caller's own between them:

* ``prepare`` (parent, host's namespaces): everything is validated; bind sources are cloned as
  detached mounts, the storage driver's overlay is mounted detached; all is held by descriptor.
* ``build`` (child, its new namespaces, the host's tree still around): mounts in order, devices. The
  parent may have done its first part, ``lay``, in the same mount namespace: ``launch``.
* ``Root.enter``: pivot_root, and the host's tree is gone.
* ``Root.finish``: read-only paths, masks, propagation, and last the root itself becomes read-only.

Everything is attached in the container's mount namespace only and ends with it: nothing is ever
mounted on the host, so nothing can leak there. Without a mount namespace of its own a container
gets a chroot, and no mounts.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ENOENT, ENOTDIR, EPERM
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotFound
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.kernel.syscalls import AT_FDCWD
from sampan.oci.runtime import Device, Linux, Mount
from sampan.runtime import devices, masks, overlay, sysctl
from sampan.runtime.idmap import UserNamespaces
from sampan.runtime.mount import Builder
from sampan.runtime.mount_plan import Plan, apply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.oci.runtime import Spec
    from sampan.runtime.launch import Launch

__all__ = ["Prepared", "Root", "Site", "assemble", "build", "complete", "lay", "prepare"]

_PROPAGATIONS: dict[str, tuple[int, bool]] = {
    "shared": (km.MS_SHARED, False),
    "rshared": (km.MS_SHARED, True),
    "slave": (km.MS_SLAVE, False),
    "rslave": (km.MS_SLAVE, True),
    "private": (km.MS_PRIVATE, False),
    "rprivate": (km.MS_PRIVATE, True),
    "unbindable": (km.MS_UNBINDABLE, False),
    "runbindable": (km.MS_UNBINDABLE, True),
}


class Prepared:
    """What ``prepare`` opened; ``close`` in the parent once the child has been cloned."""

    __slots__ = ("devices", "layers", "linux", "own_mounts", "path", "plans", "userns")

    def __init__(self, path: str, linux: Linux) -> None:
        self.path = path
        self.linux = linux
        self.own_mounts = any(entry.type == "mount" for entry in linux.namespaces)
        self.userns = UserNamespaces(linux)
        self.layers: list[Plan] = []  # the root itself first
        self.plans: list[Plan] = []
        self.devices: list[Device] = []

    @property
    def has_userns(self) -> bool:
        return any(entry.type == "user" for entry in self.linux.namespaces)

    @property
    def start_propagation(self) -> int:
        """What a clone of a host's mount becomes first: its slave, unless they are to share."""
        kind = _PROPAGATIONS.get(self.linux.rootfs_propagation or "rslave", (km.MS_SLAVE, True))[0]
        if kind == km.MS_SHARED:
            return 0
        return km.MS_SLAVE if kind == km.MS_SLAVE else km.MS_PRIVATE

    def open(self, recipe: Sequence[Mount], mounts: Sequence[Mount], bundle: str) -> None:
        """Plan the root's own mounts and the others, and open their sources."""
        self.layers = [Plan(mount, bundle) for mount in recipe]
        if self.layers[0].destination != "/":
            raise InvalidArgument("the first mount of a root file system must be on /")
        self.plans = [Plan(mount, bundle) for mount in mounts]
        for plan in self.plans:
            if plan.destination == "/" and not plan.existing:
                raise InvalidArgument("mounts: / is the root file system's own place")
        for plan in (*self.layers, *self.plans):
            plan.open_source(self.userns, self.start_propagation)
        _open_overlays(self)

    def held(self) -> tuple[int, ...]:
        """Copies of the descriptors of the file systems that were mounted for the root."""
        return tuple(
            os.dup(plan.descriptor)
            for plan in self.layers
            if plan.descriptor >= 0 and not plan.options.bind
        )

    def close(self) -> None:
        """Release every descriptor; a detached mount nobody attached ends with it."""
        for plan in (*self.layers, *self.plans):
            plan.close()
        self.userns.close()


def prepare(launch: Launch) -> Prepared:
    """Validate and open all that ``launch`` needs of the host. ``NotFound`` names a missing source,
    ``InvalidArgument`` what the configuration gets wrong; nothing is left behind."""
    spec = launch.spec
    if spec.root is None:
        raise InvalidArgument("root: required, and missing")
    linux = spec.linux or Linux()
    prepared = Prepared(_root_path(spec.root.path, launch.bundle), linux)
    try:
        _check(spec, linux, prepared.own_mounts, bool(launch.rootfs))
        sysctl.validate(linux)
        prepared.devices = devices.planned(linux)
        if not prepared.own_mounts:
            return prepared
        recipe = launch.rootfs or (
            Mount(destination="/", type="bind", source=prepared.path, options=("rbind",)),
        )
        prepared.open(recipe, spec.mounts, launch.bundle)
    except BaseException:
        prepared.close()
        raise
    return prepared


class Site:
    """A root file system in the making: attached in the container's mount namespace, and all of it
    there but the mounts in ``later``."""

    __slots__ = ("builder", "later", "root")

    def __init__(self, root: int, builder: Builder | None, later: list[Plan]) -> None:
        self.root = root
        self.builder = builder
        self.later = later

    def close(self) -> None:
        """Release the descriptors."""
        os.close(self.root)
        if self.builder is not None:
            self.builder.close()


def build(launch: Launch, prepared: Prepared, procfs: paths.Procfs) -> Root:
    """Put the root file system together in the calling process's own namespaces."""
    return complete(lay(launch, prepared, procfs, frozenset()), launch, prepared, procfs)


def lay(launch: Launch, prepared: Prepared, procfs: paths.Procfs, later: frozenset[str]) -> Site:
    """The first part of ``build``: all but the file systems of these types, and what has to do
    with their places, which ``complete`` adds in a process that may be another.

    In the container's mount namespace, and for what is mounted in its network and IPC namespace.
    """
    linux = prepared.linux
    if not prepared.own_mounts:
        return Site(_open_directory(prepared.path), None, [])
    umask = os.umask(0)
    try:
        if not _is_joined(linux):
            kind = prepared.start_propagation or km.MS_SLAVE
            km.mount(None, "/", None, km.MS_REC | kind)
        builder = Builder(
            root=-1,
            procfs=procfs,
            propagation=prepared.start_propagation,
            has_userns=prepared.has_userns,
            group=launch.group,
            label=linux.mount_label,
            own_cgroupns=any(entry.type == "cgroup" for entry in linux.namespaces),
        )
        waiting: list[Plan] = []
        site = Site(assemble(prepared, builder, later, waiting), builder, waiting)
        try:
            if not _binds_dev(prepared):
                devices.make_all(site.root, prepared.devices, bind=prepared.has_userns)
                devices.make_links(site.root)
            for path, target in launch.links.items():
                devices.make_link(site.root, path, target)
        except BaseException:
            site.close()
            raise
    finally:
        os.umask(umask)
    return site


def complete(site: Site, launch: Launch, prepared: Prepared, procfs: paths.Procfs) -> Root:
    """The second part of ``build``, in all of the container's namespaces."""
    spec, linux = launch.spec, prepared.linux
    if site.builder is None:
        return Root(site.root, spec, linux, "chroot")
    site.builder.procfs = procfs
    umask = os.umask(0)
    try:
        for plan in site.later:
            site.builder.mount(plan)
    except BaseException:
        site.close()
        raise
    finally:
        os.umask(umask)
    site.builder.close()
    late = tuple(
        plan.destination
        for plan in prepared.plans
        if plan.destination == "/dev"
        and not plan.options.bind
        and (plan.options.set | plan.options.recursive_set) & km.MOUNT_ATTR_RDONLY
    )
    return Root(site.root, spec, linux, "chroot" if _is_joined(linux) else "pivot", late)


def _is_joined(linux: Linux) -> bool:
    return any(entry.type == "mount" and entry.path for entry in linux.namespaces)


def _binds_dev(prepared: Prepared) -> bool:
    return any(plan.options.bind and plan.destination == "/dev" for plan in prepared.plans)


def _waits(plan: Plan, before: list[Plan], kinds: frozenset[str]) -> bool:
    """Whether a mount has to wait: for its kind, or because it is on, below or above the place of
    one that waits."""
    if plan.fstype in kinds and not plan.options.bind:
        return True
    place = plan.destination.rstrip("/") + "/"
    for other in before:
        theirs = other.destination.rstrip("/") + "/"
        if place.startswith(theirs) or theirs.startswith(place):
            return True
    return False


def assemble(
    prepared: Prepared,
    builder: Builder,
    later: frozenset[str] = frozenset(),
    waiting: list[Plan] | None = None,
) -> int:
    """Make all that is mounted, but what has to wait for file systems of the kinds ``later``, which
    ``waiting`` gets; the root's descriptor. In a mount namespace of the caller's own, with no
    umask. Closes ``builder``.
    """
    skipped: list[Plan] = [] if waiting is None else waiting
    try:
        root = builder.root = _root_mount(prepared, builder)
        try:
            for plan in prepared.layers[1:]:
                builder.mount(plan)
            if any(plan.options.copyup for plan in prepared.plans):
                builder.image = _mount_ids(root, prepared, builder)
            for plan in prepared.plans:
                if _waits(plan, skipped, later):
                    skipped.append(plan)
                else:
                    builder.mount(plan)
        except BaseException:
            os.close(root)
            raise
    finally:
        builder.close()
    return root


class Root:
    """A root file system that was built; ``fd`` is its root directory (O_PATH)."""

    __slots__ = ("_how", "_late", "_linux", "_spec", "fd")

    def __init__(
        self, fd: int, spec: Spec, linux: Linux, how: str, late: tuple[str, ...] = ()
    ) -> None:
        self.fd = fd
        self._spec = spec
        self._linux = linux
        self._how = how
        self._late = late

    def console(self, slave_fd: int) -> None:
        """Put the terminal ``slave_fd``, of the container's own devpts, on /dev/console."""
        devices.bind_console(self.fd, slave_fd)

    def enter(self, no_pivot: bool = False) -> None:
        """Make this the root and working directory of the calling process."""
        os.fchdir(self.fd)
        if self._how == "chroot":
            os.chroot(".")
        elif no_pivot:
            _move_to_root(self.fd)
        else:
            # The old root lands on top of the new one, where umount2(2) finds it as ".". It was
            # made a slave in ``build``, so the host sees nothing of its going.
            km.pivot_root(".", ".")
            km.umount(".", km.MNT_DETACH)
        os.chdir("/")

    def finish(self) -> None:
        """Seal it: read-only paths, masked paths, propagation; the root itself read-only last."""
        linux = self._linux
        masks.readonly_all(self.fd, linux.readonly_paths)
        masks.mask_all(self.fd, linux.masked_paths)
        masks.seal(self.fd, self._late)
        if linux.rootfs_propagation and self._how == "pivot":
            kind, whole = _PROPAGATIONS[linux.rootfs_propagation]
            apply(self.fd, [(whole, 0, 0, kind)])
        if self._spec.root is not None and self._spec.root.readonly:
            km.mount_setattr(self.fd, "", 0, km.MOUNT_ATTR_RDONLY)

    def close(self) -> None:
        """Release the descriptor; the mounts stay as long as their namespace."""
        os.close(self.fd)


def _root_path(path: str, bundle: str) -> str:
    full = os.path.normpath(os.path.join(bundle, path))
    try:
        status = os.lstat(full)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            raise NotFound(f"root.path: {full} does not exist") from None
        raise KernelError("lstat", error.errno or 0, full) from None
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise InvalidArgument(f"root.path: {full} is {kind}")
    return full


def _check(spec: Spec, linux: Linux, own_mounts: bool, recipe: bool) -> None:
    propagation = linux.rootfs_propagation
    if propagation and propagation not in _PROPAGATIONS:
        raise InvalidArgument(f"linux.rootfsPropagation: {propagation!r} is no propagation")
    if own_mounts:
        return
    for field, wanted in (
        ("mounts", bool(spec.mounts) or recipe),
        ("linux.maskedPaths", bool(linux.masked_paths)),
        ("linux.readonlyPaths", bool(linux.readonly_paths)),
        ("linux.rootfsPropagation", bool(propagation)),
        ("root.readonly", bool(spec.root and spec.root.readonly)),
        ("linux.devices", bool(linux.devices)),
    ):
        if wanted:
            raise InvalidArgument(f"{field}: needs a mount namespace of the container's own")


def _open_overlays(prepared: Prepared) -> None:
    """The storage driver's overlays, with the host's rights; the child tries what fails for lack
    of them (a user's own user namespace may mount overlays)."""
    for plan in prepared.layers:
        if plan.fstype == "overlay":
            try:
                plan.descriptor = overlay.detached(plan.options)
            except KernelError as error:
                if error.errno != EPERM or os.geteuid() == 0:
                    raise


def _open_directory(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None


def _root_mount(prepared: Prepared, builder: Builder) -> int:
    """Attach the root on its own path, private whatever it was cloned from; its descriptor."""
    plan = prepared.layers[0]
    try:
        place = _open_directory(prepared.path)
    except KernelError as error:
        # The user namespace's root may not get there; where it hangs until pivot_root is no matter.
        if error.errno != EACCES:
            raise
        place = _open_directory("/")
    try:
        if plan.options.bind:
            fd = builder.clone(plan)
        elif plan.descriptor >= 0:
            fd, plan.descriptor = plan.descriptor, -1
        else:
            fd = builder.filesystem(plan)
        if fd < 0:
            overlay.mount_old(plan.options, prepared.path, plan.options.old_flags())
            return _open_directory(prepared.path)
        apply(fd, [(False, 0, 0, km.MS_PRIVATE)])
        km.attach(fd, place)
        return fd
    finally:
        os.close(place)


def _mount_ids(root: int, prepared: Prepared, builder: Builder) -> frozenset[int]:
    """The mounts the image is in, before anything else is mounted."""
    found = {builder.mount_id(root)}
    for plan in prepared.layers[1:]:
        fd = paths.open_in_root(root, plan.destination, os.O_PATH)
        try:
            found.add(builder.mount_id(fd))
        finally:
            os.close(fd)
    return frozenset(found)


def _move_to_root(fd: int) -> None:
    """For a root that pivot_root(2) refuses (a ramfs): move the mount over /, and chroot.

    The old tree stays below, out of reach of path lookups only. Its procfs and sysfs would still
    let a user namespace mount new ones without the masks, so they go first.
    """
    for entry in reversed(km.mountinfo()):
        if entry.fstype in ("proc", "sysfs") and not _below(entry.mount_point):
            try:
                km.umount(entry.mount_point, km.MNT_DETACH)
            except KernelError as error:
                if error.errno not in (EINVAL, EPERM):
                    raise
                km.mount("tmpfs", entry.mount_point, "tmpfs", km.MS_RDONLY)
    km.move_mount(fd, "", AT_FDCWD, "/")
    os.fchdir(fd)
    os.chroot(".")


def _below(mount_point: str) -> bool:
    """Whether the mount point is in the working directory's tree, the new root."""
    top = os.getcwd()
    return mount_point == top or mount_point.startswith(top.rstrip("/") + "/")
