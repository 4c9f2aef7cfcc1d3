"""DNS messages: as much as a resolver of names of its own needs, bytes in and bytes out.

RFC 1035 (the format), 6891 (EDNS), 2308 (NXDOMAIN and no data), 1035 section 3.5 and 3596 (names
of addresses). What does not parse raises ``Malformed`` with the reply it gets, which is none where
a reply could be answered again.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False  # typing's own would cost its import
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "A",
    "AAAA",
    "AXFR",
    "BADVERS",
    "FORMERR",
    "IN",
    "IXFR",
    "NOERROR",
    "NOTIMP",
    "NXDOMAIN",
    "PTR",
    "REFUSED",
    "SERVFAIL",
    "Malformed",
    "Query",
    "encode_name",
    "failure",
    "fit",
    "is_reply_to",
    "parse",
    "rcode",
    "reply",
    "reversed_address",
]

A, PTR, AAAA, OPT, IXFR, AXFR = 1, 12, 28, 41, 251, 252
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

TTL = 5
"""Seconds: a name is another container's soon after it is restarted."""

_HEADER = struct.Struct(">6H")
_FIXED = struct.Struct(">HHIH")
_QUESTION = struct.Struct(">HH")
_ANSWER = struct.Struct(">HHHIH")
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE = 0x7800
_TO_QUESTION = 0xC00C
_MAX_RECORDS = 16
_LEAST, _MOST = 512, 4096
"""Bytes of a reply by UDP: without EDNS, and ours with it."""


