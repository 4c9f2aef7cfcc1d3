"""A stay in a network namespace, and its kernel parameters.

After network_namespaces(7), setns(2), proc_sys_net(5). A namespace is a thread's, so a thread may
go and come back while the others of its process stay. ``/proc/sys/net`` shows the namespace of who
opens it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.namespaces import CLONE_NEWNET, setns, write_process_file

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Inside", "own", "read_parameter", "write_parameter"]

_OWN = "/proc/thread-self/ns/net"


def own() -> int:
    """A descriptor of the calling thread's network namespace."""
    try:
        return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, _OWN) from None


class Inside:
    """``with Inside(fd):`` this thread is in the network namespace ``fd``, and then back."""

    __slots__ = ("_fd", "_home")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._home = -1

    def __enter__(self) -> Self:
        self._home = own()
        try:
            setns(self._fd, CLONE_NEWNET)
        except KernelError:
            os.close(self._home)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._home, CLONE_NEWNET)
        finally:
            os.close(self._home)


def _path(name: str) -> str:
    parts = name.split("/")
    if parts[0] != "net" or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(f"{name!r} is not a parameter of a network: write net/…")
    return f"/proc/sys/{name}"


def read_parameter(name: str) -> str:
    """``net/ipv4/ip_forward`` of this thread's namespace; ``ENOENT`` where there is none."""
    path = _path(name)
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None


def write_parameter(name: str, value: str) -> None:
    """Set a parameter of this thread's namespace."""
    write_process_file(_path(name), value)
