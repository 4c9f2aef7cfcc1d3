"""Writing members to a tar archive: pax format, the same bytes for the same tree.

ustar headers, pax records for what they cannot hold (long and non-ASCII names, times to the
nanosecond, large numbers, extended attributes), and GNU's sparse format 1.0 for files with holes
worth the name. The image specification advises against sparse members as some readers lack them;
every one in use for images (Go's, GNU's, libarchive's, ours) has them, and without them a hole of
a gigabyte is a gigabyte of zeros to hash and to pack. No user names, no access times.
"""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ENOENT, ENXIO
from typing import NamedTuple, Protocol

from sampan.errors import Conflict, InvalidArgument
from sampan.kernel.paths import open_regular
from sampan.storage.archive import headers
from sampan.storage.archive.headers import BLOCK, Member, printable
from sampan.storage.archive.names import OPAQUE, WHITEOUT_PREFIX
from sampan.storage.archive.tree import attributes

__all__ = ["Output", "Writer", "Written"]

_PIECE = 1 << 20
_HOLES_WORTH = 1 << 16
_CHANGED = (ENOENT, EINVAL)  # gone, or no link any more
_READING = os.O_RDONLY | os.O_NONBLOCK
_KINDS = {
    stat.S_IFREG: headers.REGULAR,
    stat.S_IFDIR: headers.DIRECTORY,
    stat.S_IFLNK: headers.SYMBOLIC_LINK,
    stat.S_IFCHR: headers.CHARACTER_DEVICE,
    stat.S_IFBLK: headers.BLOCK_DEVICE,
    stat.S_IFIFO: headers.FIFO,
}


class Output(Protocol):
    """Where an archive goes: a file, a ``Compressor``, a blob's ingest."""

    def write(self, data: bytes, /) -> object: ...


class Written(NamedTuple):
    """Members written, their files' bytes, and the paths left out: sockets, which tar has not."""

    members: int
    size: int
    left_out: tuple[bytes, ...]


