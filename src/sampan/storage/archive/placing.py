"""Files into a live tree: a tar unpacked at a path of a container.

After the Docker Engine API, ``PUT /containers/{id}/archive``. The archive is a client's and the
tree a container's, which may be running and swap directories for links while we write
(CVE-2018-15664). Names are taken below the destination; what they lead to is resolved by the kernel
inside the container's root, links included, so that no archive and no container moves a write out
of it. Otherwise a member is made as ``target`` makes a layer's: what is in the way is removed and
never opened, and only what we made ourselves is written to.

Unlike in a layer ``.wh.`` means nothing in a name; "." has no say in what the destination itself is
like; and a file that cannot be finished, on a full disk, is removed.
"""

from __future__ import annotations

import os
import stat
from errno import EBUSY, ELOOP, EROFS, EXDEV
from typing import IO, TYPE_CHECKING

from sampan.errors import Conflict, Corrupt, InvalidArgument, KernelError, PermissionDenied
from sampan.kernel.paths import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from sampan.storage.archive import headers
from sampan.storage.archive.compression import Unpacker
from sampan.storage.archive.headers import Member, printable
from sampan.storage.archive.names import place
from sampan.storage.archive.reader import Limits, Reader
from sampan.storage.archive.target import Target
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.storage.archive.reader import Reader as Content

__all__ = ["put"]

_PATH = O_PATH | os.O_DIRECTORY
_PLAIN = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def put(
    stream: int | IO[bytes],
    root: int,
    path: str,
    *,
    keep_kinds: bool = False,
    owner: tuple[int, int] | None = None,
    limits: Limits | None = None,
    interrupt: Callable[[], None] | None = None,
) -> None:
    """Unpack a tar, compressed or not, into the directory ``path`` (absolute) below ``root``.

    ``keep_kinds``: a directory is not replaced by anything else, nor the other way round.
    ``owner``: user and group of all that is made, instead of the archive's. ``interrupt`` ends a
    read of the stream that may be waiting, when what is read is no longer wanted.

    Errors: InvalidArgument (the archive, a member that may not be), PermissionDenied (a read-only
    mount), Conflict (a mount is in the way), KernelError, SampanError for a full disk.
    """
    limits = Limits() if limits is None else limits
    directory = open_in_root(root, path, _PATH)
    name = b""
    try:
        with (
            Unpacker(stream, ratio=limits.ratio) as pieces,
            _Placing(directory, root, path, keep_kinds, owner) as tree,
        ):
            # Go's archiver, and who pipes, may leave the end marker out; nothing at all is nothing.
            reader = Reader(pieces, limits=limits, require_end=False)
            try:
                for member in reader:
                    name = member.name
                    tree.add(member, reader)
                tree.finish()
            except BaseException as error:
                if interrupt is not None:
                    interrupt()
                if isinstance(error, OSError):
                    raise _explained(error, tree.call, name) from error
                raise
    except Corrupt as error:
        raise InvalidArgument(f"Error processing tar file: {error.message}") from error
    finally:
        os.close(directory)


def _explained(error: OSError, call: str, name: bytes) -> Exception:
    entry = printable(name)
    if error.errno == EROFS:
        return PermissionDenied(f"{entry}: it would be on a read-only mount")
    if error.errno == EBUSY:
        return Conflict(f"{entry} cannot be replaced: a file system is mounted there")
    return explain(error, call, entry, f"while copying {entry}")


class _Placing(Target):
    """``directory`` is the destination; ``path`` where it is below ``root``."""

    _whiteouts = False

    def __init__(
        self,
        directory: int,
        root: int,
        path: str,
        keep_kinds: bool,
        owner: tuple[int, int] | None,
    ) -> None:
        super().__init__(directory, "direct")
        self._container = root
        self._at = path
        self._keep_kinds = keep_kinds
        self._owner = owner
        self._current = Member(b"")

    def add(self, member: Member, reader: Content) -> None:
        if self._owner is not None:
            member = member._replace(uid=self._owner[0], gid=self._owner[1])
        self._current = member
        super().add(member, reader)

    def _place(self, name: bytes, of: bytes | None = None) -> tuple[bytes | None, bytes, bytes]:
        # As Go cleans it: ".." goes back as text, and may not go back further than the top.
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    what = "archive member" if of is None else f"{printable(of)}: its link"
                    raise InvalidArgument(f'{what} "{printable(name)}" is outside of "{self._at}"')
                parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        path, parent, base = place(b"/".join(parts) or b".", of, whiteouts=False)
        return path, parent, base

    def _resolve(self, path: bytes) -> int:
        text = os.fsdecode(path)
        try:
            return openat2(self._root, text, _PATH, resolve=_PLAIN)
        except KernelError as error:
            if error.errno not in (ELOOP, EXDEV):
                raise
        # A link is on the way: it is the container's, and means what it means in there.
        return open_in_root(self._container, f"{self._at}/{text}", _PATH)

    def _make_root(self, member: Member) -> None:
        if member.kind != headers.DIRECTORY:
            raise InvalidArgument(f"archive member {printable(member.name)} is no name for a file")

    def _pass_through(self, path: bytes, descriptor: int) -> None:
        """What is written into a directory is a change of it, which its times may tell."""

    def _replace(self, directory: int, base: bytes, status: os.stat_result | None = None) -> bool:
        if status is None:
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        if self._keep_kinds:
            there = stat.S_ISDIR(status.st_mode)
            comes = self._current.kind == headers.DIRECTORY
            if there != comes:
                words = ("non-directory", "directory")
                shown = printable(self._current.name.rstrip(b"/"))
                raise InvalidArgument(
                    f'cannot overwrite {words[there]} "{self._at}/{shown}" '
                    f'with {words[comes]} "{self._at}"'
                )
        return super()._replace(directory, base, status)

    def _give_up(self, directory: int, base: bytes, descriptor: int) -> None:
        ours = os.fstat(descriptor)
        try:
            there = os.stat(base, dir_fd=directory, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                os.unlink(base, dir_fd=directory)
        except OSError:
            return  # the container was faster; what went wrong is told anyway
