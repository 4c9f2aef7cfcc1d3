"""Listening sockets and the pid file.

A Unix socket is bound to a temporary name, given its owner and mode, made to listen and only then
renamed into place: nobody connects to a socket that is not ready or not protected yet. A socket
whose daemon died refuses connections and is replaced; one that answers belongs to somebody else.
"""

from __future__ import annotations

import grp
import os
import socket
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError

if TYPE_CHECKING:
    from sampan.daemon.options import Address

__all__ = ["BACKLOG", "bind", "remove_pidfile", "write_pidfile"]

BACKLOG = 1024
_MODE = 0o660


def _group_id(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise InvalidArgument(f"--group {name}: no such group on this machine") from error


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise KernelError("connect", error.errno or 0, path) from error
    return True


def bind(address: Address, group: str) -> socket.socket:
    """A listening socket. Raises Conflict when somebody listens there, InvalidArgument."""
    if not address.path:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.host, address.port))
        except OSError as error:
            sock.close()
            raise KernelError("bind", error.errno or 0, str(address)) from error
        sock.listen(BACKLOG)
        return sock
    path = address.path
    if os.path.lexists(path) and not os.path.isdir(path) and _answers(path):
        raise Conflict(f"another program listens on {path}; stop it, or give another -H")
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    temporary = f".{name}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Through the directory's descriptor: an address holds 107 bytes at most (unix(7)).
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o777)
    try:
        sock.bind(f"/proc/self/fd/{place}/{temporary}")
        os.umask(mask)
        if group:
            os.chown(temporary, 0, _group_id(group), dir_fd=place)
        os.chmod(temporary, _MODE, dir_fd=place)
        sock.listen(BACKLOG)
        os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
    except OSError as error:
        sock.close()
        raise KernelError("bind", error.errno or 0, path) from error
    finally:
        os.umask(mask)
        os.close(place)
    return sock


def write_pidfile(path: str) -> None:
    """Atomically; the lock on the data root, not this file, keeps a second daemon out."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    os.rename(temporary, path)


def remove_pidfile(path: str) -> None:
    """Only if it is ours."""
    try:
        with open(path, encoding="ascii") as file:
            if file.read().strip() == str(os.getpid()):
                os.unlink(path)
    except FileNotFoundError:
        return
