"""Header blocks, both ways, with Python's tarfile as the oracle."""

from __future__ import annotations

import io
import tarfile
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Corrupt, SampanError
from sampan.storage.archive import headers
from sampan.storage.archive.headers import BLOCK, Member
from sampan.storage.archive.reader import Reader

COMPONENT = st.binary(min_size=1, max_size=120).map(
    lambda b: b.replace(b"\0", b"n").replace(b"/", b"s")
)
NAME = st.lists(COMPONENT, min_size=1, max_size=4).map(b"/".join)
MEMBER = st.builds(
    Member,
    name=NAME,
    kind=st.sampled_from([headers.SYMBOLIC_LINK, headers.HARD_LINK, headers.FIFO]),
    size=st.just(0),
    major=st.just(0),
    minor=st.just(0),
    sparse=st.none(),
    atime=st.none(),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    mtime=st.integers(-(2**61), 2**61),
    link=NAME,
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=20).map(lambda b: b"user." + b.replace(b"\0", b"0")),
        st.binary(max_size=50),
        max_size=3,
    ),
)


def read(data: bytes) -> list[Member]:
    return list(Reader(iter([data])))


@given(st.lists(MEMBER, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_again(members: list[Member]) -> None:
    data = b"".join(map(headers.encode, members)) + bytes(2 * BLOCK)
    assert read(data) == members


@given(MEMBER)
@settings(max_examples=150, deadline=None)
def test_tarfile_reads_what_we_write(member: Member) -> None:
    data = headers.encode(member) + bytes(2 * BLOCK)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        (info,) = archive.getmembers()
    assert info.name.encode("utf-8", "surrogateescape") == member.name.rstrip(b"/")
    assert info.linkname.encode("utf-8", "surrogateescape") == member.link.rstrip(b"/")
    assert (info.mode, info.uid, info.gid) == (member.mode, member.uid, member.gid)
    assert info.mtime == pytest.approx(member.mtime / 1e9)


@pytest.mark.parametrize("format", [0, 1, 2])  # ustar, GNU, pax
@given(
    name=st.text("abcXYZ/.-_é ", min_size=1, max_size=250).map(lambda t: t.strip("/") or "x"),
    uid=st.integers(0, 2**31),
    size=st.integers(0, 2**36),
    mtime=st.integers(0, 2**33),
)
@settings(max_examples=60, deadline=None)
def test_we_read_what_tarfile_writes(
    format: Literal[0, 1, 2], name: str, uid: int, size: int, mtime: int
) -> None:
    info = tarfile.TarInfo(name)
    info.uid, info.size, info.mtime = uid, size, mtime
    try:
        data = info.tobuf(format)
    except ValueError:  # does not fit ustar
        return
    member = next(iter(Reader(iter([data]))))
    assert member.name == name.encode()
    assert (member.uid, member.size, member.mtime) == (uid, size, mtime * 10**9)


@given(st.binary(min_size=BLOCK, max_size=BLOCK))
@settings(max_examples=200, deadline=None)
def test_any_block_is_a_member_or_an_error_of_ours(block: bytes) -> None:
    fixed = bytearray(block)
    fixed[148:156] = b" " * 8
    fixed[148:156] = b"%06o\0 " % sum(fixed)
    for data in (block, bytes(fixed)):
        try:
            read(data + bytes(3 * BLOCK))
        except SampanError:
            continue


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_extended_header_is_records_or_an_error_of_ours(data: bytes) -> None:
    try:
        records = headers.parse_pax(data)
    except Corrupt:
        return
    assert headers.parse_pax(headers.format_pax(records)) == records


@given(st.integers(-(2**62), 2**62))
def test_times_are_exact(nanoseconds: int) -> None:
    assert headers.parse_time(headers.format_time(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"644 \0\0\0\0", 0o644),
        (b"\0" * 8, 0),
        (b" " * 8, 0),
        (b"77777777", 0o77777777),
        (b"\x80" + bytes(6) + b"\x05", 5),
        (b"\xff" * 8, -1),
        (b"\x80\0\0\0" + (1 << 40).to_bytes(8, "big"), 1 << 40),
    ],
)
def test_numbers_in_every_form(field: bytes, value: int) -> None:
    assert headers.number(field, "x") == value


@pytest.mark.parametrize(
    "field",
    [b"00008\0\0\0", b"0x1f\0", b"1_0\0", b"+1\0", b"-1\0", b"12 34\0", b"\x80" + b"\xff" * 11],
)
def test_what_is_no_number_is_corrupt(field: bytes) -> None:
    with pytest.raises(Corrupt, match="tar header: x"):
        headers.number(field, "x")


def test_a_checksum_of_signed_bytes_is_taken() -> None:
    block = bytearray(headers.encode(Member(b"x")))
    block[0:4] = b"\xc3\xa9\xff\xfe"
    block[148:156] = b" " * 8
    signed = sum(b - 256 if b > 127 else b for b in block)
    block[148:156] = b"%06o\0 " % signed
    assert headers.decode(bytes(block)).name == b"\xc3\xa9\xff\xfe"


def test_global_headers_set_defaults_and_records_of_a_member_win() -> None:
    def extension(kind: bytes, **records: bytes) -> bytes:
        body = headers.format_pax([(k.encode(), v) for k, v in records.items()])
        head = headers.encode(Member(b"pax", kind, size=len(body)))
        return head + body + bytes(-len(body) % BLOCK)

    data = (
        extension(headers.GLOBAL_PAX, uid=b"7", comment=b"from git archive")
        + headers.encode(Member(b"one"))
        + extension(headers.PAX, uid=b"8")
        + headers.encode(Member(b"two"))
        + headers.encode(Member(b"three", uid=9))
        + bytes(2 * BLOCK)
    )
    assert [(m.name, m.uid) for m in read(data)] == [(b"one", 7), (b"two", 8), (b"three", 7)]
    with pytest.raises(Corrupt, match="global header sets path"):
        read(extension(headers.GLOBAL_PAX, path=b"/etc/passwd"))


def test_names_for_messages_are_one_line() -> None:
    assert headers.printable(b"a\nb\x1b[31m\xff") == "a\\nb\\x1b[31m\\xff"
    assert headers.printable(b"") == '""'
