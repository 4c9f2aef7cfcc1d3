"""Whose a data root is: one process at a time, by a lock on the file ``lock`` (flock(2)).

The kernel drops the lock when its owner ends, however it ends; the file stays, and its text is
only for the message. And in which run of the machine something was written, which tells what may
have been lost with the machine's power.
"""

from __future__ import annotations

import fcntl
import os

from sampan.errors import Conflict

__all__ = ["boot_id", "lock_data_root"]


def boot_id() -> str:
    """What names this run of the machine (proc_sys_kernel(5), ``random/boot_id``)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def lock_data_root(data_root: str) -> int:
    """Own a data root until the descriptor returned is closed; Conflict if somebody else does."""
    path = f"{data_root}/lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise Conflict(
            f"data root {data_root} is in use by process {owner}; stop it, or use another data root"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
