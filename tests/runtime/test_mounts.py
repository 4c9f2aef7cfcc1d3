"""Mount options, one by one, by what the kernel says of the mount afterwards."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument, KernelError, NotFound, SampanError
from sampan.kernel import mounts as km
from sampan.kernel.cgroups import detect
from sampan.oci.runtime import Mount
from sampan.runtime import mount_options
from tests.kernel.forked import private_mounts, run_forked
from tests.runtime.inside import OWN, PROC, SYS, USUAL, make_root, spec, within

pytestmark = pytest.mark.root


def line(mount_point: str) -> Any:
    """The last (topmost) mount at a place: (flags, superblock's options, propagation, type)."""
    entry = [entry for entry in km.mountinfo() if entry.mount_point == mount_point][-1]
    return [list(entry.options), list(entry.super_options), entry.propagation, entry.fstype]


def mounted(tmp_path: Path, *options: str, kind: str = "tmpfs", **linux: Any) -> Any:
    """What the kernel says of a mount with ``options`` at /mnt."""
    root = tmp_path / "root"
    if not root.exists():
        make_root(root)
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    entry = Mount(
        destination="/mnt",
        type=kind,
        source="tmpfs" if kind == "tmpfs" else str(source),
        options=options,
    )
    return within(spec(root, PROC, entry, **linux), lambda: line("/mnt"))


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (("ro",), ["ro", "relatime"], ["rw"]),
        (("nosuid", "nodev", "noexec"), ["nosuid", "nodev", "noexec", "rw"], []),
        (("nosuid", "suid"), [], ["nosuid"]),
        (("ro", "rw"), ["rw"], ["ro"]),
        (("noatime",), ["noatime"], ["relatime"]),
        (("noatime", "relatime"), ["relatime"], ["noatime"]),
        (("strictatime",), [], ["relatime", "noatime"]),
        (("nodiratime",), ["nodiratime", "relatime"], []),
        (("nosymfollow",), ["nosymfollow"], []),
        (("rro", "rnosuid"), ["ro", "nosuid"], []),
        (("defaults",), ["rw", "relatime"], ["nosuid"]),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_flags(
    tmp_path: Path, kind: str, options: tuple[str, ...], present: list[str], absent: list[str]
) -> None:
    flags = mounted(tmp_path, *options, kind=kind)[0]
    assert set(present) <= set(flags)
    assert not set(absent) & set(flags)


def test_every_documented_option_is_known() -> None:
    plain = """
        async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev
        nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid rbind relatime
        remount ro rw silent strictatime suid sync nosymfollow symfollow mand nomand shared
        rshared slave rslave private rprivate unbindable runbindable rro rrw rnosuid rsuid
        rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime ratime
        rstrictatime rnostrictatime rnosymfollow rsymfollow idmap ridmap tmpcopyup
    """
    assert set(plain.split()) <= set(mount_options.NAMES)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (("sync",), "sync"),
        (("dirsync",), "dirsync"),
        (("sync", "async"), None),
        (("silent",), None),
    ],
)
def test_flags_of_the_superblock(
    tmp_path: Path, options: tuple[str, ...], seen: str | None
) -> None:
    _, superblock, _, _ = mounted(tmp_path, *options)
    assert [word for word in superblock if word.endswith("sync")] == ([seen] if seen else [])


def test_a_flag_only_the_old_call_knows_keeps_the_others(tmp_path: Path) -> None:
    flags, superblock, propagation, kind = mounted(
        tmp_path, "iversion", "nosuid", "noatime", "size=4096k", "shared"
    )
    assert {"nosuid", "noatime"} <= set(flags)
    assert "size=4096k" in superblock
    assert (propagation, kind) == ("shared", "tmpfs")


def test_data_goes_to_the_file_system(tmp_path: Path) -> None:
    _, superblock, _, _ = mounted(tmp_path, "size=64k", "mode=1700", "nr_inodes=99")
    assert {"size=64k", "mode=1700", "nr_inodes=99"} <= set(superblock)


def test_data_the_file_system_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampanError, match=r"shape.*for mount /mnt"):
        mounted(tmp_path, "shape=round")


def test_data_on_a_bind_mount_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="mount /mnt: option 'size=1' is data"):
        mounted(tmp_path, "bind", "size=1", kind="bind")


def test_an_unknown_file_system_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampanError, match="nosuchfs"):
        mounted(tmp_path, kind="nosuchfs")


