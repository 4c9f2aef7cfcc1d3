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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.kernel.namespaces import CLONE_NEWNS, unshare
from sampan.oci.runtime import Mount
from sampan.runtime import mount_options, overlay
from sampan.sdk.apart import apart
from sampan.storage.drivers import pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Base", "inside", "make", "recipe", "view"]

T = TypeVar("T")


class Base(NamedTuple):
    """What a root stands on: ``lower`` as overlay's option has it, ``top`` the path of the topmost
    layer, ``system`` directories of this machine laid over it."""

    lower: str
    top: str
    system: tuple[str, ...] = ()


def make(directory: str, base: Base) -> None:
    """Make the writable directories of a root in an existing directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for destination, _ in _lowers(base):
            below = base.top if destination == "/" else destination
            pairs.make_pair(fd, _suffix(destination), os.stat(below))
    finally:
        os.close(fd)


def recipe(directory: str, base: Base) -> tuple[Mount, ...]:
    """The mounts of a container's root, "/" first."""
    return tuple(
        pairs.overlay(destination, lower, directory, _suffix(destination), ("volatile",))
        for destination, lower in _lowers(base)
    )


def view(directory: str, base: Base) -> tuple[Mount, ...]:
    """The same root, read only."""
    made = []
    for destination, lower in _lowers(base):
        upper = f"{directory}/upper{_suffix(destination)}"
        options = (f"lowerdir={upper}:{lower}", *pairs.OPTIONS, "ro")
        made.append(
            Mount(destination=destination, type="overlay", source="overlay", options=options)
        )
    return tuple(made)


def _lowers(base: Base) -> tuple[tuple[str, str], ...]:
    return (("/", base.lower), *((path, path) for path in base.system))


def _suffix(destination: str) -> str:
    return "" if destination == "/" else destination.replace("/", "%")


def inside(mounts: Sequence[Mount], place: str, call: Callable[[int], T]) -> T:
    """What ``call`` makes of a descriptor of the root these mounts make, in a thread of its own.

    ``place`` is an empty directory. Writable mounts can be made again afterwards. In ``call`` the
    file mode creation mask is 0 and the working directory nobody else's.
    """

    def work() -> tuple[T]:
        unshare(CLONE_NEWNS)  # and with it what clone(2) calls CLONE_FS
        km.mount(None, "/", None, km.MS_REC | km.MS_PRIVATE)
        os.umask(0)
        return (_inside(mounts, place, call),)

    done, error, interrupt = apart(work)
    error = interrupt or error
    if done is None or error is not None:
        assert error is not None
        raise error
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
            for option in mount.options:
                if option.startswith("workdir="):
                    pairs.forget_volatile(option.partition("=")[2])


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
