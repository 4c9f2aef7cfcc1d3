"""GNU tar as the oracle, both ways, and as the writer of every format we are to read."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.storage.archive.diff import write_difference, write_tree
from tests.storage.archive.trees import descriptor_of, tree, unpack

pytestmark = [pytest.mark.root, pytest.mark.peer]

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
EXTRACT = ["tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*"]


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    root = tmp_path / "rich"
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/file").write_bytes(b"content")
    os.chown(root / "d/e/file", 12, 4_000_000)
    (root / "suid").write_bytes(b"x" * 513)
    (root / "suid").chmod(0o6711)
    os.setxattr(root / "suid", "security.capability", CAPABILITY)
    os.setxattr(root / "d", "user.note", b"binary\0\xff=value\n")
    os.setxattr(root / "d/e", "trusted.t", b"")
    os.link(root / "d/e/file", root / "d/hard")
    os.symlink("../suid", root / "d/soft")
    os.link(root / "d/soft", root / "softer", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o600)
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o60660, os.makedev(259, 70_000))
    (root / ("n" * 200)).write_bytes(b"long")
    (root / ("p" * 90) / ("q" * 90)).mkdir(parents=True)
    os.symlink("t" * 300, root / ("p" * 90) / "long-link")
    (root / "caf\u00e9").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe \n")).write_bytes(b"raw")
    (root / "empty").touch()
    with open(root / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(10 << 20)
    with open(root / "many-holes", "wb") as file:
        for index in range(60):
            file.seek(index << 18)
            file.write(b"data%d" % index)
    with open(root / "all-hole", "wb") as file:
        file.truncate(1 << 20)
    for number, (where, folders, files) in enumerate(os.walk(root, topdown=False)):
        for name in files + folders:
            path = os.path.join(where, name)
            time = 1_500_000_000_123_456_789 + number
            os.utime(path, ns=(time, time), follow_symlinks=False)
    os.utime(root, ns=(1_500_000_000_000_000_001, 1_500_000_000_000_000_001))
    return root


def holes(root: Path) -> dict[str, list[tuple[int, int]]]:
    """Where there is data. Not st_blocks: those count a file system's own notes too, when it has
    come to write them."""
    return {name: segments(root / name) for name in ("holes", "many-holes", "all-hole")}


def segments(path: Path) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    with open(path, "rb") as file:
        end = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return found
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, end))


def test_gnu_tar_unpacks_what_we_write(rich: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    with open(out, "wb") as file:
        write_tree(descriptor_of(rich), file)
    (tmp_path / "theirs").mkdir()
    done = subprocess.run(
        [*EXTRACT, "-C", str(tmp_path / "theirs"), "-f", str(out)], capture_output=True, check=True
    )
    assert done.stderr == b""
    assert tree(tmp_path / "theirs") == tree(rich)
    assert holes(tmp_path / "theirs") == holes(rich)
    assert out.stat().st_size < 300_000


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=gnu", "--sparse"],
        ["--format=posix"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=posix", "--sparse", "--sparse-version=1.0"],
        ["--format=posix", "--sparse", "--hole-detection=raw"],
        ["--format=gnu", "--sparse", "--gzip"],
        ["--format=posix", "--bzip2"],
        ["--format=posix", "--xz"],
        ["--format=posix", "--blocking-factor=1"],
        ["--format=posix", "--label=volume"],
        ["--format=posix", "--sort=name", "--pax-option=delete=atime,delete=ctime"],
    ],
    ids=" ".join,
)
def test_we_unpack_what_gnu_tar_writes(rich: Path, tmp_path: Path, options: list[str]) -> None:
    posix = "--format=posix" in options
    attributes = ["--xattrs", "--xattrs-include=*"] if posix else []
    done = subprocess.run(
        ["tar", "-c", "-C", str(rich), *options, *attributes, "."], capture_output=True, check=True
    )
    assert done.stderr == b""
    unpack(done.stdout, tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    subprocess.run(
        [*EXTRACT, "-C", str(tmp_path / "theirs"), *[o for o in options if o in PACK], "-f", "-"],
        input=done.stdout,
        check=True,
    )
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert (tmp_path / "ours").stat().st_mtime_ns == (tmp_path / "theirs").stat().st_mtime_ns
    if posix:
        assert tree(tmp_path / "ours") == tree(rich)
    if "--sparse" in options:
        assert holes(tmp_path / "ours") == holes(rich)


PACK = ("--gzip", "--bzip2", "--xz")


def test_what_we_write_we_unpack(rich: Path, tmp_path: Path) -> None:
    for sparse in (True, False):
        out = io.BytesIO()
        write_tree(descriptor_of(rich), out, sparse=sparse)
        target = tmp_path / f"sparse-{sparse}"
        unpack(out.getvalue(), target)
        assert tree(target) == tree(rich)
        if sparse:
            assert holes(target) == holes(rich)


# Any tree: small names that meet often, every kind of entry.

COMPONENT = st.sampled_from([b"a", b"b", b"\xff", b"new\nline", b"c" * 120])
PATH = st.lists(COMPONENT, min_size=1, max_size=3).map(b"/".join)
STEP = st.tuples(
    st.sampled_from(["file", "directory", "symlink", "fifo", "hard", "mode", "xattr", "remove"]),
    PATH,
    PATH,
    st.integers(0, 3),
)


def grow(root: Path, steps: list[tuple[str, bytes, bytes, int]]) -> None:
    """Do these things to a tree, as far as they can be done."""
    base = os.fsencode(root)
    for kind, name, other, number in steps:
        path = os.path.join(base, name)
        try:
            if kind == "file":
                # What is there may be a FIFO.
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
                with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
                    file.write(b"%d" % number * 700 * number)
            elif kind == "directory":
                os.mkdir(path)
            elif kind == "symlink":
                os.symlink(other, path)
            elif kind == "fifo":
                os.mkfifo(path, 0o644)
            elif kind == "hard":
                os.link(os.path.join(base, other), path, follow_symlinks=False)
            elif kind == "mode":
                os.chmod(path, (0o600, 0o755, 0o4711, 0o000)[number])
                os.chown(path, number, number * 1_000_000, follow_symlinks=False)
            elif kind == "xattr":
                os.setxattr(path, b"trusted.%d" % number, other, follow_symlinks=False)
            elif os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                os.unlink(path)
            os.utime(path, ns=(7, 1_600_000_000_000_000_000 + number), follow_symlinks=False)
        except OSError:
            continue


@given(before=st.lists(STEP, max_size=25), after=st.lists(STEP, max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_trees_difference_applied_gives_the_other_tree(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, bytes, bytes, int]],
    after: list[tuple[str, bytes, bytes, int]],
) -> None:
    here = tmp_path_factory.mktemp("trees")
    old, new, again = here / "old", here / "new", here / "again"
    old.mkdir()
    grow(old, before)
    whole = io.BytesIO()
    write_tree(descriptor_of(old), whole)
    for copy in (new, again):
        unpack(whole.getvalue(), copy)
        assert tree(copy) == tree(old)
    grow(new, after)
    change = io.BytesIO()
    write_difference(descriptor_of(again), descriptor_of(new), change)
    unpack(change.getvalue(), again)
    # A name linked to a file of the old tree is a copy of it, so links are left out here.
    mine = {p: e[:-1] for p, e in tree(again, directory_times=False).items()}
    assert mine == {p: e[:-1] for p, e in tree(new, directory_times=False).items()}
    subprocess.run(["rm", "-rf", "--one-file-system", str(here)], check=True)
