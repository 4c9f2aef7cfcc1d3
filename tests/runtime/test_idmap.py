"""ID-mapped bind mounts: who owns what, seen inside and on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument
from sampan.kernel import mounts as km
from sampan.oci.runtime import IdMapping, Mount
from tests.kernel.forked import private_mounts, run_forked
from tests.runtime.inside import OWN, PROC, USUAL, make_root, spec, within

pytestmark = pytest.mark.root


def mapping(inside: int, outside: int, size: int = 1000) -> tuple[IdMapping, ...]:
    return (IdMapping(container_id=inside, host_id=outside, size=size),)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "file").touch()
    os.chown(directory / "file", 5, 7)
    return directory


def bind(source: Path, *options: str, **mappings: tuple[IdMapping, ...]) -> Mount:
    return Mount(
        destination="/mnt",
        type="bind",
        source=str(source),
        options=options,
        uid_mappings=mappings.get("uid", ()),
        gid_mappings=mappings.get("gid", ()),
    )


def owner(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_uid, status.st_gid]


@pytest.mark.v2
def test_owners_are_mapped_both_ways(tmp_path: Path, source: Path) -> None:
    root = make_root(tmp_path / "root")
    entry = bind(source, "bind", "idmap", uid=mapping(0, 2000), gid=mapping(0, 3000))

    def look() -> object:
        os.setegid(3009)
        os.seteuid(2009)
        os.umask(0)
        seen = owner("/mnt/file")
        os.close(os.open("/mnt/new", os.O_CREAT | os.O_WRONLY))
        return seen

    source.chmod(0o777)
    assert within(spec(root, *USUAL, entry), look) == [2005, 3007]
    assert owner(str(source / "new")) == [9, 9]
    assert owner(str(source / "file")) == [5, 7]


@pytest.mark.parametrize("options", [("bind",), ("bind", "idmap")])
def test_mappings_alone_ask_for_it_too(
    tmp_path: Path, source: Path, options: tuple[str, ...]
) -> None:
    root = make_root(tmp_path / "root")
    entry = bind(source, *options, uid=mapping(0, 2000), gid=mapping(0, 2000))
    assert within(spec(root, *USUAL, entry), lambda: owner("/mnt/file")) == [2005, 2007]


@pytest.mark.v2
def test_the_containers_own_mapping_makes_it_own_its_volumes(tmp_path: Path, source: Path) -> None:
    root = make_root(tmp_path / "root")
    for directory, _, _ in os.walk(root):
        os.chown(directory, 100000, 100000)
    ids = mapping(0, 100000, 65536)
    config = spec(
        root,
        PROC,
        bind(source, "bind", "idmap"),
        kinds=(*OWN, "user"),
        uid_mappings=ids,
        gid_mappings=ids,
    )
    assert within(config, lambda: owner("/mnt/file")) == [5, 7]
    plain = config.replace(mounts=(PROC, bind(source, "bind")))
    assert within(plain, lambda: owner("/mnt/file")) == [65534, 65534]


def test_ridmap_maps_what_is_mounted_below_too(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        source = tmp_path / "tree"
        (source / "below").mkdir(parents=True)
        km.mount("tmpfs", str(source / "below"), "tmpfs")
        (source / "below/file").touch()
        root = make_root(tmp_path / "root")
        ids = {"uid": mapping(0, 2000), "gid": mapping(0, 2000)}

        def seen(*options: str) -> object:
            entry = bind(source, *options, **ids)
            return within(spec(root, PROC, entry), lambda: owner("/mnt/below/file"))

        assert seen("rbind", "idmap") == [0, 0]
        assert seen("rbind", "ridmap") == [2000, 2000]

    run_forked(body)


def test_without_any_mapping_it_is_refused(tmp_path: Path, source: Path) -> None:
    root = make_root(tmp_path / "root")
    with pytest.raises(InvalidArgument, match="mount /mnt: idmap needs uidMappings"):
        within(spec(root, bind(source, "bind", "idmap")), lambda: None)
    with pytest.raises(InvalidArgument, match="mount /mnt: uidMappings and gidMappings come"):
        within(spec(root, bind(source, "bind", uid=mapping(0, 1))), lambda: None)


def test_mappings_on_another_kind_of_mount_are_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    entry = Mount(
        destination="/mnt", type="tmpfs", uid_mappings=mapping(0, 1), gid_mappings=mapping(0, 1)
    )
    with pytest.raises(InvalidArgument, match="are for bind mounts only"):
        within(spec(root, entry), lambda: None)
