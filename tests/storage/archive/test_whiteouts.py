"""Deleting what is below: in a full tree, and as overlayfs does it, seen through a mount."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from sampan.errors import NotSupported
from tests.storage.archive.trees import (
    Item,
    folder,
    hardlink,
    in_child,
    item,
    layer,
    names,
    symlink,
    tree,
    unpack,
)

pytestmark = pytest.mark.root

BASE = [
    folder("d/", mode=0o750, uid=3),
    item("d/a", b"a"),
    item("d/b", b"b"),
    folder("d/sub/"),
    item("d/sub/x", b"x"),
    item("f", b"f"),
    symlink("l", "d"),
]

CASES: dict[str, list[Item]] = {
    "file": [item(".wh.f")],
    "directory": [item(".wh.d")],
    "link": [item(".wh.l")],
    "below": [item("d/.wh.a"), item("d/sub/.wh.x")],
    "nothing": [item(".wh.absent"), item("d/.wh.absent")],
    "opaque": [folder("d/"), item("d/.wh..wh..opq"), item("d/new", b"n")],
    "opaque last": [folder("d/"), item("d/new", b"n"), item("d/.wh..wh..opq")],
    "opaque unlisted": [item("d/new", b"n"), item("d/.wh..wh..opq")],
    "opaque deep": [item("d/sub/new", b"n"), item("d/.wh..wh..opq")],
    "opaque with kept": [item("d/a", b"again"), item("d/.wh..wh..opq")],
    "then a file": [item(".wh.d"), item("d", b"file")],
    "then a directory": [item(".wh.d"), folder("d/"), item("d/new", b"n")],
    "then inside": [item(".wh.d"), item("d/new", b"n")],
    "file then a directory": [item(".wh.f"), folder("f/"), item("f/new", b"n")],
    "after the file": [item("f", b"new"), item(".wh.f")],
    "after the directory": [folder("d/"), item("d/new", b"n"), item(".wh.d")],
    "directory over file": [folder("f/"), item("f/new", b"n")],
    "file over directory": [item("d", b"file")],
    "twice": [item(".wh.f"), item(".wh.f")],
    "file, gone, and back": [item(".wh.f"), item("f", b"back")],
    "aufs": [
        item(".wh..wh.aufs"),
        folder(".wh..wh.plnk/"),
        item(".wh..wh.plnk/1.2", b"x"),
        folder(".wh..wh.orph/"),
    ],
    "typed as a directory": [folder(".wh.d/")],
    "new link": [item("d/new", b"n"), hardlink("d/new2", "d/new"), item("d/.wh.a")],
}


@pytest.mark.parametrize("name", CASES)
def test_overlay_shows_what_direct_unpacking_makes(tmp_path: Path, name: str) -> None:
    lower, upper, merged, direct = (tmp_path / n for n in ("lower", "upper", "merged", "direct"))
    base, change = layer(*BASE), layer(*CASES[name])
    unpack(base, direct)
    unpack(change, direct)
    unpack(base, lower, "overlay")
    unpack(change, upper, "overlay", (lower,))
    merged.mkdir()

    def work() -> None:
        from sampan.kernel import mounts

        options = f"lowerdir={upper}:{lower}"
        mounts.mount("overlay", str(merged), "overlay", mounts.MS_RDONLY, options)
        shown, made = tree(merged, directory_times=False), tree(direct, directory_times=False)
        assert set(shown) == set(made)
        # A directory that was deleted and entered again has nobody's owner to inherit.
        assert shown == made

    in_child(work)


def test_a_whiteout_is_overlayfs_device_and_an_opaque_directory_its_attribute(
    tmp_path: Path,
) -> None:
    unpack(layer(item(".wh.gone"), item("d/.wh..wh..opq")), tmp_path / "u", "overlay")
    gone = (tmp_path / "u/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(tmp_path / "u/d", "trusted.overlay.opaque") == b"y"


def test_a_layer_that_hides_the_whole_root(tmp_path: Path) -> None:
    change = layer(item("f", b"new"), item(".wh..wh..opq"), folder("d/"))
    with pytest.raises(NotSupported, match="whole root"):
        unpack(change, tmp_path / "alone", "overlay")
    unpack(layer(*BASE), tmp_path / "lower", "overlay")
    unpack(change, tmp_path / "upper", "overlay", (tmp_path / "lower",))
    assert stat.S_ISCHR((tmp_path / "upper/l").lstat().st_mode)
    assert os.getxattr(tmp_path / "upper/d", "trusted.overlay.opaque") == b"y"
    assert (tmp_path / "upper/f").read_bytes() == b"new"
    unpack(layer(*BASE), tmp_path / "direct")
    unpack(change, tmp_path / "direct")
    assert names(tmp_path / "direct") == {"f", "d"}


def test_a_hard_link_to_what_the_layer_deletes_is_refused(tmp_path: Path) -> None:
    from sampan.errors import InvalidArgument

    data = layer(item(".wh.f"), hardlink("g", "f"))
    with pytest.raises(InvalidArgument, match="g: hard link to f, which is not in this layer"):
        unpack(data, tmp_path / "u", "overlay")
    unpack(layer(*BASE), tmp_path / "d")
    with pytest.raises(InvalidArgument, match="g: hard link to f, which is not in the tree"):
        unpack(data, tmp_path / "d")


def test_deleting_a_tree_of_every_kind_of_thing(tmp_path: Path) -> None:
    unpack(
        layer(
            folder("d/", mode=0o000),
            item("d/fifo", kind=tarfile.FIFOTYPE),
            item("d/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
            symlink("d/out", "/"),
            symlink("d/up", ".."),
            *(item(f"d/many/{n}") for n in range(300)),
        ),
        tmp_path / "root",
    )
    unpack(layer(item(".wh.d")), tmp_path / "root")
    assert names(tmp_path / "root") == set()
