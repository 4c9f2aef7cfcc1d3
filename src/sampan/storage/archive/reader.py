"""The members of a tar archive from a stream of pieces, in one pass and without I/O.

Extended headers, GNU long names and every sparse form (old GNU; pax 0.0, 0.1, 1.0) are resolved
here, so that a ``Member`` is all there is to know. What is malformed, or ends before its end
marker, is ``Corrupt``; what would make us hold or count without bound is ``InvalidArgument``.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from sampan.errors import Corrupt, InvalidArgument, NotSupported
from sampan.storage.archive import headers
from sampan.storage.archive.headers import BLOCK, Header, Member, number, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Limits", "Reader"]

_ZEROS = bytes(BLOCK)
_WITHOUT_CONTENT = frozenset(
    (
        headers.HARD_LINK,
        headers.SYMBOLIC_LINK,
        headers.CHARACTER_DEVICE,
        headers.BLOCK_DEVICE,
        headers.DIRECTORY,
        headers.FIFO,
    )
)
_GNU_DUMP_DIRECTORY = b"D"
_GNU_VOLUME = b"V"
_KNOWN = _WITHOUT_CONTENT | {headers.REGULAR, headers.CONTIGUOUS, headers.GNU_SPARSE}
_MAX_EXTENSION = 1 << 20
_MAX_SPANS = 1 << 20
_STAR = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_GNU = b"GNU.sparse."


class Limits(NamedTuple):
    """What an archive may ask of us before it is refused; None: whatever it likes.

    ``members`` counts entries; ``size`` is the sum of the files' apparent sizes in bytes, holes
    included; ``ratio`` bounds unpacked to packed bytes.
    """

    members: int | None = 10_000_000
    size: int | None = 1 << 44
    ratio: float | None = None


class Reader:
    """Iterate to get members; ``content`` gives the bytes of the one just returned.

    ``require_end``: an archive without its end marker (a block of zeros) is truncated. Some writers
    leave it out; where a digest covers the stream the question does not arise.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        *,
        limits: Limits | None = None,
        require_end: bool = True,
    ) -> None:
        self._source = pieces
        self._piece = b""
        self._view = memoryview(b"")
        self._at = 0
        self._left = 0
        self._padding = 0
        self._limits = Limits() if limits is None else limits
        self._require_end = require_end
        self._global: dict[bytes, bytes] = {}
        self.count = 0
        self.size = 0

    # Bytes

    def _more(self) -> bool:
        """Go on to the next piece; False at the end of the stream."""
        for piece in self._source:
            if piece:
                self._piece = piece
                self._view = memoryview(piece)
                self._at = 0
                return True
        return False

    def _take(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        end = self._at + count
        if end <= len(self._piece):
            data = self._piece[self._at : end]
            self._at = end
            return data
        parts = [self._piece[self._at :]]
        self._at = len(self._piece)
        missing = count - len(parts[0])
        while missing:
            if not self._more():
                raise Corrupt("tar archive is truncated")
            part = self._piece[:missing]
            self._at = len(part)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _spans(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes of content as views, valid until the next is taken."""
        while count:
            if self._at == len(self._piece) and not self._more():
                raise Corrupt("tar archive is truncated")
            span = self._view[self._at : self._at + count]
            self._at += len(span)
            self._left -= len(span)
            count -= len(span)
            yield span

    def _skip(self, count: int) -> None:
        while count:
            if self._at == len(self._piece) and not self._more():
                raise Corrupt("tar archive is truncated")
            step = min(count, len(self._piece) - self._at)
            self._at += step
            count -= step

    def _skip_padding(self) -> None:
        """Skip what fills a member's last block; who leaves out the end marker may leave it out."""
        if self._padding and not self._require_end and self._at_end():
            return
        self._skip(self._padding)

    def _at_end(self) -> bool:
        return self._at == len(self._piece) and not self._more()

    def content(self) -> Iterator[memoryview]:
        """What is stored of the current member, all of it or what was not yet taken.

        For a sparse member these are the bytes of its spans, one after another.
        """
        return self._spans(self._left)

    def stored(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` stored bytes of the current member."""
        return self._spans(count)

    # Members

    def __iter__(self) -> Iterator[Member]:
        name = link = None
        records: list[tuple[bytes, bytes]] = []
        while True:
            self._skip(self._left)
            self._skip_padding()
            self._left = self._padding = 0
            if self._at_end():
                if self._require_end or records or name is not None or link is not None:
                    raise Corrupt("tar archive is truncated: it has no end marker")
                return
            block = self._take(BLOCK)
            if block == _ZEROS:
                self._drain()
                return
            header = headers.decode(block)
            kind = header.kind
            if kind in (headers.PAX, b"X"):
                records += headers.parse_pax(self._extension(header))
            elif kind == headers.GLOBAL_PAX:
                self._set_global(headers.parse_pax(self._extension(header)))
            elif kind == headers.GNU_LONG_NAME:
                name = self._extension(header).partition(b"\0")[0]
            elif kind == headers.GNU_LONG_LINK:
                link = self._extension(header).partition(b"\0")[0]
            elif kind == _GNU_VOLUME:
                self._expect(header.size)
            else:
                if name is not None:
                    header = header._replace(name=name)
                if link is not None:
                    header = header._replace(link=link)
                yield self._member(header, block, records)
                name = link = None
                records = []

    def _drain(self) -> None:
        """Read the stream to its end, as its digest covers what follows the end marker too."""
        while self._more():
            pass
        self._piece = b""
        self._view = memoryview(b"")
        self._at = 0

    def _expect(self, size: int) -> None:
        if size < 0:
            raise Corrupt("tar header: a size below zero")
        self._left = size
        self._padding = -size % BLOCK

    def _extension(self, header: Header) -> bytes:
        if not 0 <= header.size <= _MAX_EXTENSION:
            raise InvalidArgument(
                f"tar extended header of {header.size} bytes: at most {_MAX_EXTENSION} are read"
            )
        data = self._take(header.size + -header.size % BLOCK)
        return data[: header.size]

    def _set_global(self, records: list[tuple[bytes, bytes]]) -> None:
        for keyword, value in records:
            if keyword in (b"path", b"linkpath", b"size") or keyword.startswith(_GNU):
                raise Corrupt(
                    f"tar global header sets {printable(keyword)}, which is each member's own"
                )
            self._global[keyword] = value
        if sum(map(len, itertools.chain(*self._global.items()))) > _MAX_EXTENSION:
            raise InvalidArgument(f"tar global headers of more than {_MAX_EXTENSION} bytes")

    def _member(self, header: Header, block: bytes, records: list[tuple[bytes, bytes]]) -> Member:
        self.count += 1
        limits = self._limits
        if limits.members is not None and self.count > limits.members:
            raise InvalidArgument(f"archive has more than {limits.members} members")
        if records or self._global:
            member = self._extended(header, block, records)
        else:
            sparse = None
            size = header.size
            stored = 0 if header.kind in _WITHOUT_CONTENT else size
            if header.kind == headers.GNU_SPARSE:
                sparse, size = self._old_sparse(block)
                self._hold(header.name, sparse, size, stored)
            self._expect(stored)
            name, kind = header.name, header.kind
            if kind == headers.REGULAR and name.endswith(b"/"):
                kind = headers.DIRECTORY
            member = Member(
                name,
                kind,
                header.mode & 0o7777,
                header.uid,
                header.gid,
                size,
                header.mtime * 10**9,
                header.link,
                header.major,
                header.minor,
                {},
                sparse,
            )
        kind = member.kind
        if kind not in _KNOWN:
            if kind == _GNU_DUMP_DIRECTORY:
                member = member._replace(kind=headers.DIRECTORY)
            else:
                raise NotSupported(
                    f"{printable(member.name)}: tar member of type {printable(kind)}"
                    " cannot be unpacked"
                )
        if not -headers.MAX_TIME < member.mtime < headers.MAX_TIME:
            raise Corrupt(f"{printable(member.name)}: its modification time is out of range")
        if kind not in _WITHOUT_CONTENT:
            self.size += member.size
            if limits.size is not None and self.size > limits.size:
                raise InvalidArgument(
                    f"{printable(member.name)}: archive unpacks to more than {limits.size} bytes"
                )
        return member

    def _extended(self, header: Header, block: bytes, records: list[tuple[bytes, bytes]]) -> Member:
        """A member with pax records: they win over its header."""
        values = self._global | dict(records)
        name = values.get(b"path") or header.name
        link = values.get(b"linkpath") or header.link
        kind = header.kind
        stored = _integer(values, b"size", header.size)
        size = stored
        if kind in _WITHOUT_CONTENT:
            stored = 0
        mtime = values.get(b"mtime")
        atime = values.get(b"atime")
        sparse = None
        self._expect(stored)
        if kind == headers.GNU_SPARSE:
            sparse, size = self._old_sparse(block)
        elif b"GNU.sparse.major" in values:
            version = values[b"GNU.sparse.major"], values.get(b"GNU.sparse.minor", b"0")
            if version != (b"1", b"0"):
                raise NotSupported(
                    f"{printable(name)}: GNU sparse format {printable(b'.'.join(version))}"
                )
            name = values.get(b"GNU.sparse.name") or name
            size = _integer(values, b"GNU.sparse.realsize", size)
            sparse = self._map_in_content()
        elif b"GNU.sparse.map" in values:  # 0.1
            name = values.get(b"GNU.sparse.name") or name
            size = _integer(values, b"GNU.sparse.size", size)
            numbers = values[b"GNU.sparse.map"].split(b",") if values[b"GNU.sparse.map"] else []
            sparse = _pairs([_decimal(n) for n in numbers])
        elif b"GNU.sparse.size" in values:  # 0.0: the records come many times, in order
            size = _integer(values, b"GNU.sparse.size", size)
            wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            sparse = _pairs([_decimal(v) for k, v in records if k in wanted])
        if sparse is not None:
            self._hold(name, sparse, size, self._left)
        if kind == headers.REGULAR and name.endswith(b"/"):
            kind = headers.DIRECTORY
        return Member(
            name,
            kind,
            header.mode & 0o7777,
            _integer(values, b"uid", header.uid),
            _integer(values, b"gid", header.gid),
            size,
            headers.parse_time(mtime) if mtime else header.mtime * 10**9,
            link,
            _integer(values, b"SCHILY.devmajor", header.major),
            _integer(values, b"SCHILY.devminor", header.minor),
            _xattrs(values),
            sparse,
            headers.parse_time(atime) if atime else None,
        )

    # Sparse maps

    def _old_sparse(self, block: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
        """Old GNU: four spans in the header, 21 in each block that follows, and the size at 483."""
        numbers: list[int] = []
        area, count, extended = block[386:482], 4, block[482]
        size = number(block[483:495], "sparse size")
        while True:
            for index in range(count):
                span = area[24 * index : 24 * index + 24]
                if not span.strip(b"\0 "):
                    break
                numbers += (number(span[:12], "sparse offset"), number(span[12:], "sparse length"))
            if not extended:
                return _pairs(numbers), size
            if len(numbers) > 2 * _MAX_SPANS:
                raise InvalidArgument(f"sparse map of more than {_MAX_SPANS} spans")
            more = self._take(BLOCK)
            area, count, extended = more[:504], 21, more[504]

    def _map_in_content(self) -> tuple[tuple[int, int], ...]:
        """pax 1.0: decimal lines at the head of the content, padded to a block."""
        blocks: list[bytes] = []
        lines = 0
        wanted = 0
        while True:
            if self._left < BLOCK:
                raise Corrupt("tar sparse map is longer than its member")
            block = self._take(BLOCK)
            self._left -= BLOCK
            blocks.append(block)
            lines += block.count(b"\n")
            if not wanted:
                if not lines:
                    raise Corrupt("tar sparse map does not begin with its count")
                wanted = 1 + 2 * _decimal(block.partition(b"\n")[0])
                if wanted > 2 * _MAX_SPANS:
                    raise InvalidArgument(f"sparse map of more than {_MAX_SPANS} spans")
            if lines >= wanted:
                return _pairs([_decimal(n) for n in b"".join(blocks).split(b"\n")[1:wanted]])

    def _hold(
        self, name: bytes, spans: tuple[tuple[int, int], ...], size: int, stored: int
    ) -> None:
        """Hold a sparse map against the file it is to describe."""
        position = total = 0
        for offset, length in spans:
            if offset < position or length < 0:
                raise Corrupt(f"{printable(name)}: sparse map is out of order")
            position = offset + length
            total += length
        if position > size or total != stored:
            raise Corrupt(f"{printable(name)}: sparse map does not agree with the file's size")


def _pairs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2:
        raise Corrupt("tar sparse map has an offset without a length")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Corrupt(f"tar extended header: not a number: {printable(text[:40])}")
    return int(text)


def _integer(values: dict[bytes, bytes], keyword: bytes, default: int) -> int:
    value = values.get(keyword)
    if not value:
        return default
    return -_decimal(value[1:]) if value.startswith(b"-") else _decimal(value)


def _xattrs(values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    found = {}
    for keyword, value in values.items():
        if keyword.startswith(_STAR):
            found[keyword[len(_STAR) :]] = value
        elif keyword.startswith(_LIBARCHIVE):
            attribute = unquote_to_bytes(keyword[len(_LIBARCHIVE) :])
            if attribute in found or _STAR + attribute in values:
                continue
            try:
                found[attribute] = base64.b64decode(value + b"=" * (-len(value) % 4))
            except binascii.Error as error:
                raise Corrupt(f"tar extended header: {printable(keyword)} is not base64") from error
    return found
