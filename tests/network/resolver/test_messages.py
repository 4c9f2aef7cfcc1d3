"""The format: whatever a packet is, it is parsed or refused, and what is answered parses."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.network.resolver import messages
from sampan.network.resolver.messages import Malformed, parse, reply
from tests.network.resolver.place import question

HEADER = st.tuples(*[st.integers(0, 0xFFFF)] * 2, *[st.integers(0, 3)] * 4)
MUTATION = st.tuples(st.integers(0, 60), st.integers(0, 255))


def judged(packet: bytes) -> bytes:
    """What comes of it; never anything but an answer or ``Malformed``."""
    try:
        query = parse(packet)
    except Malformed as error:
        return error.reply
    return reply(query, 0, [bytes(4)] * 3, query.limit)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_query_or_malformed(packet: bytes) -> None:
    answer = judged(packet)
    assert not answer or answer[2] & 0x80


@given(HEADER, st.binary(max_size=300))
def test_any_body_behind_a_header_is_a_query_or_malformed(
    header: tuple[int, ...], body: bytes
) -> None:
    answer = judged(struct.pack(">6H", *header) + body)
    assert len(answer) <= 4096
    with pytest.raises(Malformed) as caught:
        parse(answer)
    assert caught.value.reply == b""  # nobody answers an answer


@given(st.lists(MUTATION, max_size=6), st.integers(0, 60))
def test_a_changed_or_cut_query_is_a_query_or_malformed(
    changes: list[tuple[int, int]], length: int
) -> None:
    packet = bytearray(question("web.example.org", edns=1232))
    for place, value in changes:
        packet[place % len(packet)] = value
    judged(bytes(packet))
    judged(bytes(packet[:length]))


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"", None),
        (bytes(11), None),
        (question("web")[:2] + b"\x81" + question("web")[3:], None),  # a reply
        (question("web")[:2] + b"\x29" + question("web")[3:], 4),  # an update
        (question("web")[:-3], 1),
        (question("web")[:5] + b"\2" + question("web")[6:], 1),
        (question("web")[:12] + b"\xc0\x0c\0\1\0\1", 1),  # a name that points to itself
        (question("web")[:12] + b"\x40web\0\0\1\0\1", 1),
        (question(".".join(["a" * 63] * 4)), 1),
        (question("web", edns=512)[:-2] + b"\0\x10", 1),  # options beyond the end
        (question("web", edns=512)[:11] + b"\2" + question("web", edns=512)[12:], 1),
    ],
)
def test_what_is_malformed_gets_its_code_or_nothing(packet: bytes, code: int | None) -> None:
    with pytest.raises(Malformed) as caught:
        parse(packet)
    found = caught.value.reply
    assert (found[3] & 15 if found else None) == code


def test_a_dot_within_a_label_is_no_border() -> None:
    packet = question("webXnet").replace(b"X", b".")
    assert parse(packet).name == "web\\.net"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("2.0.0.10.in-addr.arpa", bytes((10, 0, 0, 2))),
        ("2." + "0." * 29 + "d.f.ip6.arpa", b"\xfd" + bytes(14) + b"\2"),
        ("0.0.10.in-addr.arpa", None),
        ("256.0.0.10.in-addr.arpa", None),
        ("x." + "0." * 29 + "d.f.ip6.arpa", None),
        ("22." + "0." * 29 + "d.f.ip6.arpa", None),
        ("in-addr.arpa", None),
    ],
)
def test_names_of_addresses(name: str, address: bytes | None) -> None:
    assert messages.reversed_address(name) == address


@pytest.mark.parametrize("name", ["", "a" * 64, "a..b", ".".join(["a" * 63] * 4)])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        messages.encode_name(name)
