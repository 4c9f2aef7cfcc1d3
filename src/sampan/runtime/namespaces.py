"""Which namespaces a container gets, and the order in which they can be had.

New ones come with one clone3(2): its kernel side makes the user namespace first, so that the others
belong to it. Three things do not fit into one clone, and take a *stage*, an intermediate process
whose child is born as the caller's (CLONE_PARENT):

* a joined pid namespace holds the children of who joins, not the joiner (setns(2));
* joining wants rights over the namespace's owner, so it comes before a new user namespace, and
  after joining one where only that gives the rights;
* a time namespace's offsets are writable until a process enters it, and children enter
  (time_namespaces(7)).

The cgroup namespace is unshared by the child once it is in its cgroup, which becomes the root.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotFound, PermissionDenied, Unavailable
from sampan.kernel import namespaces as kernel
from sampan.kernel.clone import CLONE_PARENT, clone3
from sampan.kernel.namespaces import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.errors import SampanError
    from sampan.oci.runtime import IdMapping, Linux, Spec
    from sampan.runtime.gate import Channel

__all__ = ["Plan", "become_root", "map_ids", "refused"]


class Plan:
    """The namespaces of one container; holds descriptors of the joined ones until ``close``."""

    __slots__ = ("cgroup", "joined", "linux", "new", "offsets", "time", "user")

    def __init__(self, spec: Spec) -> None:
        linux = spec.linux
        self.linux = linux
        self.new = 0
        self.joined: list[tuple[str, int, int]] = []
        for namespace in linux.namespaces if linux else ():
            flag = KINDS[namespace.type][0]
            if namespace.path is None:
                self.new |= flag
                continue
            try:
                fd = _open(namespace.path, namespace.type, flag)
            except (InvalidArgument, NotFound, PermissionDenied):
                self.close()
                raise
            if namespace.type == "user" and _is_ours(fd):
                os.close(fd)  # setns(2) refuses to join the user namespace one is in
                continue
            self.joined.append((namespace.type, flag, fd))
        self.cgroup = bool(self.new & kernel.CLONE_NEWCGROUP)
        self.time = bool(self.new & kernel.CLONE_NEWTIME)
        self.new &= ~(kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWTIME)
        self.offsets = dict(linux.time_offsets) if linux else {}
        self.user = bool(self.new & kernel.CLONE_NEWUSER)

    @property
    def staged(self) -> bool:
        """Whether an intermediate process is needed; see the module's text."""
        return (
            self.time
            or (self.user and bool(self.joined))
            or any(kind in ("pid", "user") for kind, _, _ in self.joined)
        )

    @property
    def is_plain(self) -> bool:
        """Whether all is new, the process's and the mount namespace among it, and nobody else's
        rights are needed: then the parent may enter the others, and have the child born there."""
        both = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
        return self.new & both == both and not (self.joined or self.user or self.time)

    @property
    def joins_user(self) -> bool:
        """Whether the container's user namespace is somebody else's."""
        return any(kind == "user" for kind, _, _ in self.joined)

    def close(self) -> None:
        """Close the joined namespaces' descriptors."""
        for _, _, fd in self.joined:
            os.close(fd)
        self.joined = []

    def join(self) -> None:
        """Join what is to be joined, in this process.

        The user namespace comes last, for a privileged caller has rights over the others already;
        what was refused without it is tried again with it.
        """
        ordered = sorted(self.joined, key=lambda item: item[0] == "user")
        refused = []
        for kind, flag, fd in ordered:
            try:
                kernel.setns(fd, flag)
            except KernelError as error:
                if error.errno != errno.EPERM or kind == "user" or not self.joins_user:
                    raise
                refused.append((flag, fd))
        for flag, fd in refused:
            kernel.setns(fd, flag)
        if self.joins_user and self.linux is not None:
            _check_joined_map("uid_map", self.linux.uid_mappings)
            _check_joined_map("gid_map", self.linux.gid_mappings)

    def stage(self, channel: Channel) -> None:
        """Run the intermediate process; returns in its child only, which is the caller's child."""
        offsets_fd = -1
        if self.offsets:
            offsets_fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        self.join()
        flags = self.new
        if self.time:
            if self.user:
                kernel.unshare(kernel.CLONE_NEWUSER)
                flags &= ~kernel.CLONE_NEWUSER
                channel.send(b"M")
                channel.expect(b"m")
                become_root()
            kernel.unshare(kernel.CLONE_NEWTIME)
            if offsets_fd >= 0:
                self._write_offsets(offsets_fd)
        try:
            pid, _ = clone3(flags | CLONE_PARENT)
        except KernelError as error:
            raise refused(error, flags) from None
        if pid:
            channel.send(b"P", str(pid).encode())
            os._exit(0)
        if offsets_fd >= 0:
            os.close(offsets_fd)

    def _write_offsets(self, fd: int) -> None:
        text = "".join(
            f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in self.offsets.items()
        )
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise KernelError("write", error.errno or 0, f"linux.timeOffsets ({text!r})") from None


