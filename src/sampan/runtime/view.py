"""A container's root file system, for us to look into, by one descriptor.

Of one that runs it is what its first process stands on (``/proc/PID/root``): from there the kernel
shows every mount of the container's. Of one that does not run it is put together: the storage
driver's recipe and the container's own mounts are made by the code that makes them for a start, in
a mount namespace of one thread, and copied as a detached tree (open_tree(2)), attached nowhere,
which nobody else can see or change and which ends when it is closed. In the copy no device can be
opened and no set-user-ID bit means anything.

Either way we stay in this machine's root and in our own mount namespace: nothing of ours looks up
a path, or imports a module, inside the container's (CVE-2019-14271).
"""

from __future__ import annotations

import os
import threading
from errno import EACCES, ENOENT, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import Conflict
from sampan.kernel import mounts as km
from sampan.kernel import namespaces as kernel
from sampan.kernel.processes import start_time
from sampan.kernel.procfs import Procfs
from sampan.oci.runtime import Linux, Namespace
from sampan.runtime.mount import Builder
from sampan.runtime.rootfs import Prepared, assemble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.oci.runtime import Mount

__all__ = ["open_running", "open_view"]

_INERT = km.MOUNT_ATTR_NODEV | km.MOUNT_ATTR_NOSUID | km.MOUNT_ATTR_NOEXEC
_OWN = Linux(namespaces=(Namespace(type="mount"),), rootfs_propagation="rprivate")


def open_running(pid: int, started: int) -> tuple[int, int]:
    """Descriptors of a running container's root (O_PATH) and of its mount namespace, which keeps
    what is mounted in the root as long as it is held.

    ``started`` is the start time of its first process, ``pid``: Conflict when that has ended.
    """
    gone = Conflict("the container has ended just now: try again")
    namespace = root = -1
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # If it is still there, what was opened is its own: no number is used twice at once.
        if start_time(pid) == started:
            return root, namespace
    except OSError as error:
        if error.errno not in (ENOENT, ESRCH, EACCES):
            raise
    for fd in (root, namespace):
        if fd >= 0:
            os.close(fd)
    raise gone


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
