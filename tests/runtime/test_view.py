"""A container's root file system, put together without a container."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EROFS
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, KernelError, NotFound
from sampan.kernel.mounts import mountinfo
from sampan.kernel.paths import open_in_root
from sampan.oci.runtime import Mount
from sampan.runtime.view import open_view
from tests.runtime.inside import make_root, spec, within

pytestmark = pytest.mark.root


def overlay(
    tmp_path: Path, *lower: Path, upper: bool = True, options: tuple[str, ...] = ()
) -> Mount:
    words = [f"lowerdir={':'.join(map(str, lower))}"]
    if upper:
        for name in ("upper", "work"):
            (tmp_path / name).mkdir(exist_ok=True)
            words.append(f"{name}dir={tmp_path}/{name}")
    return Mount(destination="/", type="overlay", options=(*words, *options))


def layer(path: Path) -> Path:
    (path / "data/sub").mkdir(parents=True)
    (path / "data/sub/file").write_text("content")
    return path


def read(view: int, path: str) -> str:
    with open(open_in_root(view, path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def test_a_view_shows_the_root_and_what_is_mounted_in_it(tmp_path: Path) -> None:
    base, volume = layer(tmp_path / "base"), tmp_path / "volume"
    volume.mkdir()
    (volume / "mine").write_text("of the volume")
    bind = Mount(destination="/mnt/v", type="bind", source=str(volume), options=("rbind",))
    view = open_view([overlay(tmp_path, base)], [bind], str(tmp_path))
    try:
        assert read(view, "/data/sub/file") == "content"
        assert read(view, "/mnt/v/mine") == "of the volume"
        # It is nowhere in our own tree, and what is written there is the container's.
        assert not [row for row in mountinfo() if str(tmp_path) in str(row)]
        os.close(open_in_root(view, "/new", os.O_CREAT | os.O_WRONLY, 0o600))
        assert (tmp_path / "upper/new").exists()
    finally:
        os.close(view)


def test_devices_cannot_be_opened_through_a_view(tmp_path: Path) -> None:
    base = layer(tmp_path / "base")
    os.mknod(base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    view = open_view([overlay(tmp_path, base)], [], str(tmp_path))
    try:
        with pytest.raises(KernelError) as caught:
            open_in_root(view, "/null", os.O_RDONLY)
        assert caught.value.errno == EACCES
    finally:
        os.close(view)


def test_read_only_is_read_only_here_too(tmp_path: Path) -> None:
    base, volume = layer(tmp_path / "base"), tmp_path / "volume"
    volume.mkdir()
    (base / "mnt").mkdir()
    bind = Mount(destination="/mnt", type="bind", source=str(volume), options=("rbind",))
    view = open_view([overlay(tmp_path, base)], [bind], str(tmp_path), readonly=True)
    try:
        with pytest.raises(KernelError) as caught:
            open_in_root(view, "/x", os.O_CREAT | os.O_WRONLY, 0o600)
        assert caught.value.errno == EROFS
        os.close(open_in_root(view, "/mnt/x", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.close(view)


def test_a_missing_source_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    base = layer(tmp_path / "base")
    gone = Mount(destination="/x", type="bind", source=f"{tmp_path}/gone", options=("rbind",))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotFound, match="gone does not exist"):
        open_view([overlay(tmp_path, base)], [gone], str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("path", "shown"),
    [("data/sub", "content"), ("data/link", "content"), ("data/./sub", "content")],
)
def test_a_part_of_a_source_can_be_mounted(tmp_path: Path, path: str, shown: str) -> None:
    root, source = make_root(tmp_path / "root"), layer(tmp_path / "source")
    (source / "data/link").symlink_to("sub")
    entry = Mount(
        destination="/mnt", type="bind", source=str(source), options=("rbind", f"subpath={path}")
    )
    assert within(spec(root, entry), Path("/mnt/file").read_text) == shown


def test_a_part_of_layers_can_be_mounted_a_file_too(tmp_path: Path) -> None:
    root, base = make_root(tmp_path / "root"), layer(tmp_path / "base")
    top = tmp_path / "top"
    (top / "data/sub").mkdir(parents=True)
    (top / "data/sub/other").write_text("above")
    one = overlay(tmp_path, top, base, upper=False, options=("ro", "subpath=data/sub"))
    other = overlay(tmp_path, top, base, upper=False, options=("ro", "subpath=data/sub/file"))

    def look() -> object:
        return [
            Path("/mnt/file").read_text(),
            Path("/mnt/other").read_text(),
            Path("/one").read_text(),
            os.access("/mnt/file", os.W_OK),
            len(os.listdir("/")) > 1,
        ]

    mounts = (one.replace(destination="/mnt"), other.replace(destination="/one"))
    assert within(spec(root, *mounts), look) == ["content", "above", "content", False, True]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone", "does not exist"),
        ("../base", "leads out"),
        ("/etc", "leads out"),
        ("data/absolute", "leads out"),
        ("data/up", "leads out"),
        ("data/sub/file/x", "not a directory"),
    ],
)
def test_a_part_that_leads_elsewhere_is_refused(tmp_path: Path, path: str, why: str) -> None:
    root, source = make_root(tmp_path / "root"), layer(tmp_path / "source")
    (source / "data/absolute").symlink_to("/etc")
    (source / "data/up").symlink_to("../../root")
    for entry in (
        Mount(type="bind", source=str(source), destination="/mnt", options=(f"subpath={path}",)),
        overlay(
            tmp_path, source, source.parent / "base", upper=False, options=(f"subpath={path}",)
        ).replace(destination="/mnt"),
    ):
        (tmp_path / "base").mkdir(exist_ok=True)
        with pytest.raises(InvalidArgument, match=f"cannot access path .*{why}"):
            within(spec(root, entry), lambda: None)
