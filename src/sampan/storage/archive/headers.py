"""tar's blocks, both ways, without I/O: bytes in, values out.

The formats are those in the field: v7 and ustar (POSIX.1-1988), pax extended headers
(POSIX.1-2001, ``pax`` "pax Interchange Format"), and GNU tar's long names, base-256 numbers and
sparse maps (GNU tar manual, "Tar Internals"); extended attributes travel in pax records named
``SCHILY.xattr.NAME`` (star, GNU tar, Docker) or ``LIBARCHIVE.xattr.NAME`` (percent-encoded name,
base64 value).

Names are bytes all the way: a file name is any bytes but NUL and "/", and a layer may use them.
Nothing is guessed: a checksum that disagrees or a number that is none is ``Corrupt``.
"""

from __future__ import annotations

import base64
import os
import struct
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_from_bytes

from sampan.errors import Corrupt, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BLOCK",
    "BLOCK_DEVICE",
    "CHARACTER_DEVICE",
    "CONTIGUOUS",
    "DIRECTORY",
    "FIFO",
    "GLOBAL_PAX",
    "GNU_LONG_LINK",
    "GNU_LONG_NAME",
    "GNU_SPARSE",
    "HARD_LINK",
    "MAX_TIME",
    "PAX",
    "REGULAR",
    "SYMBOLIC_LINK",
    "Header",
    "Member",
    "decode",
    "encode",
    "format_pax",
    "number",
    "parse_pax",
    "parse_time",
    "printable",
]

BLOCK = 512

REGULAR = b"0"
HARD_LINK = b"1"
SYMBOLIC_LINK = b"2"
CHARACTER_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
CONTIGUOUS = b"7"
PAX = b"x"
GLOBAL_PAX = b"g"
GNU_LONG_NAME = b"L"
GNU_LONG_LINK = b"K"
GNU_SPARSE = b"S"

_SECOND = 10**9
MAX_TIME = _SECOND << 62  # in nanoseconds, either side of 1970: within what a 64-bit time_t holds

# name mode uid gid size mtime checksum type linkname magic+version uname gname major minor prefix
_LAYOUT = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_POSIX_MAGIC = b"ustar\x0000"
_GNU_MAGIC = b"ustar  \x00"


class Header(NamedTuple):
    """One header block as it stands, before extended headers change it. Times in seconds."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    major: int
    minor: int


class Member(NamedTuple):
    """One member of an archive, or one to be written.

    ``name`` and ``link`` as in the archive; times in nanoseconds since 1970; ``size`` is the
    file's, holes included; ``sparse`` lists the (offset, length) of what is not hole, or is None.
    """

    name: bytes
    kind: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = {}
    sparse: tuple[tuple[int, int], ...] | None = None
    atime: int | None = None


def printable(name: bytes) -> str:
    """A name for a message: one line, whatever bytes it is made of."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) or '""'


def number(field: bytes, what: str) -> int:
    """A numeric field: octal digits ended by NUL or space, or GNU's base 256 (top bit set)."""
    lead = field[0]
    if lead & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        if lead == 0xFF:
            return value - (1 << bits)
        value -= 1 << (bits - 1)
        if value >> 63:
            raise Corrupt(f"tar header: {what} does not fit 64 bits")
        return value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        raise Corrupt(f"tar header: {what} is not a number: {printable(field)}")
    try:
        return int(digits, 8)
    except ValueError:
        raise Corrupt(f"tar header: {what} is not an octal number: {printable(field)}") from None


def decode(block: bytes) -> Header:
    """Take a header block apart; ``Corrupt`` where its checksum is not that of its bytes."""
    (
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, major, minor, prefix,
    ) = _LAYOUT.unpack(block)  # fmt: skip
    # The sum counts its own field as eight spaces.
    total = sum(block) - sum(checksum) + 8 * 0x20
    stored = number(checksum, "checksum")
    if stored != total:
        # Some old archivers added up signed bytes.
        signed = total - 256 * sum(b > 0x7F for b in block) + 256 * sum(b > 0x7F for b in checksum)
        if stored != signed:
            raise Corrupt(f"tar header: its checksum is {total}, not {stored} as it says")
    name = name.partition(b"\0")[0]
    if magic == _POSIX_MAGIC and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    device = kind in (CHARACTER_DEVICE, BLOCK_DEVICE)
    return Header(
        name,
        REGULAR if kind == b"\0" else kind,
        number(mode, "mode"),
        number(uid, "uid"),
        number(gid, "gid"),
        number(size, "size"),
        number(mtime, "mtime"),
        link.partition(b"\0")[0],
        number(major, "device major") if device else 0,
        number(minor, "device minor") if device else 0,
    )


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The (keyword, value) records of an extended header, in order."""
    records = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 21)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            if not data[position:].strip(b"\0"):
                break  # some writers count the padding in
            raise Corrupt("tar extended header: a record does not begin with its length")
        end = position + int(digits)
        if end > len(data) or end <= space or data[end - 1 : end] != b"\n":
            raise Corrupt("tar extended header: a record's length is not its own")
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not keyword:
            raise Corrupt("tar extended header: a record without a keyword")
        records.append((keyword, value))
        position = end
    return records


def parse_time(value: bytes) -> int:
    """A pax time ("1700000000.123456789", also negative) in nanoseconds, the rest cut off."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    digits = whole[1:] if negative else whole
    if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(digits) > 19:
        raise Corrupt(f"tar extended header: not a time: {printable(value)}")
    nanoseconds = int(digits) * _SECOND + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds


