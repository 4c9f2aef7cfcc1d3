"""Device files, the default ones and the configuration's, and /dev's links."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidArgument, KernelError, NotFound
from sampan.oci.runtime import Device, IdMapping, Linux, Mount
from sampan.runtime import devices
from tests.runtime.inside import DEV, OWN, PROC, PTS, USUAL, make_root, spec, within

pytestmark = pytest.mark.root

MAPPING = (IdMapping(container_id=0, host_id=100000, size=65536),)


def describe(*paths: str) -> Any:
    """Kind, number, mode and owner of each path, without following links."""
    result = []
    for path in paths:
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        number = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        result.append([kind, number, stat.S_IMODE(status.st_mode), [status.st_uid, status.st_gid]])
    return result


def sizes(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.read(10))


def test_the_default_devices_and_links(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    names = ("null", "zero", "full", "random", "urandom", "tty")
    links = ("fd", "stdin", "stdout", "stderr", "ptmx")
    found, targets, zeros = within(
        spec(root, *USUAL),
        lambda: [
            describe(*(f"/dev/{name}" for name in names)),
            [os.readlink(f"/dev/{name}") for name in links],
            sizes("/dev/zero"),
        ],
    )
    numbers = [[1, 3], [1, 5], [1, 7], [1, 8], [1, 9], [5, 0]]
    assert found == [[stat.S_IFCHR, number, 0o666, [0, 0]] for number in numbers]
    assert targets[0] == "/proc/self/fd"
    assert targets[-1] == "pts/ptmx"
    assert zeros == 10


def test_configured_devices_with_owner_mode_and_place(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    wanted = (
        Device(type="c", path="/dev/fuse", major=10, minor=229, file_mode=0o600, uid=5, gid=6),
        Device(type="b", path="/opt/disks/loop", major=7, minor=3),
        Device(type="p", path="/dev/pipe", file_mode=0o640),
        Device(type="u", path="/dev/extra/raw", major=1, minor=1),
        Device(type="c", path="/dev/null", major=1, minor=3, file_mode=0o622),
    )
    found = within(
        spec(root, *USUAL, devices=wanted), lambda: describe(*(one.path for one in wanted))
    )
    assert found == [
        [stat.S_IFCHR, [10, 229], 0o600, [5, 6]],
        [stat.S_IFBLK, [7, 3], 0o666, [0, 0]],
        [stat.S_IFIFO, [0, 0], 0o640, [0, 0]],
        [stat.S_IFCHR, [1, 1], 0o666, [0, 0]],
        [stat.S_IFCHR, [1, 3], 0o622, [0, 0]],
    ]


def test_what_an_image_has_is_kept_if_it_is_the_device(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    found = within(spec(root, PROC), lambda: describe("/dev/null"))
    assert found[0][:2] == [stat.S_IFCHR, [1, 3]]


@pytest.mark.parametrize("what", ["file", "link", "other device"])
def test_something_else_in_the_place_of_a_device_is_an_error(tmp_path: Path, what: str) -> None:
    root = make_root(tmp_path / "root")
    victim = tmp_path / "victim"
    victim.write_text("kept")
    if what == "file":
        (root / "dev/null").touch()
    elif what == "link":
        (root / "dev/null").symlink_to(victim)
    else:
        os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(Conflict, match="device /dev/null: the root file system has something else"):
        within(spec(root, PROC), lambda: None)
    assert victim.read_text() == "kept"


def test_an_images_own_ptmx_becomes_the_link(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    os.mknod(root / "dev/ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
    assert within(spec(root, PROC), lambda: os.readlink("/dev/ptmx")) == "pts/ptmx"


def test_a_bound_dev_is_left_alone(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    own = tmp_path / "own"
    own.mkdir()
    bind = Mount(destination="/dev", type="bind", source=str(own), options=("rbind",))
    assert within(spec(root, PROC, bind), lambda: os.listdir("/dev")) == []


@pytest.mark.v2
def test_in_a_user_namespace_the_hosts_nodes_are_bound(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    for directory, _, _ in os.walk(root):
        os.chown(directory, 100000, 100000)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)

    def look() -> object:
        with open("/dev/null", "wb") as null:
            null.write(b"gone")
        return [describe("/dev/null", "/dev/zero"), os.path.ismount("/dev/null")]

    config = spec(
        root, PROC, DEV, PTS, kinds=(*OWN, "user"), uid_mappings=MAPPING, gid_mappings=MAPPING
    )
    found, bound = within(config, look)
    assert [one[1] for one in found] == [[1, 3], [1, 5]]
    assert bound
    missing = Device(type="c", path="/dev/no-such-device", major=1, minor=3)
    wrong = Device(type="c", path="/dev/null", major=1, minor=5)
    linux = config.linux
    assert linux is not None
    for device, error in ((missing, NotFound), (wrong, Conflict)):
        with pytest.raises(error, match=f"device {device.path}"):
            within(config.replace(linux=linux.replace(devices=(device,))), lambda: None)
    fifo = Device(type="p", path="/dev/pipe")
    assert within(
        config.replace(linux=linux.replace(devices=(fifo,))),
        lambda: stat.S_ISFIFO(os.stat("/dev/pipe").st_mode),
    )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Device(type="x", path="/dev/a", major=1, minor=1), "type 'x' is none of"),
        (Device(type="c", path="dev/a", major=1, minor=1), "the path must be absolute"),
        (Device(type="c", path="/dev/a"), "a device needs major and minor"),
    ],
)
def test_a_bad_entry_is_named(device: Device, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        devices.planned(Linux(devices=(device,)))


def test_a_device_through_a_link_stays_inside(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "escape").symlink_to("../../outside")
    device = Device(type="c", path="/escape/null", major=1, minor=3)
    try:
        within(spec(root, *USUAL, devices=(device,)), lambda: None)
    except KernelError:
        pass  # refused is as good
    assert os.listdir(outside) == []
