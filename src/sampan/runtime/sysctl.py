"""Kernel parameters of a container's own namespaces: ``linux.sysctl``.

After sysctl(8), proc_sys(5) and the runtime specification. Only what a namespace of the container
holds may be set: a parameter of the machine would change every container and the host. Writes go
through a procfs that is our own (see ``sampan.kernel.procfs``; CVE-2019-19921, CVE-2025-52881).
"""

from __future__ import annotations

import os
from errno import ENOENT
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError

if TYPE_CHECKING:
    from sampan.kernel.paths import Procfs
    from sampan.oci.runtime import Linux, Spec

__all__ = ["apply", "check", "path_of", "validate"]

_IPC = frozenset(
    f"kernel/{name}"
    for name in (
        "msgmax",
        "msgmnb",
        "msgmni",
        "msg_next_id",
        "sem",
        "sem_next_id",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_next_id",
        "shm_rmid_forced",
    )
)


def path_of(key: str) -> str:
    """The path below ``/proc/sys`` of a parameter, written ``net.ipv4.ip_forward`` or with slashes.

    As in sysctl(8) the first of the two separators decides; the other then stands for itself, so
    that ``net/ipv4/conf/eth0.1/forwarding`` and ``net.ipv4.conf.eth0/1.forwarding`` are the same.
    """
    slash, dot = key.find("/"), key.find(".")
    if slash < 0 or 0 <= dot < slash:
        key = key.translate({ord("."): "/", ord("/"): "."})
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise InvalidArgument(f"linux.sysctl: {key!r} is not the name of a kernel parameter")
    return key


def check(linux: Linux) -> dict[str, str]:
    """The parameters by their path below ``/proc/sys``; ``InvalidArgument`` for one that is not of
    a namespace the container has to itself (or has joined)."""
    present = {entry.type for entry in linux.namespaces}
    result: dict[str, str] = {}
    for key, value in linux.sysctl.items():
        path = path_of(key)
        needed = _namespace(path)
        if path == "kernel/hostname":
            raise InvalidArgument("linux.sysctl: kernel.hostname is set by the field hostname")
        if not needed:
            raise InvalidArgument(f"linux.sysctl: {key} belongs to the machine, not to a container")
        if needed not in present:
            raise InvalidArgument(
                f"linux.sysctl: {key} needs a {needed} namespace of the container's own"
            )
        result[path] = value
    return result


def validate(linux: Linux) -> None:
    """``check``, and that a joined network namespace is not the machine's. For the parent."""
    paths = check(linux)
    for entry in linux.namespaces:
        if entry.type == "network" and entry.path and any(p.startswith("net/") for p in paths):
            try:
                same = os.path.samefile(entry.path, "/proc/self/ns/net")
            except OSError as error:
                raise KernelError("stat", error.errno or 0, entry.path) from None
            if same:
                raise InvalidArgument(
                    f"linux.sysctl: net.* would be the machine's: {entry.path} is its namespace"
                )


def apply(spec: Spec, procfs: Procfs) -> None:
    """Set ``linux.sysctl`` of ``spec``, in the namespaces of the calling process."""
    if spec.linux is None or not spec.linux.sysctl:
        return
    for path, value in check(spec.linux).items():
        try:
            procfs.write(f"sys/{path}", value)
        except KernelError as error:
            if error.errno == ENOENT:
                raise InvalidArgument(
                    f"linux.sysctl: this kernel has no parameter {path.replace('/', '.')}"
                ) from None
            raise


def _namespace(path: str) -> str:
    """The kind of namespace that holds the parameter; "" for the machine's."""
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("net/"):
        return "network"
    if path.startswith("user/"):
        return "user"
    return "uts" if path in ("kernel/domainname", "kernel/hostname") else ""
