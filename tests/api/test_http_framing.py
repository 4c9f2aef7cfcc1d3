"""The framing of bodies, chunked and sized, however they are cut (RFC 9112, 6 and 7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api.http.framing import Chunked, Sized
from sampan.api.http.messages import HttpError


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b" ;x"]),
    trailers=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
)
@settings(max_examples=300, deadline=None)
def test_chunks_are_the_same_however_the_stream_is_cut(
    parts: list[bytes], cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    wire = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    wire += b"0\r\n" + trailers + b"\r\n" + b"BEHIND"
    found: list[bytes] = []
    framing = Chunked()
    rest, last = b"", 0
    for cut in [*sorted(cut for cut in cuts if cut < len(wire)), len(wire)]:
        piece, last = wire[last:cut], cut
        rest += piece if framing.done else framing.feed(piece, found.append)
    assert framing.done
    assert (b"".join(found), rest) == (b"".join(parts), b"BEHIND")


def test_a_chunked_body_may_be_cut_at_every_byte() -> None:
    wire = b"5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n"
    for cut in range(len(wire) + 1):
        found: list[bytes] = []
        framing = Chunked()
        rest = framing.feed(wire[:cut], found.append)
        if cut < len(wire):
            assert not framing.done
            rest += framing.feed(wire[cut:], found.append)
        assert (framing.done, b"".join(found), rest) == (True, b"hello!", b"")


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello!\r\n",
        b"5 5\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"5;" + b"a" * 2000,
        b"5;" + b"a" * 2000 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 5000,
    ],
)
def test_a_malformed_chunk_is_an_error(wire: bytes) -> None:
    with pytest.raises(HttpError):
        Chunked().feed(wire, len)


def test_a_sized_body_ends_at_its_last_byte() -> None:
    framing, found = Sized(5), list[bytes]()
    assert framing.feed(b"he", found.append) == b""
    assert framing.feed(b"lloGET", found.append) == b"GET"
    assert (framing.done, b"".join(found)) == (True, b"hello")
