"""Layers unpacked in any order become what they become one after another."""

from __future__ import annotations

import io
import itertools
import os
import resource
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import NotSupported
from sampan.storage.archive.apply import apply_layer
from sampan.storage.archive.settling import settle
from tests.storage.drivers.layers import DELETED, layer

pytestmark = pytest.mark.root


def member(archive: tarfile.TarFile, name: str, **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info)


def tarred(*members: tuple[str, dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in members:
            member(archive, name, **fields)
    return buffer.getvalue()


DIRECTORY: dict[str, object] = {"type": tarfile.DIRTYPE}
BASE = tarred(
    ("./", {**DIRECTORY, "mode": 0o711, "uid": 3, "gid": 4}),
    ("a/", {**DIRECTORY, "mode": 0o750, "uid": 1000, "gid": 7, "mtime": 1_500_000_000}),
    ("a/b/", {**DIRECTORY, "mode": 0o1777, "uid": 8, "pax_headers": {"SCHILY.xattr.user.k": "v"}}),
    ("a/b/file", {"mode": 0o600}),
    ("usr/", {**DIRECTORY, "mode": 0o755}),
    ("usr/lib/", {**DIRECTORY, "mode": 0o755, "uid": 9}),
    ("lib", {"type": tarfile.SYMTYPE, "linkname": "usr/lib"}),
)
CASES = {
    "directories nobody lists": tarred(("a/b/new", {}), ("c/d/e", {})),
    "a directory listed after it was entered": tarred(
        ("usr/lib/new", {}), ("usr/lib/", {**DIRECTORY, "mode": 0o700, "uid": 1})
    ),
    "a directory that becomes a file": tarred(("a/b/new", {}), ("a/b", {})),
    "a root of its own": tarred(("./", {**DIRECTORY, "mode": 0o755, "uid": 0}), ("x", {})),
    "no root": tarred(("x", {})),
    "whiteouts": layer({"a/b/file": DELETED, "a/other": b"1"}),
    "an opaque directory": layer({"a/": None, "a/.wh..wh..opq": b"", "a/b/new": b"1"}),
    "an opaque root": layer({".wh..wh..opq": b"", "a/new": b"1", "z": b"2"}),
    "a link of the layer below": tarred(("lib/so", {})),
    "links of its own": tarred(
        ("new/", DIRECTORY),
        ("way", {"type": tarfile.SYMTYPE, "linkname": "new"}),
        ("way/deep/file", {}),
    ),
    "deleted and entered": layer({"a/b": DELETED, "a/b/c/new": b"1"}),
}


def snapshot(root: str) -> dict[str, object]:
    """Everything about a tree but when it was made."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in [".", *names, *files]:
            path = f"{directory}/{name}"
            status = os.lstat(path)
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            # A directory that nothing gave a time has the time it was made.
            time = status.st_mtime if status.st_mtime < 1_700_000_001 else None
            found[os.path.relpath(path, root)] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                time,
                attributes,
                os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
            )
    return found


class Layers:
    """Directories of layers, the nearest first, as overlay2 has them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._numbers = itertools.count()
        self.fds: list[int] = []
        self.paths: list[Path] = []

    def make(self) -> tuple[Path, int]:
        path = self._place / str(next(self._numbers))
        path.mkdir(mode=0o755)
        return path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def add(self, path: Path, fd: int) -> None:
        self.fds.insert(0, fd)
        self.paths.insert(0, path)


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Layers]:
    layers = Layers(tmp_path)
    path, fd = layers.make()
    apply_layer(io.BytesIO(BASE), fd, style="overlay")
    layers.add(path, fd)
    yield layers
    for fd in layers.fds:
        os.close(fd)


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_layer_settles_to_what_it_would_have_been(below: Layers, case: str) -> None:
    data = CASES[case]
    in_turn, first = below.make()
    loose, second = below.make()
    try:
        apply_layer(io.BytesIO(data), first, style="overlay", lower=below.fds)
        applied = apply_layer(io.BytesIO(data), second, style="overlay", loose=True)
        settle(second, applied.loose, below.fds)
        assert snapshot(str(loose)) == snapshot(str(in_turn))
    finally:
        os.close(first)
        os.close(second)


def test_three_layers_settle_from_the_lowest_up(below: Layers) -> None:
    first = tarred(("a/", {**DIRECTORY, "mode": 0o700, "uid": 5}), ("a/one", {}))
    second = tarred(("a/b/two", {}), ("q/w/e", {}))
    third = tarred(("q/w/e2", {}), ("a/b/three", {}))
    made = []
    for data in (first, second, third):
        path, fd = below.make()
        made.append((path, fd, apply_layer(io.BytesIO(data), fd, style="overlay", loose=True)))
    for path, fd, applied in made:
        settle(fd, applied.loose, below.fds)
        below.add(path, fd)
    for path in below.paths[:2]:
        status = os.lstat(path / "a")
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (5, 0o700)
        assert os.lstat(path / "a/b").st_uid == 8
        assert os.getxattr(path / "a/b", "user.k") == b"v"


def test_many_directories_nobody_lists_take_no_descriptor_each(below: Layers) -> None:
    path, fd = below.make()
    many = tarred(*((f"a/{n}/x", {}) for n in range(600)))
    applied = apply_layer(io.BytesIO(many), fd, style="overlay", loose=True)
    model = tarred(
        ("a/", {**DIRECTORY, "uid": 5}),
        *((f"a/{n}/", {**DIRECTORY, "uid": 6, "mtime": 1_500_000_000}) for n in range(600)),
    )
    apply_layer(io.BytesIO(model), below.fds[0], style="overlay")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        settle(fd, applied.loose, below.fds)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    statuses = [os.lstat(path / f"a/{n}") for n in range(600)]
    assert {(s.st_uid, s.st_mtime) for s in statuses} == {(6, 1_500_000_000)}
    os.close(fd)


def test_hiding_what_is_below_is_no_change_of_the_root(below: Layers) -> None:
    path, fd = below.make()
    data = tarred(("./", {**DIRECTORY, "mtime": 1_400_000_000}), (".wh..wh..opq", {}))
    applied = apply_layer(io.BytesIO(data), fd, style="overlay", loose=True)
    settle(fd, applied.loose, below.fds)
    assert os.lstat(path).st_mtime == 1_400_000_000
    assert sorted(os.listdir(path)) == ["a", "lib", "usr"]
    os.close(fd)


def test_an_opaque_root_needs_something_to_hide(below: Layers) -> None:
    path, fd = below.make()
    applied = apply_layer(io.BytesIO(CASES["an opaque root"]), fd, style="overlay", loose=True)
    with pytest.raises(NotSupported, match="hides the whole root"):
        settle(fd, applied.loose, ())
    os.close(fd)
    assert path.is_dir()
