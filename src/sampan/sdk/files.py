"""Files into a container before it starts, and out of it after it has ended.

Both happen while no process of the container exists, below a descriptor of its root
(``roots.inside``), and still every path is resolved by the kernel inside that root: links that an
image or a program left there lead nowhere else (class of CVE-2018-15664).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.sdk.options import File

__all__ = ["COLLECT_LIMIT", "collect", "put"]

COLLECT_LIMIT = 64 << 20
"""Bytes that are collected from one container, all its files together."""
_MOST_FILES = 10_000
_BELOW = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS


def put(root: int, files: Mapping[str, File]) -> None:
    """Write files, and the directories above them that are missing (0755).

    Raises InvalidArgument where there is a directory or a device already.
    """
    for path, file in files.items():
        try:
            fd = paths.make_file_in_root(root, path)
        except KernelError as error:
            raise InvalidArgument(f"files {path}: {error.strerror} ({error.message})") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidArgument(f"files {path}: what is there is not a regular file")
            _write(fd, file)
        finally:
            os.close(fd)


def _write(place: int, file: File) -> None:
    fd = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        rest = memoryview(file.content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fchown(fd, file.uid, file.gid)
        os.fchmod(fd, file.mode)  # after the owner: chown(2) clears set-ID bits
    finally:
        os.close(fd)


def collect(root: int, wanted: Sequence[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """(bytes of the files, by path; what is not among them, with the reason).

    Of a directory every regular file below is taken; links in it are not followed.
    """
    found = _Collection()
    for path in wanted:
        try:
            fd = paths.open_in_root(root, path, os.O_PATH)
        except KernelError as error:
            found.omitted[path] = error.strerror or error.message
            continue
        try:
            found.take(fd, path)
        finally:
            os.close(fd)
    return found.files, found.omitted


class _Collection:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.omitted: dict[str, str] = {}
        self._left = COLLECT_LIMIT

    def take(self, fd: int, path: str) -> None:
        """Take what is at an O_PATH descriptor."""
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            self._file(fd, path)
        elif stat.S_ISDIR(kind):
            self._directory(fd, path)
        else:
            self.omitted[path] = "neither a regular file nor a directory"

    def _directory(self, top: int, path: str) -> None:
        pending = ["."]
        while pending:
            place = pending.pop()
            shown = os.path.normpath(f"{path}/{place}")
            try:
                fd = paths.openat2(top, place, os.O_RDONLY | os.O_DIRECTORY, resolve=_BELOW)
            except KernelError as error:
                self.omitted[shown] = error.strerror or error.message  # deeper than a path can be
                continue
            try:
                for name in sorted(os.listdir(fd)):
                    if len(self.files) + len(self.omitted) >= _MOST_FILES:
                        self.omitted[path] = f"more than {_MOST_FILES} files"
                        return
                    kind = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                    if stat.S_ISDIR(kind):
                        pending.append(f"{place}/{name}")
                    elif stat.S_ISREG(kind):
                        file = paths.openat2(fd, name, paths.O_PATH, resolve=_BELOW)
                        try:
                            self._file(file, f"{shown}/{name}")
                        finally:
                            os.close(file)
            finally:
                os.close(fd)

    def _file(self, place: int, path: str) -> None:
        if os.fstat(place).st_size > self._left:
            self.omitted[path] = f"more than {COLLECT_LIMIT} bytes in all"
            return
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            content = file.read(self._left) or b""
        self._left -= len(content)
        self.files[path] = content