class Writer:
    """Add what is in a tree, by descriptor, parents before children; then ``finish``.

    ``layer``: names that whiteouts use are refused. ``root``: what the tree's root is called.
    """

    def __init__(
        self, out: Output, *, sparse: bool = True, layer: bool = True, root: bytes = b"./"
    ) -> None:
        self._out = out
        self._sparse = sparse
        self._layer = layer
        self._root = root
        self._links: dict[tuple[int, int], bytes] = {}
        self._members = 0
        self._size = 0
        self._left_out: list[bytes] = []

    def add(self, path: bytes, directory: int, base: bytes, status: os.stat_result) -> None:
        """Add ``base`` of ``directory`` under the name ``path``; ``status`` is its own.

        The second name of a file whose first was added is a hard link to it. ``Conflict`` where a
        file shrinks while it is read; one that vanished is not added.
        """
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._left_out.append(path)
            return
        if self._layer and base.startswith(WHITEOUT_PREFIX):
            raise InvalidArgument(
                f"{printable(path)}: a layer cannot hold a file of that name, .wh. is for whiteouts"
            )
        if status.st_nlink > 1 and kind != headers.DIRECTORY:
            identity = status.st_dev, status.st_ino
            first = self._links.get(identity)
            if first is not None:
                self._put(_member(path, headers.HARD_LINK, status)._replace(size=0, link=first))
                return
        member = _member(path, kind, status)
        if kind == headers.REGULAR:
            if not self._add_file(member, directory, base):
                return
        elif kind == headers.DIRECTORY:
            # Listed and opened by name: its attributes are read through the same descriptor.
            self.add_directory(path, directory, base, status)
            return
        else:
            try:
                if kind == headers.SYMBOLIC_LINK:
                    member = member._replace(link=os.readlink(base, dir_fd=directory))
                xattrs = attributes(b"/proc/self/fd/%d/%s" % (directory, base))
            except OSError as error:
                if error.errno in _CHANGED:
                    return
                raise
            self._put(member._replace(xattrs=xattrs))
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = path

    def add_directory(
        self, path: bytes, directory: int, base: bytes, status: os.stat_result
    ) -> None:
        """Add a directory; b"" is the tree's root."""
        try:
            xattrs = attributes(b"/proc/self/fd/%d/%s" % (directory, base or b"."))
        except FileNotFoundError:
            return
        member = _member(path + b"/" if path else self._root, headers.DIRECTORY, status)
        self._put(member._replace(size=0, xattrs=xattrs))

    def white_out(self, path: bytes) -> None:
        """Say that ``path`` of the layers below is deleted."""
        parent, slash, base = path.rpartition(b"/")
        self._put(Member(parent + slash + WHITEOUT_PREFIX + base, mode=0))

    def make_opaque(self, path: bytes) -> None:
        """Say that all the layers below have in the directory ``path`` is deleted."""
        self._put(Member(path + b"/" + OPAQUE if path else OPAQUE, mode=0))

    def finish(self) -> Written:
        """Write the end marker. The output stays open."""
        self._out.write(bytes(2 * BLOCK))
        return Written(self._members, self._size, tuple(self._left_out))

    def _put(self, member: Member) -> None:
        self._out.write(headers.encode(member))
        self._members += 1

    def _add_file(self, member: Member, directory: int, base: bytes) -> bool:
        descriptor = open_regular(directory, base, _READING)
        if descriptor < 0:
            return False
        try:
            status = os.fstat(descriptor)
            member = member._replace(size=status.st_size, xattrs=attributes(descriptor))
            spans = _spans(descriptor, status) if self._sparse else None
            if spans is None:
                self._put(member)
                self._copy(descriptor, member, member.size)
                self._pad(member.size)
            else:
                self._add_sparse(descriptor, member, spans)
            self._size += member.size
            return True
        finally:
            os.close(descriptor)

    def _add_sparse(self, descriptor: int, member: Member, spans: list[tuple[int, int]]) -> None:
        lines = [len(spans), *(number for span in spans for number in span)]
        text = b"".join(b"%d\n" % number for number in lines)
        text += bytes(-len(text) % BLOCK)
        stored = sum(length for _, length in spans)
        parent, slash, base = member.name.rpartition(b"/")
        extra = (
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", member.name),
            (b"GNU.sparse.realsize", b"%d" % member.size),
        )
        renamed = member._replace(name=parent + slash + b"GNUSparseFile.0/" + base)
        self._out.write(headers.encode(renamed, stored=len(text) + stored, extra=extra))
        self._out.write(text)
        self._members += 1
        for offset, length in spans:
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._copy(descriptor, member, length)
        self._pad(stored)

    def _copy(self, descriptor: int, member: Member, count: int) -> None:
        while count:
            data = os.read(descriptor, min(count, _PIECE))
            if not data:
                raise Conflict(
                    f"{printable(member.name)} became shorter while it was read: pause or stop"
                    " what writes to it and try again"
                )
            count -= len(data)
            self._out.write(data)

    def _pad(self, size: int) -> None:
        if size % BLOCK:
            self._out.write(bytes(-size % BLOCK))


def _member(path: bytes, kind: bytes, status: os.stat_result) -> Member:
    device = kind in (headers.CHARACTER_DEVICE, headers.BLOCK_DEVICE)
    return Member(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        0,
        status.st_mtime_ns,
        b"",
        os.major(status.st_rdev) if device else 0,
        os.minor(status.st_rdev) if device else 0,
    )


def _spans(descriptor: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """What of a file is not hole, as (offset, length); None where holes save nothing."""
    size = status.st_size
    if status.st_blocks * 512 > size - _HOLES_WORTH:
        return None
    spans: list[tuple[int, int]] = []
    position = data = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:  # no data from here to the end
                raise
            break
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if position <= start:
            break
        spans.append((start, position - start))
        data += position - start
    os.lseek(descriptor, 0, os.SEEK_SET)
    if size - data < _HOLES_WORTH:
        return None
    if position < size:
        spans.append((size, 0))  # the file's end, for readers that take it from the map
    return spans