@pytest.mark.parametrize(
    ("option", "seen"),
    [
        ("shared", "shared"),
        ("private", "private"),
        ("slave", "private"),  # slave of nobody
        ("unbindable", "unbindable"),
        ("rshared", "shared"),
        ("runbindable", "unbindable"),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_propagation(tmp_path: Path, kind: str, option: str, seen: str) -> None:
    assert mounted(tmp_path, option, kind=kind)[2] == seen


def test_a_bind_of_a_shared_mount_receives_and_does_not_send(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        source = tmp_path / "source"
        (source / "below").mkdir(parents=True)
        km.mount("tmpfs", str(source), "tmpfs")
        km.mount(None, str(source), None, km.MS_SHARED)
        (source / "below").mkdir()
        root = make_root(tmp_path / "root")

        def kind(*options: str, propagation: str | None = None) -> Any:
            bind = Mount(destination="/mnt", type="bind", source=str(source), options=options)
            config = spec(root, PROC, bind, rootfs_propagation=propagation)
            return within(config, lambda: line("/mnt")[2])

        assert kind("rbind") == "slave"
        assert kind("rbind", "rslave") == "slave"
        assert kind("rbind", "rprivate") == "private"
        assert kind("rbind", "rshared") == "shared,slave"
        assert kind("rbind", "rshared", propagation="shared") == "shared"

    run_forked(body)


def test_bind_takes_the_mount_alone_and_rbind_what_is_below(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        source = tmp_path / "source"
        (source / "below").mkdir(parents=True)
        km.mount("tmpfs", str(source / "below"), "tmpfs")
        (source / "below/seen").touch()
        root = make_root(tmp_path / "root")

        def look(*options: str) -> Any:
            bind = Mount(destination="/mnt", source=str(source), type="none", options=options)
            return within(
                spec(root, PROC, bind),
                lambda: [
                    os.listdir("/mnt/below"),
                    [e.options[0] for e in km.mountinfo() if e.mount_point.startswith("/mnt")],
                ],
            )

        assert look("bind") == [[], ["rw"]]
        assert look("rbind") == [["seen"], ["rw", "rw"]]
        assert look("rbind", "ro") == [["seen"], ["ro", "rw"]]
        assert look("rbind", "rro") == [["seen"], ["ro", "ro"]]
        assert look("rbind", "rro", "rrw") == [["seen"], ["rw", "rw"]]

    run_forked(body)


def test_a_bind_keeps_the_flags_of_its_source(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        source = tmp_path / "source"
        source.mkdir()
        km.mount("tmpfs", str(source), "tmpfs", km.MS_NOSUID | km.MS_NODEV)
        root = make_root(tmp_path / "root")
        bind = Mount(destination="/mnt", type="bind", source=str(source), options=("bind", "ro"))
        flags = within(spec(root, PROC, bind), lambda: line("/mnt")[0])
        assert {"ro", "nosuid", "nodev"} <= set(flags)

    run_forked(body)


def test_remount_changes_the_mount_and_keeps_its_other_flags(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    first = Mount(
        destination="/mnt", type="tmpfs", source="tmpfs", options=("nosuid", "size=64k", "mode=700")
    )
    bind = Mount(destination="/mnt", type="none", options=("remount", "bind", "ro"))
    grow = Mount(destination="/mnt", type="tmpfs", options=("remount", "size=128k", "noexec"))
    flags, superblock, _, _ = within(spec(root, PROC, first, bind), lambda: line("/mnt"))
    assert {"ro", "nosuid"} <= set(flags) and "rw" in superblock
    flags, superblock, _, _ = within(spec(root, PROC, first, grow), lambda: line("/mnt"))
    assert {"rw", "nosuid", "noexec"} <= set(flags) and "size=128k" in superblock


def test_missing_mount_points_are_made_after_what_is_mounted(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.write_text("content")
    directory.mkdir()
    seen = within(
        spec(
            root,
            *USUAL,
            Mount(destination="/a/b/file", type="bind", source=str(file), options=("bind",)),
            Mount(destination="/c/d", type="bind", source=str(directory), options=("bind",)),
            Mount(destination="relative/e", type="tmpfs", source="tmpfs"),
        ),
        lambda: [
            Path("/a/b/file").read_text(),
            os.path.isdir("/c/d"),
            os.path.ismount("/relative/e"),
        ],
    )
    assert seen == ["content", True, True]


def test_a_missing_bind_source_is_named(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    bind = Mount(destination="/mnt", type="bind", source="/no/such/thing", options=("bind",))
    with pytest.raises(NotFound, match="bind source /no/such/thing does not exist"):
        within(spec(root, bind), lambda: None)


def test_a_relative_bind_source_starts_at_the_bundle(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (tmp_path / "file").write_text("in the bundle")
    bind = Mount(destination="/file", type="bind", source="file", options=("bind",))
    config = spec(root, bind)
    assert within(config, Path("/file").read_text, bundle=str(tmp_path)) == "in the bundle"


def test_a_file_is_not_put_on_a_directory(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    bind = Mount(destination="/etc", type="bind", source="/etc/hostname", options=("bind",))
    with pytest.raises(InvalidArgument, match="mount /etc: cannot put a file on a directory"):
        within(spec(root, bind), lambda: None)


def test_a_tmpfs_takes_the_mode_of_the_directory_it_covers(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "var").mkdir()
    (root / "var").chmod(0o2750)

    def mode(*options: str) -> int:
        entry = Mount(destination="/var", type="tmpfs", source="tmpfs", options=options)
        found: int = within(spec(root, entry), lambda: stat.S_IMODE(os.stat("/var").st_mode))
        return found

    assert mode() == 0o2750
    assert mode("mode=0700") == 0o700


def test_a_read_only_dev_is_filled_first(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    dev = Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("ro", "mode=755"))
    flags, names = within(spec(root, PROC, dev), lambda: [line("/dev")[0], os.listdir("/dev")])
    assert "ro" in flags and "null" in names


@pytest.mark.v2
@pytest.mark.parametrize("own", [True, False])
def test_the_cgroup_mount_shows_the_containers_part(tmp_path: Path, own: bool) -> None:
    root = make_root(tmp_path / "root")
    entry = Mount(
        destination="/sys/fs/cgroup",
        type="cgroup",
        source="cgroup",
        options=("nosuid", "noexec", "nodev", "relatime", "ro"),
    )

    def look() -> object:
        below = [e for e in km.mountinfo() if e.mount_point.startswith("/sys/fs/cgroup")]
        return [
            [[e.mount_point, e.fstype, e.root, "ro" in e.options] for e in below],
            sorted(os.listdir("/sys/fs/cgroup")),
        ]

    kinds = (*OWN, "cgroup") if own else OWN
    group = detect().group(f"/sampan-test-mount-{os.getpid()}")
    group.create()
    try:
        found, names = within(spec(root, PROC, SYS, entry, kinds=kinds), look, group=group)
    finally:
        group.destroy()
    assert all(readonly for *_, readonly in found)
    hierarchies = [e for e in found if e[1].startswith("cgroup")]
    assert {e[2] for e in hierarchies} == {"/" if own else group.path}
    if group.hierarchy.kind == "v2":
        assert found[0][:2] == ["/sys/fs/cgroup", "cgroup2"]
        assert "cgroup.procs" in names
    else:
        assert found[0][:2] == ["/sys/fs/cgroup", "tmpfs"]
        assert {e.directory for e in group.mounts_for_container()} <= set(names)
        assert {"memory", "pids"} <= set(names)


def test_a_failed_mount_leaves_no_descriptor(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    good = Mount(destination="/a", type="bind", source="/etc", options=("bind",))
    bad = Mount(destination="/b", type="bind", source="/no/such", options=("bind",))
    before = os.listdir("/proc/self/fd")
    with pytest.raises((NotFound, KernelError)):
        within(spec(root, good, bad), lambda: None)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Mount(destination="/a"), "no type, and neither bind nor remount"),
        (Mount(destination="/a", type="bind"), "a bind mount needs a source"),
        (Mount(destination="/", type="tmpfs"), "the root file system's own place"),
        (
            Mount(destination="/a", type="tmpfs", options=("idmap",)),
            "idmap is for bind mounts only",
        ),
        (Mount(destination="/a", type="proc", options=("tmpcopyup",)), "tmpcopyup is for tmpfs"),
        (Mount(destination="/a", type="tmpfs", options=("subpath=b",)), "subpath is for bind"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, entry: Mount, message: str) -> None:
    root = make_root(tmp_path / "root")
    with pytest.raises(InvalidArgument, match=message):
        within(spec(root, entry), lambda: None)
