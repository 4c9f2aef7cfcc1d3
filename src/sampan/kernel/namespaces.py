"""Namespaces: making, joining and telling them apart.

After namespaces(7), unshare(2), setns(2) and ioctl_nsfs(2). ``unshare(CLONE_NEWUSER)``,
``setns`` into a user or mount namespace want a process with a single thread. A new pid or time
namespace holds the *children* of who asks for it.
"""

from __future__ import annotations

import fcntl
import os

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.syscalls import c_string, syscall

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# unshare(2): also give up sharing the working directory, root and umask with other threads
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_SYSVSEM = 0x00040000

KINDS: dict[str, tuple[int, str]] = {
    "user": (CLONE_NEWUSER, "user"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "network": (CLONE_NEWNET, "net"),
    "pid": (CLONE_NEWPID, "pid"),
    "time": (CLONE_NEWTIME, "time"),
    "mount": (CLONE_NEWNS, "mnt"),
}
"""Runtime-spec name -> (clone flag, name in ``/proc/PID/ns``), in an order fit for joining: the
user namespace first, for the rights over the others; the mount namespace last, for the paths."""

_NS_GET_USERNS = 0xB701
_NS_GET_NSTYPE = 0xB703


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones."""
    syscall("unshare", flags, target=_names(flags))


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace ``fd``, which must be of the kind ``flags`` says unless that is 0.

    With a pidfd, join the namespaces of that process that ``flags`` names, all or none (Linux 5.8).
    """
    syscall("setns", fd, flags, target=f"fd {fd} {_names(flags)}".rstrip())


class Abroad:
    """A stay in new namespaces, from ``unshare`` to the way back: ``return_home``.

    For a process of one thread, and any namespaces but user, pid and time. setns(2) into the old
    mount namespace leads to its root directory; the working directory is restored.
    """

    __slots__ = ("_directory", "_home")

    def __init__(self, flags: int) -> None:
        self._home: list[tuple[int, int]] = []
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for flag, name in KINDS.values():
                if flags & flag:
                    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                    self._home.append((flag, fd))
            unshare(flags)
        except OSError as error:
            self._close()
            raise KernelError("open", error.errno or 0, str(error.filename)) from None
        except KernelError:
            self._close()
            raise

    def stay(self) -> None:
        """Give up the way back."""
        self._close()

    def return_home(self) -> None:
        """Join the old namespaces again."""
        try:
            for flag, fd in self._home:
                setns(fd, flag)
            os.fchdir(self._directory)
        finally:
            self._close()

    def _close(self) -> None:
        os.close(self._directory)
        while self._home:
            os.close(self._home.pop()[1])


def namespace_type(fd: int) -> int:
    """The ``CLONE_NEW*`` flag of the namespace ``fd``; ``ENOTTY`` if it is no namespace."""
    return _ioctl(fd, _NS_GET_NSTYPE, "NS_GET_NSTYPE")


def owning_user_namespace(fd: int) -> int:
    """A descriptor of the user namespace that owns ``fd``; ``EPERM`` if it is out of our scope."""
    return _ioctl(fd, _NS_GET_USERNS, "NS_GET_USERNS")


def open_namespace(pid: int | str, kind: str, for_children: bool = False) -> int:
    """A descriptor of the ``kind`` namespace (a key of ``KINDS``) of process ``pid`` or "self".

    ``for_children``: of the pid or time namespace its next children will be in.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"namespace type {kind!r}: expected one of {', '.join(KINDS)}")
    name = KINDS[kind][1] + ("_for_children" if for_children else "")
    path = f"/proc/{pid}/ns/{name}"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None


def set_hostname(name: str) -> None:
    """The host name of this UTS namespace; at most 64 bytes."""
    raw = c_string(name)
    syscall("sethostname", raw, len(raw), target=name)


def set_domainname(name: str) -> None:
    """The NIS domain name of this UTS namespace; at most 64 bytes."""
    raw = c_string(name)
    syscall("setdomainname", raw, len(raw), target=name)


def write_id_map(pid: int | str, which: str, mappings: list[tuple[int, int, int]]) -> None:
    """Write ``/proc/PID/uid_map`` or ``gid_map`` (``which``) of (inside, outside, length) rows.

    One write(2), once in a user namespace's life: user_namespaces(7).
    """
    path = f"/proc/{pid}/{which}"
    text = "".join(f"{inside} {outside} {length}\n" for inside, outside, length in mappings)
    write_process_file(path, text)


def deny_setgroups(pid: int | str) -> None:
    """Forbid setgroups(2) in the process's user namespace: an unprivileged gid_map asks for it."""
    write_process_file(f"/proc/{pid}/setgroups", "deny")


def write_process_file(path: str, text: str) -> None:
    """Write ``text`` to a file of procfs in a single write(2)."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise KernelError("write", error.errno or 0, f"{path} ({text.strip()})") from None
    finally:
        os.close(fd)


def _ioctl(fd: int, request: int, name: str) -> int:
    try:
        return fcntl.ioctl(fd, request)
    except OSError as error:
        raise KernelError(f"ioctl {name}", error.errno or 0, f"fd {fd}") from None


def _names(flags: int) -> str:
    found = [kind for kind, (flag, _) in KINDS.items() if flags & flag]
    return ",".join(found)
