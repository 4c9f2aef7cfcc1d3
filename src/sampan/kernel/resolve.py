"""openat2(2): opening a path with a say in how it is resolved."""

from __future__ import annotations

import os
import struct
from errno import EAGAIN

from sampan.errors import KernelError
from sampan.kernel.syscalls import buffer, c_string, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

O_PATH = 0x200000
"""os.O_PATH, under a name a type checker of another system knows."""

_ATTEMPTS = 128


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open ``path`` from ``dirfd`` with ``RESOLVE_*``; the descriptor is O_CLOEXEC.

    ``mode`` goes with O_CREAT or O_TMPFILE only. ``EXDEV``: it leads out of where it should stay;
    ``ELOOP``: a link that is not allowed. With ``RESOLVE_BENEATH`` or ``RESOLVE_IN_ROOT`` the
    kernel says ``EAGAIN`` when something was renamed or mounted anywhere while it walked over
    "..", and the manual page's advice is to try again: done up to 128 times. With
    ``RESOLVE_CACHED``, ``EAGAIN`` means "not in the cache" and is the answer.
    """
    how = buffer(struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve))
    name = c_string(path)
    repeatable = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT) and not resolve & RESOLVE_CACHED
    for attempt in range(_ATTEMPTS if repeatable else 1):
        try:
            return syscall("openat2", dirfd, name, how, len(how))
        except KernelError as error:
            if error.errno == EAGAIN and repeatable and attempt < _ATTEMPTS - 1:
                continue
            raise KernelError("openat2", error.errno or 0, os.fsdecode(path)) from None
    raise AssertionError("unreachable: the last attempt returns or raises")
