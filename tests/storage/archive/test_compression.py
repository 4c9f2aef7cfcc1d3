"""Packed streams: found by magic, unpacked on a thread, strict about their ends."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable

import pytest

from sampan.errors import Corrupt, InvalidArgument
from sampan.storage.archive import compression
from sampan.storage.archive.compression import Compressor, Unpacker, detect

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = random.Random(1).randbytes(300_000) + bytes(3_000_000) + b"the end" * 100_000
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
PACKED = {kind: pack(DATA) for kind, pack in PACKERS.items()}


def unpacked(data: bytes) -> bytes:
    with Unpacker(io.BytesIO(data)) as pieces:
        return b"".join(pieces)


@pytest.mark.parametrize("kind", PACKED)
def test_each_kind_is_found_and_unpacked_and_digested(kind: str) -> None:
    assert detect(PACKED[kind][:6]) == kind
    with Unpacker(io.BytesIO(PACKED[kind])) as pieces:
        assert b"".join(pieces) == DATA
        assert pieces.kind == kind
        assert pieces.size == len(DATA)
        assert pieces.packed == len(PACKED[kind])
        assert pieces.digest == "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_several_members_are_one_stream(kind: str) -> None:
    pack = PACKERS[kind]
    many = pack(b"one") + pack(b"") + pack(b"two") + pack(DATA)
    assert unpacked(many) == b"onetwo" + DATA
    assert unpacked(pack(b"one") + bytes(1000) + pack(b"two")) == b"onetwo"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_zeros_may_follow_and_nothing_else(kind: str) -> None:
    assert unpacked(PACKED[kind] + bytes(70_000)) == DATA
    for garbage in (b"x", b"garbage", b"\0\0x", bytes(400_000) + b"x", b"\x1f", PACKED["none"]):
        with pytest.raises(Corrupt, match="followed by bytes that are not"):
            unpacked(PACKED[kind] + garbage)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_a_truncated_stream_is_corrupt(kind: str) -> None:
    data = PACKED[kind]
    for cut in (7, 20, len(data) // 2, len(data) - 9, len(data) - 1):
        with pytest.raises(Corrupt, match="truncated"):
            unpacked(data[:cut])


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_flipped_bit_is_corrupt(kind: str) -> None:
    data = bytearray(PACKED[kind])
    for where in (len(data) // 2, len(data) - 6):
        data[where] ^= 0x10
        with pytest.raises(Corrupt, match=f"{kind} data is"):
            unpacked(bytes(data))
        data[where] ^= 0x10


def test_a_zstd_frame_with_a_wrong_checksum_is_corrupt() -> None:
    options = {int(zstd.CompressionParameter.checksum_flag): 1}
    data = bytearray(zstd.compress(DATA, options=options))
    data[-1] ^= 1
    with pytest.raises(Corrupt, match="zstd data is corrupt"):
        unpacked(bytes(data))


def test_gzip_with_every_optional_field_of_its_header() -> None:
    body = zlib.compressobj(wbits=-15)
    raw = body.compress(b"hello") + body.flush()
    header = b"\x1f\x8b\x08\x1c" + bytes(6) + b"\x03\x00abc" + b"name\0" + b"comment\0"
    trailer = zlib.crc32(b"hello").to_bytes(4, "little") + (5).to_bytes(4, "little")
    assert unpacked(header + raw + trailer) == b"hello"


def test_short_and_empty_streams() -> None:
    for data in (b"", b"x", b"\x1f", b"BZ"):
        assert unpacked(data) == data


def test_a_stream_that_comes_in_crumbs() -> None:
    class Crumbs(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 7))

    for kind in PACKED:
        with Unpacker(Crumbs(PACKERS[kind](DATA[:20_000]))) as pieces:
            assert b"".join(pieces) == DATA[:20_000]


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    for _ in range(20):
        with Unpacker(io.BytesIO(PACKED["gzip"] * 20)) as pieces:
            next(pieces)
    assert threading.active_count() == before


def test_an_error_of_the_source_reaches_the_consumer() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(1000)
            if not data:
                raise ConnectionResetError("gone")
            return data

    with pytest.raises(ConnectionResetError), Unpacker(Broken(PACKED["none"][:5000])) as pieces:
        for _ in pieces:
            pass


def test_a_bomb_is_refused_by_its_ratio() -> None:
    bomb = gzip.compress(bytes(400 << 20), 9)
    with (
        pytest.raises(InvalidArgument, match="more than 100 times"),
        Unpacker(io.BytesIO(bomb), ratio=100) as pieces,
    ):
        for _ in pieces:
            pass
    assert pieces.size < 260 << 20


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_what_is_packed_can_be_unpacked_and_is_always_the_same(kind: str) -> None:
    outputs = []
    for _ in range(2):
        out = io.BytesIO()
        packer = Compressor(out.write, kind)
        for start in range(0, len(DATA), 100_000):
            packer.write(memoryview(DATA)[start : start + 100_000])
        packer.close()
        assert packer.size == len(DATA)
        assert packer.packed == len(out.getvalue())
        assert packer.digest == "sha256:" + hashlib.sha256(DATA).hexdigest()
        outputs.append(out.getvalue())
    assert outputs[0] == outputs[1]
    assert unpacked(outputs[0]) == DATA


def test_our_gzip_has_neither_name_nor_time() -> None:
    out = io.BytesIO()
    packer = Compressor(out.write)
    packer.write(b"x")
    packer.close()
    assert out.getvalue()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_other_kinds_are_not_written() -> None:
    with pytest.raises(InvalidArgument, match="bzip2"):
        Compressor(io.BytesIO().write, "bzip2")


@pytest.mark.peer
@pytest.mark.parametrize(("kind", "program"), [("gzip", "gzip"), ("zstd", "zstd")])
def test_the_programs_of_the_formats_read_what_we_write(kind: str, program: str) -> None:
    out = io.BytesIO()
    packer = Compressor(out.write, kind)
    packer.write(DATA)
    packer.close()
    done = subprocess.run([program, "-dc"], input=out.getvalue(), capture_output=True, check=True)
    assert done.stdout == DATA
    assert done.stderr == b""


def test_without_isal_the_same_comes_out_of_zlib() -> None:
    """In a fresh interpreter where isal cannot be imported."""
    code = (
        "import sys; sys.modules['isal'] = None\n"
        "import io, gzip\n"
        "from sampan.storage.archive import compression as c\n"
        "assert c._deflate.__name__ == 'zlib'\n"
        "data = bytes(range(256)) * 20000\n"
        "with c.Unpacker(io.BytesIO(gzip.compress(data) * 2 + bytes(5))) as p:\n"
        "    assert b''.join(p) == data * 2\n"
        "out = io.BytesIO(); k = c.Compressor(out.write); k.write(data); k.close()\n"
        "assert gzip.decompress(out.getvalue()) == data\n"
        "for bad in (gzip.compress(data)[:-3], gzip.compress(data) + b'x'):\n"
        "    try:\n"
        "        with c.Unpacker(io.BytesIO(bad)) as p: list(p)\n"
        "    except c.Corrupt: continue\n"
        "    raise SystemExit('not noticed')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
    assert compression.KINDS[0] == "none"
