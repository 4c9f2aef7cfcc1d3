"""Unpacking a layer: every kind of member, over whatever is there."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Corrupt, SampanError
from sampan.storage.archive.apply import Limits, apply_layer
from tests.storage.archive.trees import (
    descriptor_of,
    folder,
    hardlink,
    in_child,
    item,
    layer,
    names,
    symlink,
    unpack,
)

pytestmark = pytest.mark.root

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)


def pax(**records: str) -> dict[str, Any]:
    return {"pax_headers": {k.replace("__", "."): v for k, v in records.items()}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_the_result_says_what_was_unpacked(root: Path) -> None:
    data = layer(folder("d/"), item("d/a", b"12345"), item("d/b", b"123"))
    applied = unpack(data, root, "overlay")
    assert applied.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (applied.members, applied.size) == (3, 8)
    assert applied.archive == applied.packed == len(data)
    assert applied.compression == "none"
    assert applied.warnings == ()


def test_owner_mode_and_times_are_the_layers(root: Path) -> None:
    umask = os.umask(0o077)
    try:
        unpack(
            layer(
                folder("d/", mode=0o1777, uid=7, gid=8, **pax(mtime="1600000000.123456789")),
                item("d/suid", b"x", mode=0o6755, uid=70_000, gid=3_000_000_000),
                item("d/open", b"x", mode=0o666, **pax(mtime="-1.5")),
                symlink("d/link", "/nowhere"),
            ),
            root,
        )
    finally:
        os.umask(umask)
    status = (root / "d").stat()
    assert stat.S_IMODE(status.st_mode) == 0o1777
    assert (status.st_uid, status.st_gid) == (7, 8)
    assert status.st_mtime_ns == 1_600_000_000_123_456_789
    status = (root / "d/suid").stat()
    assert stat.S_IMODE(status.st_mode) == 0o6755
    assert (status.st_uid, status.st_gid) == (70_000, 3_000_000_000)
    status = (root / "d/open").stat()
    assert stat.S_IMODE(status.st_mode) == 0o666
    assert status.st_mtime_ns == -1_500_000_000
    assert (root / "d/link").lstat().st_mtime == 1_600_000_000
    assert os.readlink(root / "d/link") == "/nowhere"


def test_extended_attributes_and_file_capabilities_survive_the_change_of_owner(root: Path) -> None:
    raw = CAPABILITY.decode("latin-1")
    unpack(
        layer(
            item(
                "ping",
                b"x",
                uid=1,
                **pax(SCHILY__xattr__security__capability=raw, SCHILY__xattr__user__k="v"),
            ),
            folder("d/", **pax(LIBARCHIVE__xattr__user__percent="aGVsbG8=")),
            item("fifo", kind=tarfile.FIFOTYPE, **pax(SCHILY__xattr__trusted__t="x")),
        ),
        root,
    )
    assert os.getxattr(root / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(root / "ping", "user.k") == b"v"
    assert os.getxattr(root / "d", "user.percent") == b"hello"
    assert os.getxattr(root / "fifo", "trusted.t") == b"x"


def test_attributes_nothing_can_hold_are_said_and_left_out(root: Path) -> None:
    applied = unpack(
        layer(item("fifo", kind=tarfile.FIFOTYPE, **pax(SCHILY__xattr__user__no="x"))), root
    )
    assert applied.warnings == (
        "fifo: extended attribute user.no cannot be kept by this file system",
    )


def test_devices_fifos_and_hard_links_are_made(root: Path) -> None:
    unpack(
        layer(
            item("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            item("disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=70_000, mode=0o660, gid=6),
            item("fifo", kind=tarfile.FIFOTYPE, mode=0o600),
            item("file", b"x"),
            hardlink("again", "file"),
            symlink("soft", "file"),
            hardlink("soft2", "soft"),
            item("contiguous", b"y", kind=tarfile.CONTTYPE),
        ),
        root,
    )
    null = (root / "null").lstat()
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(null.st_mode) == 0o666
    disk = (root / "disk").lstat()
    assert stat.S_ISBLK(disk.st_mode)
    assert disk.st_rdev == os.makedev(259, 70_000)
    assert disk.st_gid == 6
    assert stat.S_ISFIFO((root / "fifo").lstat().st_mode)
    assert (root / "again").stat().st_ino == (root / "file").stat().st_ino
    assert (root / "soft2").lstat().st_ino == (root / "soft").lstat().st_ino
    assert (root / "contiguous").read_bytes() == b"y"


def test_parents_that_are_not_listed_are_made_0755(root: Path) -> None:
    umask = os.umask(0o077)
    try:
        unpack(layer(item("a/b/c/file", b"x"), folder("a/b/", mode=0o700)), root)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o700
    assert (root / "a/b/c/file").read_bytes() == b"x"


def test_parents_that_are_not_listed_look_like_those_below(tmp_path: Path) -> None:
    unpack(layer(folder("srv/", mode=0o2770, uid=5, gid=6)), tmp_path / "one", "overlay")
    unpack(layer(item("other", b"")), tmp_path / "two", "overlay")
    unpack(
        layer(item("srv/new", b"x")),
        tmp_path / "three",
        "overlay",
        (tmp_path / "two", tmp_path / "one"),
    )
    status = (tmp_path / "three/srv").stat()
    assert stat.S_IMODE(status.st_mode) == 0o2770
    assert (status.st_uid, status.st_gid, status.st_mtime) == (5, 6, 1_600_000_000)


def test_names_may_be_any_bytes(root: Path) -> None:
    wild = [b"caf\xc3\xa9", b"\xff\xfe", b"new\nline", b" ", b"-rf", b"\x1b[31m", b"x" * 255]
    unpack(layer(*(item(os.fsdecode(name), b"x") for name in wild)), root)
    assert sorted(os.listdir(os.fsencode(root))) == sorted(wild)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links(root: Path, format: int) -> None:
    deep = "/".join(["directory" * 5] * 30)
    unpack(
        layer(item(deep, b"x"), symlink("link", deep), hardlink("hard", deep), format=format), root
    )
    assert (root / deep).read_bytes() == b"x"
    assert os.readlink(root / "link") == deep
    assert (root / "hard").stat().st_nlink == 2


def test_v7_and_dot_names(root: Path) -> None:
    unpack(
        layer(
            folder("./", mode=0o711), item("./v7dir/", kind=tarfile.AREGTYPE), item("./v7dir/./f")
        ),
        root,
    )
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert (root / "v7dir").is_dir()
    assert (root / "v7dir/f").is_file()


def test_absolute_names_are_taken_from_the_root_of_the_tree(root: Path) -> None:
    unpack(layer(item("/sampan-test/file", b"x"), hardlink("/link", "/sampan-test/file")), root)
    assert (root / "sampan-test/file").stat().st_nlink == 2
    assert not Path("/sampan-test").exists()


KINDS = {
    "file": item("x", b"new"),
    "folder": folder("x/"),
    "link": symlink("x", "elsewhere"),
    "fifo": item("x", kind=tarfile.FIFOTYPE),
    "device": item("x", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "hard": hardlink("x", "other"),
}


@pytest.mark.parametrize("style", ["direct", "overlay"])
@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_a_later_member_takes_an_earlier_ones_place(
    root: Path, before: str, after: str, style: str
) -> None:
    inside = [item("x/inside", b"i")] if before == "folder" else []
    data = layer(item("other", b"other"), KINDS[before], *inside, KINDS[after])
    unpack(data, root, "overlay" if style == "overlay" else "direct")
    kind, _ = KINDS[after]
    status = (root / "x").lstat()
    expected = {
        tarfile.REGTYPE: stat.S_IFREG,
        tarfile.LNKTYPE: stat.S_IFREG,
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
        tarfile.CHRTYPE: stat.S_IFCHR,
    }
    assert stat.S_IFMT(status.st_mode) == expected[kind.type]
    assert status.st_mtime == 1_600_000_000
    if before == after == "folder":
        assert (root / "x/inside").exists()
    assert (root / "other").read_bytes() == b"other", "written through what was in the way"


def test_a_shared_file_is_replaced_and_never_written(root: Path, tmp_path: Path) -> None:
    unpack(layer(item("f", b"shared")), root)
    os.link(root / "f", tmp_path / "lower")
    unpack(layer(item("f", b"changed", mode=0o600)), root)
    assert (tmp_path / "lower").read_bytes() == b"shared"
    assert stat.S_IMODE((tmp_path / "lower").stat().st_mode) == 0o644


def test_a_directory_listed_again_loses_the_attributes_it_no_longer_has(root: Path) -> None:
    unpack(layer(folder("d/", **pax(SCHILY__xattr__user__old="x"))), root)
    unpack(layer(folder("d/", **pax(SCHILY__xattr__user__new="x"))), root)
    assert os.listxattr(root / "d") == ["user.new"]


def test_a_directory_not_listed_keeps_its_time(root: Path) -> None:
    unpack(layer(folder("d/"), folder("d/e/")), root)
    unpack(layer(item("d/e/file")), root)
    assert (root / "d/e").stat().st_mtime == 1_600_000_000
    assert (root / "d").stat().st_mtime == 1_600_000_000


def test_holes_stay_holes(root: Path) -> None:
    # Old GNU sparse, by hand: tarfile reads it and cannot write it.
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    info.size = 4
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (1 << 20, 4)
    block[483:495] = b"%011o\0" % (1 << 30)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data = bytes(block) + b"data".ljust(512, b"\0") + bytes(1024)
    unpack(data, root)
    status = (root / "sparse").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 <= 1 << 16
    with open(root / "sparse", "rb") as file:
        file.seek((1 << 20) - 1)
        assert file.read(6) == b"\0data\0"


def test_the_diff_id_is_held_against_the_stream_to_its_very_end(root: Path) -> None:
    data = layer(item("f", b"x")) + b"\0" * 5000
    expected = "sha256:" + hashlib.sha256(data).hexdigest()
    assert unpack(data, root, diff_id=expected).diff_id == expected
    with pytest.raises(Corrupt, match=f"expected a layer with diff ID {expected}, found sha256:"):
        unpack(data + b"\0", root, diff_id=expected)


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 1500, 2048])
def test_a_truncated_archive_is_corrupt(root: Path, cut: int) -> None:
    data = layer(item("f", b"x" * 600), item("g", b"y"))
    with pytest.raises(Corrupt, match="truncated"):
        unpack(data[:cut], root)


def test_an_archive_without_end_marker_can_be_allowed(root: Path) -> None:
    data = layer(item("f", b"x"))[:1024]
    unpack(data, root, require_end=False)
    assert (root / "f").read_bytes() == b"x"


def test_a_damaged_header_is_corrupt(root: Path) -> None:
    data = bytearray(layer(item("f", b"x"), item("g", b"y")))
    data[1024 + 10] ^= 0xFF
    with pytest.raises(Corrupt, match="checksum"):
        unpack(bytes(data), root)


def test_unpacking_can_be_cancelled_and_closes_every_descriptor(root: Path) -> None:
    data = layer(*(item(f"{n}/f", b"x") for n in range(200)))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SampanError, match="cancelled"):
        asked = iter(range(1000))
        unpack(data, root, cancelled=lambda: next(asked) == 150)
    assert len(os.listdir("/proc/self/fd")) == before
    assert 140 < len(names(root)) < 400


def test_a_stream_is_read_from_a_descriptor_or_an_object_and_left_open(
    root: Path, tmp_path: Path
) -> None:
    root.mkdir()
    target = descriptor_of(root)
    (tmp_path / "layer.tar").write_bytes(layer(item("f", b"x")))
    descriptor = os.open(tmp_path / "layer.tar", os.O_RDONLY)
    apply_layer(descriptor, target, style="direct")
    assert os.read(descriptor, 1) == b""
    os.close(descriptor)
    stream = io.BytesIO(layer(item("g", b"x")))
    apply_layer(stream, target, style="direct")
    assert not stream.closed
    os.close(target)
    assert names(root) == {"f", "g"}


def test_a_full_disk_names_the_entry(tmp_path: Path) -> None:
    def work() -> None:
        from sampan.kernel import mounts

        mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=1m")
        data = layer(item("small", b"x"), item("usr/big", bytes(4 << 20)))
        with pytest.raises(SampanError, match="no space left on device while unpacking usr/big"):
            unpack(data, tmp_path)

    in_child(work)


def test_a_disk_full_of_inodes_names_the_entry(tmp_path: Path) -> None:
    def work() -> None:
        from sampan.kernel import mounts

        mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "nr_inodes=10")
        data = layer(*(folder(f"d{n}/") for n in range(20)))
        with pytest.raises(SampanError, match=r"no space left on device while unpacking d\d+"):
            unpack(data, tmp_path)

    in_child(work)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(members=3), "more than 3 members"),
        (Limits(size=2000), "more than 2000 bytes"),
    ],
)
def test_an_archive_past_its_limits_is_refused(root: Path, limits: Limits, why: str) -> None:
    data = layer(*(item(f"f{n}", bytes(600)) for n in range(4)))
    with pytest.raises(SampanError, match=why):
        unpack(data, root, limits=limits)
    unpack(data, root, limits=Limits(members=4, size=2400))
