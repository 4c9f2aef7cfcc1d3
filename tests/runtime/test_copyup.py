"""What an image has at a mount point, copied into the fresh mount that covers it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import SampanError
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


def volume(source: Path, *options: str) -> Mount:
    return Mount(
        destination="/data", type="bind", source=str(source), options=("rbind", "copyup", *options)
    )


def test_an_empty_volume_takes_what_the_image_has(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    (root / "data").mkdir()
    (root / "data/file").write_text("of the image")
    (root / "data").chmod(0o1770)
    os.chown(root / "data", 31, 32)
    assert within(spec(root, PROC, volume(source)), Path("/data/file").read_text) == "of the image"
    assert (source / "file").read_text() == "of the image"
    status = source.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o1770, 31, 32)


def test_a_volume_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    (source / "mine").touch()
    (root / "data").mkdir()
    (root / "data/file").touch()
    assert within(spec(root, PROC, volume(source)), lambda: os.listdir("/data")) == ["mine"]


def test_a_read_only_volume_is_filled_and_then_read_only(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    (root / "data").mkdir()
    (root / "data/file").touch()
    seen = within(
        spec(root, PROC, volume(source, "ro")),
        lambda: [os.listdir("/data"), os.statvfs("/data").f_flag & os.ST_RDONLY],
    )
    assert seen == [["file"], 1]


def test_a_volume_where_the_image_has_nothing(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    assert within(spec(root, PROC, volume(source)), lambda: os.listdir("/data")) == []


def test_a_link_in_the_image_is_copied_and_never_followed(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("private")
    (root / "data").mkdir()
    (root / "data/way").symlink_to(secret)
    within(spec(root, PROC, volume(source)), lambda: None)
    assert (source / "way").is_symlink()
    (root / "data/way").unlink()
    (root / "data").rmdir()
    (root / "data").symlink_to(secret)
    (source / "way").unlink()
    try:
        within(spec(root, PROC, volume(source)), lambda: None)
    except SampanError:
        pass
    assert os.listdir(source) == []


@pytest.mark.parametrize("leads_to", ["/sys", "/sys/kernel", "/dev", "/other"])
def test_what_is_mounted_is_no_content_of_the_image_cve_2022_23648(
    tmp_path: Path, leads_to: str
) -> None:
    """A link at the volume's place to what is masked later, or to another volume: no copy."""
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    other = tmp_path / "other"
    source.mkdir()
    other.mkdir()
    (other / "file").touch()
    (root / "other").mkdir()
    (root / "data").symlink_to(leads_to)
    elsewhere = Mount(destination="/other", type="bind", source=str(other), options=("bind",))
    # /dev itself is covered by the volume, where the default devices are made afterwards.
    within(spec(root, *USUAL, elsewhere, volume(source)), lambda: None)
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in source.rglob("*")}
    assert not kinds & {stat.S_IFREG, stat.S_IFDIR}


def test_below_a_link_to_the_root_mounts_are_left_out_cve_2022_23648(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    source = tmp_path / "volume"
    source.mkdir()
    (root / "etc/plain").write_text("of the image")
    (root / "etc/covered").write_text("of the image")
    (root / "data").symlink_to("etc/..")
    covered = tmp_path / "secret"
    covered.write_text("of the host")
    bind = Mount(destination="/etc/covered", type="bind", source=str(covered), options=("bind",))
    with pytest.raises(SampanError, match="leads to the root"):
        within(spec(root, *USUAL, bind, volume(source)), lambda: None)
    assert not (source / "proc/1").exists()
    assert not (source / "sys/kernel").exists()
    assert (source / "etc/plain").read_text() == "of the image"
    assert not (source / "etc/covered").exists()


def test_a_link_into_proc_copies_nothing_and_is_refused_cve_2019_16884(tmp_path: Path) -> None:
    root, source = make_root(tmp_path / "root"), tmp_path / "volume"
    source.mkdir()
    (root / "data").symlink_to("/proc/sys/kernel")
    with pytest.raises(SampanError, match="only procfs"):
        within(spec(root, *USUAL, volume(source)), lambda: None)
    assert os.listdir(source) == []
