"""The root file system as a whole: entered, layered, sealed, and hostile images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from sampan.errors import InvalidArgument, KernelError, NotFound, SampanError
from sampan.kernel import mounts
from sampan.kernel.paths import Procfs
from sampan.oci.runtime import IdMapping, Mount, Namespace
from sampan.runtime import rootfs
from sampan.runtime.mount_options import parse
from sampan.runtime.overlay import mount_old
from tests.kernel.forked import private_mounts, run_forked
from tests.runtime.inside import DEV, OWN, PROC, PTS, USUAL, Given, make_root, spec, within

if TYPE_CHECKING:
    from sampan.runtime.launch import Launch

pytestmark = pytest.mark.root


def table() -> dict[str, list[str]]:
    """What is mounted: mount point -> its options, flags first and propagation last."""
    return {
        entry.mount_point: [entry.fstype, *entry.options, entry.propagation]
        for entry in mounts.mountinfo()
    }


def error_of(path: str, flags: int = os.O_WRONLY | os.O_CREAT) -> int:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.v2
def test_the_root_is_entered_and_nothing_of_the_host_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    root = make_root(tmp_path / "root")

    def look() -> object:
        return [os.getcwd(), sorted(table()), os.path.exists("../../outside"), os.listdir("/..")]

    cwd, mounted, escaped, above = within(spec(root, *USUAL), look)
    assert cwd == "/"
    assert mounted == ["/", "/dev", "/dev/pts", "/proc", "/sys"]
    assert not escaped
    assert sorted(above) == sorted(os.listdir(root))


def test_nothing_is_mounted_on_the_host(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")

    def host() -> list[str]:
        lines = Path("/proc/1/mountinfo").read_text().splitlines()
        return [line for line in lines if str(tmp_path) in line]  # others mount meanwhile

    def see() -> None:
        pass

    before = host()
    within(spec(root, *USUAL), see, between=lambda _: None)
    assert host() == before


def test_a_read_only_root_takes_no_file(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    errors = within(
        spec(root, *USUAL, readonly=True), lambda: [error_of("/new"), error_of("/dev/shm")]
    )
    assert errors == [30, 0]  # EROFS; /dev is a mount of its own


def test_the_root_without_pivot_root(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "marker").touch()
    seen = within(
        spec(root, *USUAL, masked_paths=("/proc/timer_list",)),
        lambda: [os.path.exists("/marker"), Path("/proc/timer_list").read_text()],
        no_pivot=True,
    )
    assert seen == [True, ""]


def test_without_a_mount_namespace_the_root_is_a_chroot_and_takes_no_mounts(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "marker").touch()
    assert within(spec(root, kinds=("pid",)), lambda: os.path.exists("/marker"))
    with pytest.raises(InvalidArgument, match="mounts: needs a mount namespace"):
        within(spec(root, PROC, kinds=("pid",)), lambda: None)


def test_a_missing_or_linked_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"root.path: .*/none does not exist"):
        within(spec(tmp_path / "none"), lambda: None)
    (tmp_path / "link").symlink_to(make_root(tmp_path / "root"))
    with pytest.raises(InvalidArgument, match=r"root.path: .*/link is a symbolic link"):
        within(spec(tmp_path / "link"), lambda: None)


def overlay(tmp_path: Path, lowers: list[Path], name: str = "upper") -> Mount:
    upper, work = tmp_path / name, tmp_path / f"{name}-work"
    upper.mkdir()
    work.mkdir()
    return Mount(
        destination="/",
        type="overlay",
        source="overlay",
        options=(
            "lowerdir=" + ":".join(str(lower).replace(":", "\\:") for lower in lowers),
            f"upperdir={upper}",
            f"workdir={work}",
        ),
    )


@pytest.mark.v2
def test_the_storage_drivers_overlay_is_mounted_in_the_container_only(tmp_path: Path) -> None:
    lower = make_root(tmp_path / "lower")
    place = tmp_path / "place"
    place.mkdir()

    def write() -> object:
        Path("/etc/written").write_text("here")
        return table()["/"]

    kind = within(spec(place, *USUAL), write, layers=(overlay(tmp_path, [lower]),))
    assert kind[0] == "overlay"
    assert (tmp_path / "upper/etc/written").read_text() == "here"
    assert not (lower / "etc/written").exists()
    assert os.listdir(place) == []


def test_an_overlay_of_many_layers_with_long_names(tmp_path: Path) -> None:
    layers = [make_root(tmp_path / "base")]
    for number in range(40):
        directory = tmp_path / f"layer-{'x' * 60}-{number:02}"
        directory.mkdir()
        (directory / f"from-{number}").touch()
        layers.insert(0, directory)
    place = tmp_path / "place"
    place.mkdir()
    names = within(spec(place), lambda: os.listdir("/"), layers=(overlay(tmp_path, layers),))
    assert {f"from-{number}" for number in range(40)} <= set(names)


def test_layer_directories_with_colons(tmp_path: Path) -> None:
    lower = make_root(tmp_path / "with:colon")
    (lower / "marker").touch()
    place = tmp_path / "place"
    place.mkdir()
    layers = [lower, make_root(tmp_path / ("long" * 60))]
    assert "marker" in within(
        spec(place), lambda: os.listdir("/"), layers=(overlay(tmp_path, layers),)
    )


def test_further_layers_go_below_the_root(tmp_path: Path) -> None:
    base, usr = make_root(tmp_path / "base"), tmp_path / "usr"
    (usr / "share").mkdir(parents=True)
    place = tmp_path / "place"
    place.mkdir()
    second = overlay(tmp_path, [usr], "second").replace(destination="/usr")

    def write() -> object:
        Path("/usr/share/new").touch()
        return table()["/usr"][0]

    layers = (overlay(tmp_path, [base]), second)
    assert within(spec(place, *USUAL), write, layers=layers) == "overlay"
    assert (tmp_path / "second/share/new").exists()


def test_a_missing_layer_is_named_and_nothing_stays(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match="no-such-layer"):
        within(
            spec(place),
            lambda: None,
            layers=(overlay(tmp_path, [tmp_path / "no-such-layer"]),),
        )
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("given", "seen"),
    [(None, "private"), ("private", "private"), ("shared", "shared"), ("unbindable", "unbindable")],
)
def test_propagation_of_the_root(tmp_path: Path, given: str | None, seen: str) -> None:
    root = make_root(tmp_path / "root")
    found = within(spec(root, *USUAL, rootfs_propagation=given), lambda: table()["/"][-1])
    assert found == seen


@pytest.mark.v2
def test_a_user_namespace_gets_a_root_it_may_not_reach_by_path(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    root = make_root(hidden / "root")
    for directory, _, files in os.walk(root):
        os.chown(directory, 100000, 100000)
        for name in files:
            os.chown(Path(directory, name), 100000, 100000, follow_symlinks=False)
    os.chmod(tmp_path, 0o700)
    mapping = (IdMapping(container_id=0, host_id=100000, size=65536),)

    def look() -> object:
        Path("/etc/mine").touch()
        return [os.getuid(), os.stat("/etc/mine").st_uid, sorted(table())]

    uid, owner, mounted = within(
        spec(
            root,
            *USUAL,
            kinds=(*OWN, "user"),
            uid_mappings=mapping,
            gid_mappings=mapping,
            masked_paths=("/proc/timer_list", "/sys/firmware"),
        ),
        look,
    )
    assert (uid, owner) == (0, 0)
    assert "/dev/null" in mounted  # bound: mknod is not for a user namespace
    assert os.stat(root / "etc/mine").st_uid == 100000


# Hostile images


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_are_not_mounted_through_a_link(tmp_path: Path, name: str) -> None:
    root = make_root(tmp_path / "root")
    (root / name).rmdir()
    (root / name).symlink_to("/tmp")
    with pytest.raises(InvalidArgument, match=f"mount /{name}: .* real directory"):
        within(spec(root, *USUAL), lambda: None)


def test_dev_as_a_link_stays_inside(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "dev").rmdir()
    (root / "dev").symlink_to("../../../../../../../tmp")
    mounted = within(spec(root, PROC, DEV), lambda: sorted(table()))
    assert mounted == ["/", "/proc", "/tmp"]


def test_a_link_out_of_the_root_leads_to_the_same_name_inside(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "data").symlink_to(outside)
    bind = Mount(destination="/data/deep", type="bind", source="/etc", options=("rbind", "ro"))
    mounted = within(spec(root, PROC, bind), lambda: sorted(table()))
    assert mounted == ["/", "/proc", f"{outside}/deep"]
    assert os.listdir(outside) == []


@pytest.mark.parametrize("what", ["dev", "proc", "data", "data/deep"])
def test_a_destination_swapped_for_a_link_all_the_time(tmp_path: Path, what: str) -> None:
    """Whoever wins each race, nothing lands outside, and the host's table does not change."""
    root = make_root(tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "data/deep").mkdir(parents=True)
    target, aside, link = root / what, root / "aside", root / "link"
    link.symlink_to(os.path.relpath(outside, target.parent))
    swapper = os.fork()
    if swapper == 0:
        try:
            while os.getppid() != 1:
                os.rename(target, aside)
                os.rename(link, target)
                os.rename(target, link)
                os.rename(aside, target)
        finally:
            os._exit(0)
    try:
        bind = Mount(destination="/data/deep", type="bind", source="/etc", options=("bind",))
        built = 0
        for _ in range(60):
            try:
                built += within(spec(root, *USUAL, bind), lambda: 1)
            except SampanError:
                continue  # refused: something was not what it has to be at that moment
        assert built
        assert os.listdir(outside) == []
        assert "outside" not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)