def format_time(nanoseconds: int) -> bytes:
    """A time in nanoseconds as a pax record says it: the shortest decimal that is exact."""
    whole, fraction = divmod(abs(nanoseconds), _SECOND)
    sign = "-" if nanoseconds < 0 else ""
    text = f"{sign}{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return text.encode()


def format_pax(records: list[tuple[bytes, bytes]]) -> bytes:
    """Records as the body of an extended header; each begins with its own length in bytes."""
    lines = []
    for keyword, value in records:
        rest = b" " + keyword + b"=" + value + b"\n"
        length = len(rest)
        total = length + len(str(length))
        if len(str(total)) != len(str(length)):
            total = length + len(str(total))
        lines.append(str(total).encode() + rest)
    return b"".join(lines)


def encode(
    member: Member, *, stored: int | None = None, extra: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """The header block(s) of a member: ustar, preceded by a pax header for what does not fit.

    ``stored`` is the number of bytes of content that follow, where that is not ``member.size``;
    ``extra`` are pax records to go with it (a sparse map's are the writer's business).
    Deterministic: the same member gives the same bytes.
    """
    if stored is None:
        stored = member.size
    records = list(extra)
    name, prefix = _split(member.name)
    if prefix is None:
        records.append((b"path", member.name))
        prefix = b""
    link = member.link
    if len(link) > 100 or not _ascii(link):
        records.append((b"linkpath", link))
    fields = []
    for keyword, value, limit in (
        (b"uid", member.uid, 1 << 21),
        (b"gid", member.gid, 1 << 21),
        (b"size", stored, 1 << 33),
    ):
        if value >= limit:
            records.append((keyword, b"%d" % value))
        fields.append(value if value < limit else 0)
    seconds, fraction = divmod(member.mtime, _SECOND)
    if fraction or not 0 <= seconds < 1 << 33:
        records.append((b"mtime", format_time(member.mtime)))
        seconds = min(max(seconds, 0), (1 << 33) - 1)
    if max(member.major, member.minor) >= 1 << 21 or min(member.major, member.minor) < 0:
        raise InvalidArgument(
            f"{printable(member.name)}: device {member.major}:{member.minor} does not fit tar"
        )
    for attribute in sorted(member.xattrs):
        content = member.xattrs[attribute]
        if b"=" in attribute:  # would end the keyword; libarchive's form quotes it
            quoted = quote_from_bytes(attribute, safe=".").encode()
            records.append((b"LIBARCHIVE.xattr." + quoted, base64.b64encode(content)))
        else:
            records.append((b"SCHILY.xattr." + attribute, content))
    block = _block(
        name,
        member.kind,
        mode=member.mode,
        owner=(fields[0], fields[1]),
        size=fields[2],
        mtime=seconds,
        link=link[:100],
        device=(member.major, member.minor),
        prefix=prefix,
    )
    if not records:
        return block
    body = format_pax(records)
    title = b"PaxHeaders/" + os.path.basename(member.name.rstrip(b"/"))[:80]
    head = _block(title, PAX, size=len(body))
    return head + body + bytes(-len(body) % BLOCK) + block


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    block = _LAYOUT.pack(
        name[:100],
        b"%07o\0" % (mode & 0o7777),
        b"%07o\0" % owner[0],
        b"%07o\0" % owner[1],
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        link,
        _POSIX_MAGIC,
        b"",
        b"",
        b"%07o\0" % device[0],
        b"%07o\0" % device[1],
        prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Name and prefix fields for a name; a prefix of None: it only fits a pax record."""
    if not _ascii(name):
        return name[:100], None
    if len(name) <= 100:
        return name, b""
    # The prefix takes all up to a "/" that leaves at most 100 bytes, and some, for the name.
    cut = name.find(b"/", max(len(name) - 101, 1))
    if 0 < cut <= 155 and cut < len(name) - 1:
        return name[cut + 1 :], name[:cut]
    return name[:100], None


def _ascii(name: bytes) -> bool:
    return name.isascii()
