"""Sealed files in memory: bytes nobody can change any more, root included.

After memfd_create(2) and fcntl(2) (file sealing). The zygote runs from a sealed copy of the
interpreter, so that a container that reaches our executable through ``/proc/PID/exe`` finds nothing
it can overwrite (the class of CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import os
from errno import EINVAL

from sampan.errors import KernelError

F_SEAL_SEAL = 0x01
F_SEAL_SHRINK = 0x02
F_SEAL_GROW = 0x04
F_SEAL_WRITE = 0x08
F_SEAL_EXEC = 0x20
SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE

_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
_MFD_CLOEXEC = 0x1
_MFD_ALLOW_SEALING = 0x2
_MFD_EXEC = 0x10

_CHUNK = 1 << 30


def sealed_copy(path: str, name: str) -> int:
    """A sealed, executable copy of the file at ``path``; ``name`` shows in /proc/PID/fd."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None
    try:
        fd = _memory_file(name)
        try:
            while os.sendfile(fd, source, None, _CHUNK):
                pass
            return seal(fd)
        except OSError as error:
            os.close(fd)
            raise KernelError("sendfile", error.errno or 0, path) from None
    finally:
        os.close(source)


def sealed_bytes(data: bytes, name: str) -> int:
    """A sealed file that holds ``data``, its position at the start."""
    fd = _memory_file(name)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        return seal(fd)
    except OSError as error:
        os.close(fd)
        raise KernelError("write", error.errno or 0, f"memfd {name}") from None


def seal(fd: int) -> int:
    """Add every seal to memory file ``fd``, rewind it and return it."""
    os.fchmod(fd, 0o555)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, _F_ADD_SEALS, SEALS)
    return fd


def seals(fd: int) -> int:
    """The ``F_SEAL_*`` of ``fd``; ``EINVAL`` if it is no memory file."""
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        raise KernelError("fcntl F_GET_SEALS", error.errno or 0, f"fd {fd}") from None


def _memory_file(name: str) -> int:
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        try:
            # Where vm.memfd_noexec is set, only a file that asks for it may be executed (6.3).
            return os.memfd_create(name, flags | _MFD_EXEC)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            return os.memfd_create(name, flags)
    except OSError as error:
        raise KernelError("memfd_create", error.errno or 0, name) from None
