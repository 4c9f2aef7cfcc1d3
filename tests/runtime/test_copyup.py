"""What an image has at a mount point, copied into the fresh mount that covers it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.oci.runtime import Mount
from sampan.runtime import copyup
from tests.runtime.inside import PROC, USUAL, make_root, spec, within

pytestmark = pytest.mark.root


def fill(directory: Path) -> None:
    """Something of every kind."""
    (directory / "deep/er").mkdir(parents=True)
    (directory / "deep").chmod(0o2750)
    os.chown(directory / "deep", 11, 12)
    (directory / "deep/file").write_text("content")
    (directory / "deep/file").chmod(0o4711)
    os.chown(directory / "deep/file", 21, 22)
    os.chmod(directory / "deep/file", 0o4711)
    os.setxattr(directory / "deep/file", "trusted.test", b"value")
    os.link(directory / "deep/file", directory / "deep/er/hard")
    (directory / "link").symlink_to("/somewhere/else")
    os.mkfifo(directory / "fifo", 0o620)
    os.mknod(directory / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with open(directory / "sparse", "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    os.utime(directory / "deep/file", ns=(10**18, 2 * 10**18))
    directory.chmod(0o1770)
    os.chown(directory, 31, 32)


def listing(top: str) -> Any:
    """Everything below ``top``: kind and mode, owner, size, links, time of change, target."""
    found = {}
    for directory, names, files in os.walk(top):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            directory_like = stat.S_ISDIR(status.st_mode)
            found[os.path.relpath(path, top)] = [
                status.st_mode,
                status.st_uid,
                status.st_gid,
                0 if directory_like else status.st_size,
                0 if directory_like else status.st_nlink,
                status.st_mtime_ns,
                status.st_rdev,
                os.readlink(path) if stat.S_ISLNK(status.st_mode) else "",
            ]
    return found


def test_a_tree_is_copied_whole(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    fill(source)
    one, other = os.open(source, os.O_RDONLY), os.open(copy, os.O_RDONLY)
    try:
        copyup.copy_tree(one, other)
    finally:
        os.close(one)
        os.close(other)
    assert listing(str(copy)) == listing(str(source))
    assert os.getxattr(copy / "deep/file", "trusted.test") == b"value"
    assert (copy / "deep/file").samefile(copy / "deep/er/hard")
    assert (copy / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (copy / "sparse").stat().st_blocks < 1024


def test_a_tmpfs_with_tmpcopyup(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "data").mkdir()
    fill(root / "data")
    before = listing(str(root / "data"))

    def look() -> object:
        seen = listing("/data")
        Path("/data/new").touch()
        return seen

    entry = Mount(
        destination="/data", type="tmpfs", source="tmpfs", options=("tmpcopyup", "nosuid")
    )
    assert within(spec(root, *USUAL, entry), look) == before
    assert listing(str(root / "data")) == before


def test_a_read_only_tmpfs_is_filled_first(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "etc/file").write_text("content")
    entry = Mount(
        destination="/etc", type="tmpfs", source="tmpfs", options=("tmpcopyup", "ro", "mode=0700")
    )

    def look() -> object:
        return [
            Path("/etc/file").read_text(),
            os.access("/etc/new", os.W_OK),
            os.statvfs("/etc").f_flag & os.ST_RDONLY,
            stat.S_IMODE(os.stat("/etc").st_mode),
        ]

    assert within(spec(root, PROC, entry), look) == ["content", False, 1, 0o700]
