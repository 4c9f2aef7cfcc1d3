"""Root file systems of a session: an overlay that is thrown away, and a look inside from outside.

    <directory>/upper  work             what a container writes to its root
    <directory>/upper%usr  work%usr …   the same for each directory of this machine (image ``host``)

Nobody ever needs what was written after the machine stopped, so these overlays are ``volatile``:
they never sync, as ordinary ones do at each unmount (the kernel's overlayfs.rst, "Volatile mount").

To put files in and take files out, ``inside`` mounts the same overlays in a mount namespace of one
thread's own. Nobody else sees them, and they end with the thread, however that ends.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.kernel.namespaces import CLONE_NEWNS, unshare
from sampan.oci.runtime import Mount
from sampan.runtime import mount_options, overlay
from sampan.storage.drivers.overlaid import copy_root_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Base", "inside", "make", "recipe", "view"]

T = TypeVar("T")
_OPTIONS = ("index=off", "redirect_dir=off", "metacopy=off")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Base(NamedTuple):
    """What a root stands on: ``lower`` as overlay's option has it, ``top`` the path of the topmost
    layer, ``system`` directories of this machine laid over it."""

    lower: str
    top: str
    system: tuple[str, ...] = ()


def make(directory: str, base: Base) -> None:
    """Make the writable directories of a root in an existing directory."""
    fd = os.open(directory, _DIRECTORY)
    try:
        for place, below in (("", base.top), *((path, path) for path in base.system)):
            suffix = place.replace("/", "%")
            os.mkdir(f"upper{suffix}", 0o755, dir_fd=fd)
            os.mkdir(f"work{suffix}", 0o700, dir_fd=fd)
            copy_root_attributes(os.stat(below), f"upper{suffix}", fd)
    finally:
        os.close(fd)


def recipe(directory: str, base: Base) -> tuple[Mount, ...]:
    """The mounts of a container's root, "/" first."""
    made = []
    for place, lower in (("/", base.lower), *((path, path) for path in base.system)):
        suffix = "" if place == "/" else place.replace("/", "%")
        options = (
            f"lowerdir={lower}",
            f"upperdir={directory}/upper{suffix}",
            f"workdir={directory}/work{suffix}",
            *_OPTIONS,
            "volatile",
        )
        made.append(Mount(destination=place, type="overlay", source="overlay", options=options))
    return tuple(made)


def view(directory: str, base: Base) -> tuple[Mount, ...]:
    """The same root, read only."""
    made = []
    for place, lower in (("/", base.lower), *((path, path) for path in base.system)):
        suffix = "" if place == "/" else place.replace("/", "%")
        options = (f"lowerdir={directory}/upper{suffix}:{lower}", *_OPTIONS, "ro")
        made.append(Mount(destination=place, type="overlay", source="overlay", options=options))
    return tuple(made)


def inside(mounts: Sequence[Mount], place: str, call: Callable[[int], T]) -> T:
    """What ``call`` makes of a descriptor of the root these mounts make, in a thread of its own.

    ``place`` is an empty directory. Writable mounts can be made again afterwards. In ``call`` the
    file mode creation mask is 0 and the working directory nobody else's.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            unshare(CLONE_NEWNS)  # and with it what clone(2) calls CLONE_FS
            km.mount(None, "/", None, km.MS_REC | km.MS_PRIVATE)
            os.umask(0)
            done.append(_inside(mounts, place, call))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            failed.append(error)

    thread = threading.Thread(target=work, name="sampan-view")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _inside(mounts: Sequence[Mount], place: str, call: Callable[[int], T]) -> T:
    root = -1
    try:
        for mount in mounts:
            options = mount_options.parse(mount.options, mount.type, mount.destination)
            fd = overlay.detached(options)
            if fd >= 0:
                _attach(fd, root, place, mount.destination)
            else:
                # Many layers, and a kernel before 6.7. Only the first mount has many.
                overlay.mount_old(options, place, options.old_flags())
                fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if root < 0:
                root = fd
            else:
                os.close(fd)
        return call(root)
    finally:
        if root >= 0:
            os.close(root)
            km.umount(place, km.MNT_DETACH)
        for mount in mounts:
            _forget_volatile(mount)


def _attach(fd: int, root: int, place: str, destination: str) -> None:
    """Put a mount on the root's own place, or on a directory inside it."""
    target = (
        os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if root < 0
        else paths.make_directory_in_root(root, destination)
    )
    try:
        km.attach(fd, target)
    finally:
        os.close(target)


def _forget_volatile(mount: Mount) -> None:
    """Let the same directories be mounted once more: the machine has not stopped in between."""
    for option in mount.options:
        if option.startswith("workdir="):
            mark = f"{option.partition('=')[2]}/work/incompat/volatile"
            try:
                os.unlink(f"{mark}/dirty")
                os.rmdir(mark)
            except FileNotFoundError:
                pass  # It was never mounted.
