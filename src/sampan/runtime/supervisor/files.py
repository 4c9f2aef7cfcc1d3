"""The files of a container's run directory, written so that a reader sees all or nothing.

``monitor.json`` says who the monitor is, from before anything is made; ``monitor.sock`` is where it
listens; ``exit.json`` is what it leaves.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from sampan.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EXIT_FILE",
    "MONITOR_FILE",
    "open_directory",
    "remove",
    "remove_directory",
    "write_json",
]

MONITOR_FILE = "monitor.json"
EXIT_FILE = "exit.json"


def open_directory(path: str) -> tuple[int, bool]:
    """(descriptor, whether it was made now) of the run directory; mode 0700 when made."""
    made = True
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        made = False
    except OSError as error:
        raise KernelError("mkdir", error.errno or 0, path) from error
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW), made
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from error


def write_json(name: str, value: Mapping[str, object], directory: int) -> None:
    """Write a file of mode 0600 and put it in its place; the directory is volatile: no fsync."""
    temporary = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    data = json.dumps(value).encode()
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        raise KernelError("write", error.errno or 0, name) from error


def remove(name: str, directory: int) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def remove_directory(path: str) -> None:
    """Remove a run directory, unless the daemon put something there or took it away."""
    try:
        os.rmdir(path)
    except OSError:
        pass  # Then it is the daemon's.
