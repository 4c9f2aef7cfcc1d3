"""A container's root file system without the container: put together for us to look into.

The storage driver's recipe and the container's own mounts are made by the code that makes them for
a start, in a mount namespace of one thread, and copied as a detached tree (open_tree(2)): one
descriptor, attached nowhere, which nobody else can see or change and which ends when it is closed.
In the copy no device can be opened and no set-user-ID bit means anything.

The thread stays in this machine's root: nothing of ours looks up a path, or imports a module,
inside the container's (CVE-2019-14271).
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from sampan.kernel import mounts as km
from sampan.kernel import namespaces as kernel
from sampan.kernel.procfs import Procfs
from sampan.oci.runtime import Linux, Namespace
from sampan.runtime.mount import Builder
from sampan.runtime.rootfs import Prepared, assemble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.oci.runtime import Mount

__all__ = ["open_view"]

_INERT = km.MOUNT_ATTR_NODEV | km.MOUNT_ATTR_NOSUID | km.MOUNT_ATTR_NOEXEC
_OWN = Linux(namespaces=(Namespace(type="mount"),), rootfs_propagation="rprivate")


def open_view(
    recipe: Sequence[Mount], mounts: Sequence[Mount], place: str, *, readonly: bool = False
) -> int:
    """A descriptor of the root (O_PATH), the caller's. Blocks; any thread may call it.

    ``recipe`` makes the root, "/" first; ``mounts`` are put into it; ``place`` is any directory of
    this machine, to mount on. ``readonly``: of the root itself. Raises what a start would: NotFound
    (a source), InvalidArgument, KernelError.
    """
    result: list[int | BaseException] = []

    def work() -> None:
        try:
            result.append(_make(recipe, mounts, place, readonly))
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            result.append(error)

    # A thread that has left the mount namespace is good for nothing else afterwards.
    thread = threading.Thread(target=work, name="sampan-view", daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _make(recipe: Sequence[Mount], mounts: Sequence[Mount], place: str, readonly: bool) -> int:
    kernel.unshare(kernel.CLONE_NEWNS)  # with it goes the sharing of root, directory and umask
    km.mount(None, "/", None, km.MS_REC | km.MS_PRIVATE)
    os.umask(0)
    prepared = Prepared(place, _OWN)
    try:
        prepared.open(recipe, mounts, "/")
        with Procfs(subset=True) as procfs:
            builder = Builder(
                root=-1,
                procfs=procfs,
                propagation=km.MS_PRIVATE,
                has_userns=False,
                group=None,
                own_cgroupns=False,
            )
            root = assemble(prepared, builder)
    finally:
        prepared.close()
    try:
        if readonly:
            km.mount_setattr(root, "", 0, km.MOUNT_ATTR_RDONLY)
        tree = km.clone_tree(root, recursive=True)
    finally:
        os.close(root)
    km.mount_setattr(tree, "", km.AT_RECURSIVE, _INERT, propagation=km.MS_PRIVATE)
    return tree
