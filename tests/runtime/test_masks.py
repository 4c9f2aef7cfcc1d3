"""Masked and read-only paths, and images that try to choose what the mask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, SampanError
from sampan.kernel import mounts as km
from sampan.oci.runtime import Mount
from tests.runtime.inside import DEV, PROC, SYS, USUAL, make_root, spec, within

pytestmark = pytest.mark.root


def errno_of(path: str, flags: int = os.O_WRONLY) -> int:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno or 0
    return 0


def test_masked_files_are_null_and_directories_empty(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    masked = ("/proc/timer_list", "/sys/firmware", "/proc/bus", "/proc/does-not-exist")

    def look() -> object:
        return [
            Path("/proc/timer_list").read_text(),
            os.stat("/proc/timer_list").st_rdev == os.makedev(1, 3),
            os.listdir("/sys/firmware"),
            os.listdir("/proc/bus"),
            errno_of("/sys/firmware/x", os.O_WRONLY | os.O_CREAT),
            sorted(e.mount_point for e in km.mountinfo() if e.mount_point in set(masked)),
        ]

    text, null, firmware, bus, error, mounted = within(
        spec(root, *USUAL, masked_paths=masked), look
    )
    assert (text, null, firmware, bus) == ("", True, [], [])
    assert error == 30  # EROFS
    assert mounted == sorted(masked[:3])


@pytest.mark.v2
def test_read_only_paths_keep_their_other_flags(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")

    def look() -> object:
        entry = next(e for e in km.mountinfo() if e.mount_point == "/proc/sys")
        return [
            errno_of("/proc/sys/kernel/domainname"),
            list(entry.options),
            Path("/proc/sys/kernel/ostype").read_text(),
        ]

    error, flags, text = within(
        spec(root, *USUAL, readonly_paths=("/proc/sys", "/no/such/path")), look
    )
    assert error == 30
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(flags)
    assert text == "Linux\n"


def test_what_is_mounted_below_a_read_only_path_comes_along(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    entry = Mount(destination="/data/below", type="tmpfs", source="tmpfs")

    def look() -> object:
        return [
            errno_of("/data/new", os.O_WRONLY | os.O_CREAT),
            errno_of("/data/below/new", os.O_WRONLY | os.O_CREAT),
        ]

    assert within(spec(root, PROC, entry, readonly_paths=("/data",)), look) == [30, 0]


@pytest.mark.parametrize("trick", ["link to a file", "link to the null device", "zero"])
def test_a_null_device_that_is_not_one_masks_nothing(tmp_path: Path, trick: str) -> None:
    """CVE-2025-31133: what is at /dev/null would be bound over the masked files."""
    root = make_root(tmp_path / "root")
    (root / "etc/chosen").write_text("by the image")
    os.mknod(root / "etc/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    own = tmp_path / "dev"
    own.mkdir()
    if trick == "zero":
        os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        (own / "null").symlink_to("/etc/chosen" if "file" in trick else "/etc/null")
    dev = Mount(destination="/dev", type="bind", source=str(own), options=("rbind",))
    with pytest.raises(Conflict, match=r"maskedPaths: /dev/null .* is not the null device"):
        within(spec(root, PROC, dev, masked_paths=("/proc/timer_list",)), lambda: None)


def test_no_null_device_to_mask_with_is_an_error(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    own = tmp_path / "dev"
    own.mkdir()
    dev = Mount(destination="/dev", type="bind", source=str(own), options=("rbind",))
    with pytest.raises(Conflict, match="there is no /dev/null"):
        within(spec(root, PROC, dev, masked_paths=("/proc/timer_list",)), lambda: None)
    # A directory needs none.
    assert (
        within(
            spec(root, PROC, SYS, dev, masked_paths=("/sys/firmware",)),
            lambda: os.listdir("/sys/firmware"),
        )
        == []
    )


def test_the_null_device_swapped_while_masks_are_made(tmp_path: Path) -> None:
    """Whoever shares the directory may swap it at any time: the mask is null, or an error."""
    root = make_root(tmp_path / "root")
    own = tmp_path / "dev"
    own.mkdir()
    os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (own / "other").symlink_to("/etc/chosen")
    (root / "etc/chosen").write_text("by the image")
    dev = Mount(destination="/dev", type="bind", source=str(own), options=("rbind",))
    masked = ("/proc/timer_list", "/proc/version", "/proc/uptime", "/proc/stat")

    def look() -> Any:
        return {name: Path(name).read_text() for name in masked}

    swapper = os.fork()
    if swapper == 0:
        try:
            while True:
                os.rename(own / "null", own / "aside")
                os.rename(own / "other", own / "null")
                os.rename(own / "null", own / "other")
                os.rename(own / "aside", own / "null")
        finally:
            os._exit(0)
    try:
        made = 0
        for _ in range(40):
            try:
                seen = within(spec(root, PROC, dev, masked_paths=masked), look)
            except SampanError:
                continue
            made += 1
            assert set(seen.values()) == {""}
        assert made
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)


def test_masks_and_locks_hold_in_a_read_only_root(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    config = spec(
        root,
        PROC,
        DEV,
        readonly=True,
        masked_paths=("/proc/timer_list",),
        readonly_paths=("/proc/sys",),
    )
    seen = within(
        config, lambda: [Path("/proc/timer_list").read_text(), errno_of("/x", os.O_CREAT)]
    )
    assert seen == ["", 30]
