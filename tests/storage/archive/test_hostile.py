"""Layers made to write, link, delete or act outside the tree; each fails or stays inside."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from sampan.errors import Corrupt, InvalidArgument, NotSupported, SampanError
from sampan.storage.archive import headers
from sampan.storage.archive.headers import Member
from tests.storage.archive.trees import (
    Item,
    folder,
    hardlink,
    item,
    layer,
    names,
    symlink,
    tree,
    unpack,
)

pytestmark = pytest.mark.root


def raw(*members: Member) -> bytes:
    """An archive tarfile would not write."""
    return b"".join(map(headers.encode, members)) + bytes(1024)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree to unpack into, beside files that must stay as they are."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("precious")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def untouched(root: Path) -> None:
    outside = root.parent / "outside"
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_text() == "precious"
    assert (outside / "victim").stat().st_nlink == 1
    assert stat.S_IMODE((outside / "victim").stat().st_mode) == 0o644
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


@pytest.mark.parametrize("style", ["direct", "overlay"])
@pytest.mark.parametrize(
    "name",
    [
        "../outside/victim",
        "..",
        "../",
        "a/../../outside/victim",
        "./../outside/victim",
        "/../outside/victim",
        "//..//outside/victim",
        "a/..",
        "../.wh.outside",
        "../outside/.wh..wh..opq",
    ],
)
def test_names_with_dotdot_are_refused_by_name(root: Path, name: str, style: str) -> None:
    kinds = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)
    for kind in kinds:
        with pytest.raises(InvalidArgument) as caught:
            unpack(
                layer(item(name, kind=kind, linkname="x")),
                root,
                "overlay" if style == "overlay" else "direct",
            )
        assert name in caught.value.message
        assert ".." in caught.value.message
    untouched(root)


def test_dotdot_inside_a_name_is_a_name(root: Path) -> None:
    unpack(layer(item("..data", b"x"), item("a..b", b"x"), item(".../c", b"x")), root)
    assert names(root) == {"..data", "a..b", "...", ".../c"}


def escapes(root: Path) -> dict[str, list[Item]]:
    """Links out of the tree, then a member that goes through them."""
    out = root.parent / "outside"
    return {
        "absolute": [symlink("evil", str(out)), item("evil/victim", b"owned")],
        "relative": [symlink("evil", "../outside"), item("evil/victim", b"owned")],
        "climbing": [symlink("evil", "../" * 40 + str(out)[1:]), item("evil/victim", b"owned")],
        "chained": [
            symlink("one", "two"),
            symlink("two", "../outside"),
            item("one/victim", b"owned"),
        ],
        "nested": [
            folder("d/"),
            symlink("d/up", ".."),
            symlink("d/up2", "up/.."),
            item("d/up2/outside/victim", b"owned"),
        ],
        "itself": [symlink("evil", str(out / "victim")), item("evil", b"owned")],
        "directory": [symlink("evil", str(out)), folder("evil/", mode=0o777)],
        "below": [symlink("evil", str(out)), folder("evil/new/"), item("evil/new/f", b"owned")],
        "whiteout": [symlink("evil", str(out)), item("evil/.wh.victim")],
        "opaque": [symlink("evil", str(out)), item("evil/.wh..wh..opq")],
        "whiteout itself": [symlink("victim", str(out / "victim")), item(".wh.victim")],
        "node": [symlink("evil", str(out)), item("evil/fifo", kind=tarfile.FIFOTYPE)],
        "link": [item("f", b"owned"), symlink("evil", str(out)), hardlink("evil/victim", "f")],
        "link from": [symlink("evil", str(out)), hardlink("stolen", "evil/victim")],
        "link to link": [
            symlink("evil", str(out / "victim")),
            hardlink("alias", "evil"),
            item("alias", b"owned"),
        ],
        "proc": [symlink("evil", "/proc/self/root"), item(f"evil{out}/victim", b"owned")],
        "cwd": [symlink("evil", "/proc/self/cwd"), item("evil/owned", b"owned")],
        "swapped": [
            folder("d/"),
            item("d/victim", b"inside"),
            symlink("d", str(out)),
            item("d/victim", b"owned"),
        ],
        "swapped by link": [
            folder("d/"),
            symlink("e", str(out)),
            hardlink("d", "e"),
            item("d/victim", b"owned"),
        ],
    }


@pytest.mark.parametrize("style", ["direct", "overlay"])
@pytest.mark.parametrize("name", escapes(Path("/x/y")))
def test_what_goes_through_a_link_stays_in_the_tree(root: Path, name: str, style: str) -> None:
    (root / "outside").mkdir()
    (root / "outside/victim").write_text("inside")
    try:
        unpack(layer(*escapes(root)[name]), root, "overlay" if style == "overlay" else "direct")
    except InvalidArgument as error:
        assert any(info.name in error.message for info, _ in escapes(root)[name])
    untouched(root)


def test_a_link_that_leads_inside_is_followed_inside(root: Path) -> None:
    unpack(
        layer(folder("usr/"), folder("usr/lib/"), symlink("lib", "/usr/lib"), item("lib/a", b"x")),
        root,
    )
    assert (root / "usr/lib/a").read_bytes() == b"x"


def test_a_link_that_leads_nowhere_is_refused_by_name(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="evil/f: evil is a symbolic link that leads nowhere"):
        unpack(layer(symlink("evil", "/outside/new"), item("evil/f", b"x")), root)


def test_a_loop_of_links_is_refused_by_name(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="a/f: a is not a directory"):
        unpack(layer(symlink("a", "b"), symlink("b", "a"), item("a/f", b"x")), root)


@pytest.mark.parametrize(
    "thing",
    [
        item("dev", b"file"),
        item("dev", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        item("dev", kind=tarfile.BLKTYPE, devmajor=7, devminor=0),
        item("dev", kind=tarfile.FIFOTYPE),
    ],
)
def test_something_else_where_a_directory_should_be_is_refused(root: Path, thing: Item) -> None:
    with pytest.raises(InvalidArgument, match="dev/x/file: dev/x is not a directory"):
        unpack(layer(thing, item("dev/x/file", b"x")), root)
    with pytest.raises(InvalidArgument, match="dev/file: dev is not a directory"):
        unpack(layer(thing, item("dev/file", b"x")), root)


@pytest.mark.parametrize("target", ["../outside/victim", "/../outside/victim", "a/../../x", ".."])
def test_hard_links_out_are_refused_by_name(root: Path, target: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        unpack(layer(hardlink("stolen", target)), root)
    assert "stolen" in caught.value.message
    assert target in caught.value.message
    assert names(root) == set()
    untouched(root)


@pytest.mark.parametrize("target", ["missing", "no/such/file", "dir", ".", "/etc/hostname"])
def test_hard_links_to_what_is_not_a_file_of_the_tree_are_refused(root: Path, target: str) -> None:
    for style in ("direct", "overlay"):
        with pytest.raises(InvalidArgument, match="link: hard link to"):
            unpack(
                layer(folder("dir/"), hardlink("link", target)),
                root,
                "overlay" if style == "overlay" else "direct",
            )


def test_a_hard_link_to_itself_keeps_the_file(root: Path) -> None:
    unpack(layer(item("f", b"x"), hardlink("f", "f"), hardlink("./f", "/f")), root)
    assert (root / "f").read_bytes() == b"x"


@pytest.mark.parametrize("name", [".wh.", "d/.wh.", ".wh..", "d/.wh..", ".wh...", "d/.wh..."])
def test_whiteouts_of_nothing_here_or_above_are_refused(root: Path, name: str) -> None:
    unpack(layer(folder("d/"), item("d/f", b"x")), root)
    for style in ("direct", "overlay"):
        with pytest.raises(InvalidArgument, match="whiteout of"):
            unpack(layer(item(name)), root, "overlay" if style == "overlay" else "direct")
    assert (root / "d/f").exists()
    untouched(root)


def test_a_whiteout_is_not_a_directory(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="a whiteout is not a directory"):
        unpack(layer(item("a/.wh.b/c", b"x")), root)


def test_overlays_own_attributes_and_device_cannot_come_from_a_layer(root: Path) -> None:
    forged = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
    }
    applied = unpack(layer(folder("d/", pax_headers=forged)), root, "overlay")
    assert os.listxattr(root / "d") == []
    assert len(applied.warnings) == 2
    for style in ("direct", "overlay"):
        with pytest.raises(InvalidArgument, match="etc: character device 0:0"):
            unpack(
                layer(item("etc", kind=tarfile.CHRTYPE, devmajor=0, devminor=0)),
                root,
                "overlay" if style == "overlay" else "direct",
            )


def test_a_fifo_or_device_in_the_way_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "fifo")
    unpack(layer(item("fifo", b"x")), root)  # would hang
    assert (root / "fifo").read_bytes() == b"x"


@pytest.mark.parametrize(
    "member",
    [
        Member(b"nul\0name"),
        Member(b"link", headers.SYMBOLIC_LINK, link=b"a\0b"),
        Member(b"link", headers.SYMBOLIC_LINK, link=b""),
        Member(b"file", xattrs={b"user.\0": b""}),
        Member(b"file", uid=(1 << 32) - 1),
        Member(b"file", uid=1 << 40),
        Member(b"null", headers.CHARACTER_DEVICE, major=1 << 13),
        Member(b"null", headers.BLOCK_DEVICE, minor=1 << 20 | 1),
    ],
)
def test_values_no_file_can_have_are_refused_by_name(root: Path, member: Member) -> None:
    body = headers.encode(member)
    if b"\0" in member.name or b"\0" in member.link:
        # A NUL only fits a pax record.
        records = [(b"path", member.name), (b"linkpath", member.link)]
        body = headers.encode(
            Member(b"short", member.kind, link=b"x"), extra=[r for r in records if r[1]]
        )
    with pytest.raises(InvalidArgument) as caught:
        unpack(body + bytes(1024), root)
    assert headers.printable(member.name) in caught.value.message
    assert "\0" not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "error"),
    [(b"M", NotSupported), (b"N", NotSupported), (b"Z", NotSupported), (b"\xff", NotSupported)],
)
def test_unknown_kinds_of_member_are_refused_by_name(
    root: Path, kind: bytes, error: type[SampanError]
) -> None:
    with pytest.raises(error, match="strange: tar member of type"):
        unpack(raw(Member(b"strange", kind)), root)


def test_too_long_a_component_is_a_clear_error(root: Path) -> None:
    with pytest.raises(SampanError, match="ENAMETOOLONG"):
        unpack(layer(item("x" * 256, b"")), root)


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=\n5 a=\n99 b=c\n",
        b"x a=b\n",
        b"0 a=b\n",
        b"3 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"6 abc\n",
        b"9 mtime=x\n",
        b"14 size=-99999\n",
        b"29 mtime=9999999999999999999\n",
        b"-5 a=b\n",
        b"33 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"[3:],
    ],
)
def test_malformed_extended_headers_are_corrupt(root: Path, records: bytes) -> None:
    head = headers.encode(Member(b"pax", headers.PAX, size=len(records)))
    body = records + bytes(-len(records) % 512)
    with pytest.raises((Corrupt, NotSupported)):
        unpack(head + body + raw(Member(b"f")), root)


def test_an_extended_header_of_a_gigabyte_is_refused_before_it_is_read(root: Path) -> None:
    for kind in (headers.PAX, headers.GLOBAL_PAX, headers.GNU_LONG_NAME, headers.GNU_LONG_LINK):
        with pytest.raises(InvalidArgument, match="1073741824 bytes"):
            unpack(headers.encode(Member(b"x", kind, size=1 << 30)), root)


def sparse(*numbers: int, size: int = 100, stored: int = 0) -> bytes:
    """A pax 1.0 sparse member with this map."""
    text = b"".join(b"%d\n" % n for n in numbers)
    text += bytes(-len(text) % 512)
    extra = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"holes"),
        (b"GNU.sparse.realsize", b"%d" % size),
    ]
    head = headers.encode(Member(b"x"), stored=len(text) + stored, extra=extra)
    return head + text + bytes(stored) + bytes(-stored % 512) + bytes(1024)


@pytest.mark.parametrize(
    "data",
    [
        sparse(1, 90, 20, stored=20),  # past the file's end
        sparse(2, 50, 10, 40, 10, stored=20),  # out of order
        sparse(2, 0, 20, 10, 10, stored=30),  # overlapping
        sparse(1, 0, 10, stored=20),  # not all that is stored
        sparse(1, 0, 30, stored=20),  # more than is stored
        sparse(3, 0, 10),  # fewer than announced
        sparse(99999999999),
        sparse(),
    ],
)
def test_sparse_maps_that_lie_are_refused(root: Path, data: bytes) -> None:
    with pytest.raises((Corrupt, InvalidArgument)):
        unpack(data, root)


def test_a_sparse_file_counts_with_its_holes_towards_the_limit(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="holes: archive unpacks to more than"):
        unpack(sparse(1, 0, 20, size=1 << 62, stored=20), root)


def test_deeper_than_any_path_is_removed_and_replaced(root: Path) -> None:
    # A link to a deep directory makes names that are deeper still.
    deep = "/".join(["d"] * 1900)
    unpack(layer(folder(deep), symlink("more", deep), folder("more/" + deep)), root)
    unpack(layer(item("d", b"a file again")), root)
    assert (root / "d").read_bytes() == b"a file again"


def test_members_in_any_order_never_touch_what_is_outside(root: Path) -> None:
    """Every pair of the members above, with what they leave behind for the next."""
    pieces = [i for items in escapes(root).values() for i in items]
    for first in pieces:
        for second in pieces[::3]:
            try:
                unpack(layer(first, second), root)
            except InvalidArgument:
                continue
    untouched(root)
    assert all(entry[4] != b"precious" for entry in tree(root).values())