def refused(error: KernelError, flags: int) -> SampanError:
    """What to tell of a clone3(2) that failed for lack of rights or room for its namespaces."""
    kinds = ", ".join(kind for kind, (flag, _) in KINDS.items() if flags & flag)
    if not kinds or error.errno not in (errno.EPERM, errno.ENOSPC, errno.EUSERS):
        return error
    new = f"linux.namespaces: new {kinds} namespaces cannot be made ({error.message})"
    if error.errno != errno.EPERM:
        return Unavailable(f"{new}: see the limits in /proc/sys/user, or run as root")
    if flags & kernel.CLONE_NEWUSER:
        return PermissionDenied(
            f"{new}: this machine lets users make no user namespace; run as root, or allow them "
            "(user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor)"
        )
    return PermissionDenied(f"{new}: run as root, or have the container make a user namespace too")


def become_root() -> None:
    """Take the IDs 0 of the user namespace this process is in, where it has them."""
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise KernelError(change.__name__, error.errno or 0, "0") from None


def map_ids(pid: int, linux: Linux) -> None:
    """Write the maps of ``pid``'s new user namespace, itself or through newuidmap(1).

    An unprivileged caller may map its own ID alone (and then loses setgroups); for ranges the
    set-user-ID helpers check /etc/subuid.
    """
    if os.geteuid() == 0:
        kernel.write_id_map(pid, "gid_map", _rows(linux.gid_mappings))
        kernel.write_id_map(pid, "uid_map", _rows(linux.uid_mappings))
        return
    if _is_own(linux.gid_mappings, os.getegid()):
        kernel.deny_setgroups(pid)
        kernel.write_id_map(pid, "gid_map", _rows(linux.gid_mappings))
    else:
        _run_helper("newgidmap", pid, linux.gid_mappings)
    if _is_own(linux.uid_mappings, os.geteuid()):
        kernel.write_id_map(pid, "uid_map", _rows(linux.uid_mappings))
    else:
        _run_helper("newuidmap", pid, linux.uid_mappings)


def _rows(mappings: Sequence[IdMapping]) -> list[tuple[int, int, int]]:
    return [(one.container_id, one.host_id, one.size) for one in mappings]


def _is_own(mappings: Sequence[IdMapping], own: int) -> bool:
    return len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own


def _run_helper(name: str, pid: int, mappings: Sequence[IdMapping]) -> None:
    arguments = [str(number) for row in _rows(mappings) for number in row]
    try:
        helper = os.posix_spawnp(name, [name, str(pid), *arguments], os.environ)
    except FileNotFoundError:
        raise Unavailable(
            f"{name} is not installed; mapping ranges of IDs without being root needs it "
            "(package uidmap)"
        ) from None
    _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionDenied(
            f"{name} {' '.join(arguments)}: refused; see /etc/subuid and /etc/subgid"
        )


def _open(path: str, kind: str, flag: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"{kind} namespace {path}: no such file") from None
    except OSError as error:
        raise PermissionDenied(f"{kind} namespace {path}: {error.strerror}") from None
    try:
        found = kernel.namespace_type(fd)
    except KernelError:
        found = 0
    if found != flag:
        os.close(fd)
        raise InvalidArgument(f"{kind} namespace {path}: not a namespace of that type")
    return fd


def _is_ours(fd: int) -> bool:
    return os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user"))


def _check_joined_map(name: str, mappings: Sequence[IdMapping]) -> None:
    if not mappings:
        return
    with open(f"/proc/self/{name}", "rb") as file:
        rows = sorted(tuple(map(int, line.split())) for line in file)
    if rows != sorted(_rows(mappings)):
        raise InvalidArgument(f"the joined user namespace's {name} is not the one configured")
