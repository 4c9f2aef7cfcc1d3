"""Digests, and the chain IDs made of them."""

from __future__ import annotations

import hashlib

import pytest

from sampan.errors import InvalidArgument
from sampan.oci import digest as digests

ONE, TWO, THREE = ("sha256:" + c * 64 for c in "123")


def test_digests_of_bytes_are_sha256_or_like_another() -> None:
    assert digests.of(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    like = "sha512:" + "0" * 128
    assert digests.of(b"abc", like) == "sha512:" + hashlib.sha512(b"abc").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "md5:" + "a" * 32,
        "../x",
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    assert not digests.is_digest(text)
    with pytest.raises(InvalidArgument):
        digests.parse(text)


def test_a_chain_id_covers_all_layers_below() -> None:
    second = "sha256:" + hashlib.sha256(f"{ONE} {TWO}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {THREE}".encode()).hexdigest()
    assert digests.chain_ids((ONE, TWO, THREE)) == (ONE, second, third)
    assert digests.chain_ids(()) == ()