class Malformed(Exception):
    """A message that is no query; ``reply`` is what its sender gets, empty for nothing."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__("malformed query")
        self.reply = reply


class Query:
    """A query with one question. ``name`` is in lower case, without the last dot; ``limit`` is
    what a reply by UDP may have; ``end`` is where the question ends in ``packet``."""

    __slots__ = ("edns", "end", "flags", "ident", "limit", "name", "packet", "qclass", "qtype")

    def __init__(
        self,
        packet: bytes,
        *,
        ident: int,
        flags: int,
        name: str,
        qtype: int,
        qclass: int,
        end: int,
        limit: int,
        edns: bool,
    ) -> None:
        self.packet = packet
        self.ident = ident
        self.flags = flags
        self.name = name
        self.qtype = qtype
        self.qclass = qclass
        self.end = end
        self.limit = limit
        self.edns = edns


def parse(packet: bytes) -> Query:
    """The query of a packet. Raises Malformed."""
    if len(packet) < 12:
        raise Malformed
    ident, flags, questions, answers, authority, additional = _HEADER.unpack_from(packet)
    if flags & _QR:
        raise Malformed  # a reply: to answer it could go on for ever
    if flags & _OPCODE:
        raise Malformed(_bare(ident, flags, NOTIMP))
    if questions != 1 or answers or authority + additional > _MAX_RECORDS:
        raise Malformed(_bare(ident, flags, FORMERR))
    try:
        name, end = _name(packet)
        qtype, qclass = _QUESTION.unpack_from(packet, end)
        end += 4
        edns, version, size = _options(packet, end, authority, additional)
    except (IndexError, ValueError, struct.error):
        raise Malformed(_bare(ident, flags, FORMERR)) from None
    limit = min(max(size, _LEAST), _MOST)
    query = Query(
        packet,
        ident=ident,
        flags=flags,
        name=name,
        qtype=qtype,
        qclass=qclass,
        end=end,
        limit=limit,
        edns=edns,
    )
    if version:
        raise Malformed(reply(query, BADVERS))
    return query


def _name(packet: bytes) -> tuple[str, int]:
    """The name of the question, which has nothing before it that it could point to."""
    labels = []
    offset = 12
    while size := packet[offset]:
        if size > 63 or offset + size - 12 > 253:
            raise ValueError("label")
        offset += 1
        label = packet[offset : offset + size]
        labels.append(label.replace(b".", b"\\.") if b"." in label else label)
        offset += size
    return b".".join(labels).lower().decode("latin-1"), offset + 1


def _options(packet: bytes, offset: int, authority: int, additional: int) -> tuple[bool, int, int]:
    """Whether there is EDNS, its version, and the size it names."""
    found: tuple[bool, int, int] = (False, 0, 0)
    for number in range(authority + additional):
        start = offset
        while size := packet[offset]:
            if size >= 0xC0:
                offset += 1
                break
            if size > 63:
                raise ValueError("label")
            offset += size + 1
        offset += 1
        kind, klass, ttl, length = _FIXED.unpack_from(packet, offset)
        offset += _FIXED.size + length
        if offset > len(packet):
            raise ValueError("record")
        if kind == OPT:
            if found[0] or packet[start] or number < authority:
                raise ValueError("OPT")
            found = (True, ttl >> 16 & 0xFF, klass)
    return found


def _bare(ident: int, flags: int, code: int) -> bytes:
    kept = flags & (_OPCODE | _RD)
    return _HEADER.pack(ident, _QR | _RA | kept | code, 0, 0, 0, 0)


def reply(query: Query, code: int, answers: Sequence[bytes] = (), limit: int = 65535) -> bytes:
    """A reply with data of the question's own type. Where not all fit, as many as do, and the
    client is told to ask by TCP (RFC 2181, section 9)."""
    flags = _QR | _AA | _RA | query.flags & (_RD | _CD) | code & 15
    question = query.packet[12 : query.end]
    options = b""
    if query.edns:
        options = b"\0" + _FIXED.pack(OPT, _MOST, code >> 4 << 24, 0)
    room = limit - 12 - len(question) - len(options)
    records = []
    for data in answers:
        room -= _ANSWER.size + len(data)
        if room < 0:
            flags |= _TC
            break
        head = _ANSWER.pack(_TO_QUESTION, query.qtype, query.qclass, TTL, len(data))
        records.append(head + data)
    header = _HEADER.pack(query.ident, flags, 1, len(records), 0, 1 if query.edns else 0)
    return b"".join((header, question, *records, options))


def failure(query: Query, code: int) -> bytes:
    """A reply that speaks for nobody: not authoritative."""
    found = bytearray(reply(query, code))
    found[2] &= ~(_AA >> 8)
    return bytes(found)


def fit(answer: bytes, query: Query) -> bytes:
    """Another's reply with this query's ID; by UDP one that is too long is cut to its question."""
    head = query.packet[:2]
    if len(answer) <= query.limit:
        return head + answer[2:]
    flags = _HEADER.unpack_from(answer)[1] | _TC
    header = _HEADER.pack(query.ident, flags, 1, 0, 0, 0)
    return header + query.packet[12 : query.end]


def is_reply_to(answer: bytes, query: Query, ident: int) -> bool:
    """Whether another's message answers what it was asked with this ID."""
    if len(answer) < query.end:
        return False
    found, flags, questions = struct.unpack_from(">HHH", answer)
    return (
        found == ident
        and bool(flags & _QR)
        and questions == 1
        and answer[12 : query.end].lower() == query.packet[12 : query.end].lower()
    )


def rcode(answer: bytes) -> int:
    return answer[3] & 15


def encode_name(name: str) -> bytes:
    """A name in labels. Raises ValueError for what is none."""
    found = b""
    for label in name.rstrip(".").split("."):
        text = label.encode("latin-1")
        if not 0 < len(text) < 64:
            raise ValueError(f"{name!r} is no domain name")
        found += bytes((len(text),)) + text
    if len(found) > 254:
        raise ValueError(f"{name!r} is longer than a domain name may be")
    return found + b"\0"


def reversed_address(name: str) -> bytes | None:
    """The packed address that a name in in-addr.arpa or ip6.arpa means."""
    labels = name.split(".")[::-1]
    try:
        if labels[:2] == ["arpa", "in-addr"] and len(labels) == 6:
            return socket.inet_pton(socket.AF_INET, ".".join(labels[2:]))
        if labels[:2] == ["arpa", "ip6"] and len(labels) == 34:
            digits = "".join(labels[2:])
            return bytes.fromhex(digits) if len(digits) == 32 and digits.isalnum() else None
    except (OSError, ValueError):
        pass
    return None
