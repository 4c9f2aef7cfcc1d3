"""What changed: from an overlay upper directory and from two trees, with one answer."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidArgument, NotSupported
from sampan.storage.archive.diff import (
    Change,
    changes_between,
    changes_in_upper,
    write_difference,
    write_tree,
    write_upper,
)
from sampan.storage.archive.writer import Writer
from tests.storage.archive.trees import (
    descriptor_of,
    folder,
    hardlink,
    in_child,
    item,
    layer,
    symlink,
    tree,
    unpack,
)

pytestmark = pytest.mark.root

BASE = layer(
    folder("./", mode=0o755),
    folder("d/", mode=0o750, uid=3),
    item("d/a", b"a"),
    item("d/b", b"b"),
    folder("d/sub/"),
    item("d/sub/x", b"x"),
    folder("e/"),
    item("e/one", b"1"),
    folder("e/deep/"),
    item("e/deep/two", b"2"),
    item("f", b"f"),
    item("h1", b"hard"),
    hardlink("h2", "h1"),
    symlink("l", "d"),
    item("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
)


def nothing(root: Path) -> None:
    pass


def modify(root: Path) -> None:
    (root / "d/a").write_bytes(b"changed")


def add(root: Path) -> None:
    (root / "new").write_bytes(b"n")
    (root / "dir/with/more").mkdir(parents=True)
    (root / "dir/with/more/file").write_bytes(b"n")
    os.symlink("nowhere", root / "d/link")
    os.mkfifo(root / "fifo")
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))


def delete(root: Path) -> None:
    (root / "f").unlink()
    (root / "l").unlink()
    shutil.rmtree(root / "d/sub")


def delete_and_make_again(root: Path) -> None:
    shutil.rmtree(root / "e")
    (root / "e").mkdir()
    (root / "e/three").write_bytes(b"3")
    (root / "e/one").write_bytes(b"other")


def other_kind(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "d").write_bytes(b"a file now")
    (root / "f").unlink()
    (root / "f").mkdir()
    (root / "f/inside").write_bytes(b"i")
    (root / "l").unlink()
    os.symlink("e", root / "l")


def metadata(root: Path) -> None:
    (root / "d/a").chmod(0o4755)
    os.chown(root / "d/b", 1, 2)
    os.setxattr(root / "f", "user.k", b"v")
    os.setxattr(root / "e", "trusted.t", b"v")
    os.utime(root / "d/sub/x", ns=(5, 5_000_000_007))
    os.chown(root / "l", 9, 9, follow_symlinks=False)


def links(root: Path) -> None:
    os.link(root / "d/a", root / "d/a2")
    (root / "n1").write_bytes(b"n")
    os.link(root / "n1", root / "n2")
    (root / "h1").unlink()
    (root / "h1").write_bytes(b"split")


def the_root(root: Path) -> None:
    root.chmod(0o711)


def all_of_it(root: Path) -> None:
    for work in (add, metadata, links, delete, delete_and_make_again):
        work(root)


def unlinked(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """A tree without what says which files are one."""
    return {path: entry[:-1] for path, entry in found.items()}


WORKS = [
    nothing,
    modify,
    add,
    delete,
    delete_and_make_again,
    other_kind,
    metadata,
    links,
    the_root,
    all_of_it,
]


def settle(root: Path) -> None:
    """Give what is new fixed times, so that two trees worked on apart can be equal."""
    for where, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(where, name)
            if os.lstat(path).st_mtime > 1_700_000_000:
                os.utime(path, (1_650_000_000, 1_650_000_000), follow_symlinks=False)


@pytest.mark.parametrize("work", WORKS)
def test_upper_directories_and_compared_trees_agree_and_apply_again(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    lower, upper, scratch, merged, old, new = (
        tmp_path / n for n in ("lower", "upper", "scratch", "merged", "old", "new")
    )
    unpack(BASE, lower, "overlay")
    unpack(BASE, old)
    unpack(BASE, new)
    for path in (upper, scratch, merged):
        path.mkdir()
    shutil.copystat(lower, upper)

    def in_overlay() -> None:
        from sampan.kernel import mounts

        options = (
            f"lowerdir={lower},upperdir={upper},workdir={scratch},"
            "redirect_dir=off,metacopy=off,index=off"
        )
        mounts.mount("overlay", str(merged), "overlay", 0, options)
        work(merged)
        settle(merged)
        # What a container's merged tree gives when it is exported whole.
        whole = io.BytesIO()
        write_tree(descriptor_of(merged), whole)
        unpack(whole.getvalue(), tmp_path / "exported")
        shown = tree(merged, directory_times=False)
        exported = tree(tmp_path / "exported", directory_times=False)
        # Overlayfs goes on counting the links of a file below whose other name was copied up.
        assert unlinked(exported) == unlinked(shown)

    in_child(in_overlay)
    work(new)
    settle(new)
    low, up, before, after = map(descriptor_of, (lower, upper, old, new))
    expected = changes_between(before, after)
    # To give a file below a second name overlayfs copies it up: that is listed, though nothing in
    # the file changed that a comparison of two trees could see.
    copied = {Change(b"d/a", "C")}
    assert set(changes_in_upper(up, [low])) - copied == set(expected) - copied
    assert (expected == []) == (work in (nothing, the_root))

    packed, compared = io.BytesIO(), io.BytesIO()
    write_upper(up, packed, lower=[low])
    write_difference(before, after, compared)
    for source in (packed, compared):
        data = source.getvalue()
        again = tmp_path / "again"
        unpack(BASE, again)
        unpack(data, again)
        wanted, found = tree(new, directory_times=False), tree(again, directory_times=False)
        if work in (links, all_of_it):
            # A second name for a file below is a copy of it in every layer, as overlayfs makes it.
            assert unlinked(found) == unlinked(wanted)
            assert (again / "n1").stat().st_ino == (again / "n2").stat().st_ino
        else:
            assert found == wanted
        assert again.stat().st_mode == new.stat().st_mode
        shutil.rmtree(again)
        unpack(BASE, tmp_path / "low2", "overlay")
        unpack(data, tmp_path / "up2", "overlay", (tmp_path / "low2",))
        names = changes_in_upper(descriptor_of(tmp_path / "up2"), [low])
        assert set(names) - copied == set(expected) - copied
        shutil.rmtree(tmp_path / "low2")
        shutil.rmtree(tmp_path / "up2")
    for descriptor in (low, up, before, after):
        os.close(descriptor)


def test_changes_are_named_as_docker_diff_does(tmp_path: Path) -> None:
    unpack(BASE, tmp_path / "old")
    unpack(BASE, tmp_path / "new")
    modify(tmp_path / "new")
    delete(tmp_path / "new")
    (tmp_path / "new/d/n").write_bytes(b"")
    old, new = descriptor_of(tmp_path / "old"), descriptor_of(tmp_path / "new")
    assert changes_between(old, new) == [
        Change(b"d", "C"),
        Change(b"d/a", "C"),
        Change(b"d/n", "A"),
        Change(b"d/sub", "D"),
        Change(b"f", "D"),
        Change(b"l", "D"),
    ]
    os.close(old)
    os.close(new)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        unpack(BASE, tmp_path / name)
        out = io.BytesIO()
        write_tree(descriptor_of(tmp_path / name), out)
        written.append(out.getvalue())
    assert written[0] == written[1]
    assert b"root" not in written[0]


def test_a_directory_comes_before_what_is_in_it(tmp_path: Path) -> None:
    unpack(BASE, tmp_path / "root")
    out = io.BytesIO()
    write_tree(descriptor_of(tmp_path / "root"), out)
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        for member in archive:
            parent = os.path.dirname(member.name.rstrip("/"))
            assert not parent or parent == "." or parent in seen
            seen.add(member.name.rstrip("/"))


def test_sockets_are_left_out_and_said(tmp_path: Path) -> None:
    os.mknod(tmp_path / "socket", 0o140777)
    out = io.BytesIO()
    written = write_tree(descriptor_of(tmp_path), out)
    assert written.left_out == (b"socket",)
    assert written.members == 1


def test_a_file_that_would_read_as_a_whiteout_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.wh.evil").touch()
    with pytest.raises(InvalidArgument, match=r"d/\.wh\.evil"):
        write_tree(descriptor_of(tmp_path), io.BytesIO())


def test_a_redirected_directory_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    os.setxattr(tmp_path / "moved", "trusted.overlay.redirect", b"/etc")
    with pytest.raises(NotSupported, match=r"moved: trusted\.overlay\.redirect"):
        write_upper(descriptor_of(tmp_path), io.BytesIO())


def test_a_file_that_shrinks_while_it_is_read_is_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(3 << 20))

    class Cutting(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if len(data) == 1 << 20:
                os.truncate(path, 1 << 20)
            return 0

    with pytest.raises(Conflict, match="log became shorter"):
        write_tree(descriptor_of(tmp_path), Cutting())


def test_a_file_that_vanishes_or_is_swapped_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    status = os.lstat(tmp_path / "f")
    directory = descriptor_of(tmp_path)
    out = io.BytesIO()
    writer = Writer(out)
    (tmp_path / "f").unlink()
    writer.add(b"f", directory, b"f", status)
    os.symlink("/etc/passwd", tmp_path / "f")
    writer.add(b"f", directory, b"f", status)
    (tmp_path / "f").unlink()
    os.mkfifo(tmp_path / "f")
    writer.add(b"f", directory, b"f", status)
    assert writer.finish().members == 0
    os.close(directory)


def test_a_tree_deeper_than_paths_are_long_is_packed_whole(tmp_path: Path) -> None:
    here = descriptor_of(tmp_path)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=here)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    out = io.BytesIO()
    assert write_tree(descriptor_of(tmp_path), out).members == 31
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames()[-1] == "/".join(["x" * 200] * 30)
    subprocess.run(["rm", "-rf", "--one-file-system", str(tmp_path / ("x" * 200))], check=True)


def test_mounts_in_a_tree_are_empty_directories(tmp_path: Path) -> None:
    (tmp_path / "root/mnt").mkdir(parents=True)

    def work() -> None:
        from sampan.kernel import mounts

        mounts.mount("tmpfs", str(tmp_path / "root/mnt"), "tmpfs", 0, None)
        (tmp_path / "root/mnt/secret").write_bytes(b"secret")
        out = io.BytesIO()
        write_tree(descriptor_of(tmp_path / "root"), out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
            assert archive.getnames() == [".", "mnt"]

    in_child(work)


def test_the_files_of_a_shared_tree_are_no_change(tmp_path: Path) -> None:
    """The "overlay" driver's trees: the same files under both, by hard link."""
    unpack(BASE, tmp_path / "old")
    subprocess.run(["cp", "-al", str(tmp_path / "old"), str(tmp_path / "new")], check=True)
    old, new = descriptor_of(tmp_path / "old"), descriptor_of(tmp_path / "new")
    assert changes_between(old, new) == []
    os.close(old)
    os.close(new)
