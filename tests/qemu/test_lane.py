"""The lane's machine is what the other tests there take it for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.kernel import mounts, namespaces
from sampan.kernel.cgroups import detect
from tests.kernel.forked import private_mounts, run_forked

pytestmark = [
    pytest.mark.root,
    pytest.mark.v2,
    pytest.mark.skipif(os.environ.get("SAMPAN_LANE") != "qemu", reason="not in the lane"),
]


def test_has_cgroup_v2_alone_with_the_controllers_that_matter() -> None:
    hierarchy = detect()
    assert hierarchy.kind == "v2"
    assert {"blkio", "cpu", "cpuset", "hugetlb", "memory", "pids"} <= set(hierarchy.controllers)


def test_can_run_the_daemons_libraries() -> None:
    import httptools
    import isal.igzip_lib
    import msgspec

    assert httptools.__version__
    assert msgspec.json.decode(b"[1]") == [1]
    assert isal.igzip_lib.decompress(isal.igzip_lib.compress(b"x")) == b"x"


def test_finds_the_overlay_module_by_itself(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("below")

    def inside() -> None:
        private_mounts()
        options = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
        mounts.mount("overlay", str(tmp_path / "merged"), "overlay", 0, options)
        assert (tmp_path / "merged" / "file").read_text() == "below"

    run_forked(inside)


def test_has_a_loopback_and_can_make_network_namespaces() -> None:
    assert int(Path("/sys/class/net/lo/flags").read_text(), 16) & 1

    def inside() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)

    run_forked(inside)