def test_a_procfs_may_only_be_covered_at_known_files(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    fake = tmp_path / "fake"
    fake.write_text("fake\n")

    def bind(destination: str, source: str | Path = fake) -> Mount:
        return Mount(destination=destination, type="bind", source=str(source), options=("bind",))

    assert (
        within(spec(root, PROC, bind("/proc/uptime")), Path("/proc/uptime").read_text) == "fake\n"
    )
    for destination in ("/proc/version", "/proc/self/attr/current", "/proc/sys/kernel/hostname"):
        with pytest.raises(InvalidArgument, match="only procfs may be mounted over"):
            within(spec(root, PROC, bind(destination)), lambda: None)
    with pytest.raises(InvalidArgument, match="only procfs may be mounted over"):
        within(spec(root, PROC, bind("/proc", tmp_path)), lambda: None)
    (root / "sneaky").symlink_to("/proc/version")
    with pytest.raises(InvalidArgument, match="only procfs may be mounted over"):
        within(spec(root, PROC, bind("/sneaky")), lambda: None)


def test_the_terminal_is_bound_on_the_console(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")

    def bind_terminal(built: Any) -> None:
        master = os.open("dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, dir_fd=built.fd)
        import fcntl

        fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK
        slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER
        built.console(slave)

    def look() -> object:
        return os.stat("/dev/console").st_rdev == os.stat("/dev/pts/0").st_rdev

    assert within(spec(root, *USUAL), look, between=bind_terminal)


def test_a_console_that_is_a_link_in_the_image_is_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "victim").write_text("kept")
    (root / "dev/console").symlink_to("/victim")
    (root / "dev/pts").mkdir()
    pts = PTS

    def bind_terminal(built: Any) -> None:
        master = os.open("dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, dir_fd=built.fd)
        import fcntl

        fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")
        built.console(fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY))

    with pytest.raises(SampanError, match="/dev/console"):
        within(spec(root, PROC, pts), lambda: None, between=bind_terminal)


def old_overlay(tmp_path: Path, count: int, length: int) -> None:
    """Mount ``count`` layers by mount(2), as kernels before 6.7 need it."""
    lowers = []
    for number in range(count):
        directory = tmp_path / f"{'x' * length}{number:03}"
        directory.mkdir()
        (directory / f"from-{number}").touch()
        lowers.append(directory)
    entry = overlay(tmp_path, lowers)
    place = tmp_path / "place"
    place.mkdir()

    def body() -> None:
        private_mounts()
        before = os.getcwd()
        mount_old(parse(entry.options, "overlay", "/"), str(place), 0)
        assert os.getcwd() == before
        assert {f"from-{number}" for number in range(count)} == set(os.listdir(place))
        (place / "new").touch()

    run_forked(body)


def test_the_old_call_with_paths_relative_where_that_shortens(tmp_path: Path) -> None:
    base = tmp_path / ("long" * 20)
    base.mkdir()
    old_overlay(base, 40, 60)  # absolute this is more than a page
    assert (base / "upper/new").exists()


def test_more_layers_than_the_old_call_takes_is_a_clear_error(tmp_path: Path) -> None:
    directories = [tmp_path / f"{'x' * 200}{number}" for number in range(30)]
    entry = overlay(tmp_path, directories)
    with pytest.raises(InvalidArgument, match=r"overlay of 30 layers: .* before Linux 6\.7"):
        mount_old(parse(entry.options, "overlay", "/"), str(tmp_path), 0)


def test_a_joined_mount_namespace_is_entered_by_chroot(tmp_path: Path) -> None:
    """What is there stays there: pivot_root would take the others' root away."""
    root = make_root(tmp_path / "root")

    def body() -> None:
        private_mounts()
        (root / "marker").touch()
        linux = spec(root, PROC).linux
        assert linux is not None
        joined = (Namespace(type="mount", path="/proc/self/ns/mnt"),)
        config = spec(root, PROC).replace(linux=linux.replace(namespaces=joined))
        given = cast("Launch", Given(config, "/", (), None))
        prepared = rootfs.prepare(given)
        pid = os.fork()
        if pid == 0:
            try:
                with Procfs() as procfs:
                    built = rootfs.build(given, prepared, procfs)
                built.enter()
                built.finish()
                os._exit(0 if os.path.exists("/marker") and os.path.ismount("/proc") else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.path.exists(tmp_path)  # this process still has its root
        assert str(root / "proc") in table()

    run_forked(body)


def test_flags_the_host_locked_are_kept_and_said(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        source = tmp_path / "source"
        source.mkdir()
        mounts.mount("tmpfs", str(source), "tmpfs", mounts.MS_RDONLY | mounts.MS_NOSUID)
        root = make_root(tmp_path / "root")
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_mode & 0o005 != 0o005:
                path.chmod(0o755)
        for directory, _, _ in os.walk(root):
            os.chown(directory, 100000, 100000)
        ids = (IdMapping(container_id=0, host_id=100000, size=65536),)

        def flags(*options: str) -> Any:
            bind = Mount(destination="/mnt", type="bind", source=str(source), options=options)
            kinds = (*OWN, "user")
            config = spec(root, PROC, bind, kinds=kinds, uid_mappings=ids, gid_mappings=ids)
            return within(config, lambda: table()["/mnt"])

        assert {"ro", "nosuid", "noexec"} <= set(flags("bind", "noexec"))
        with pytest.raises(SampanError, match=r"/mnt: the mount's flags are locked by the host"):
            flags("bind", "rw")

    run_forked(body)
