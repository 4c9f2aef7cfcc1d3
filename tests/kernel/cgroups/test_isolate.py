"""What a group's processes see of the hierarchies, and who may write there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.errors import Conflict, KernelError
from sampan.kernel import mounts, namespaces
from sampan.kernel.cgroups import Group, Hierarchy, detect
from sampan.kernel.cgroups.detect import membership
from sampan.kernel.clone import clone3
from tests.kernel.cgroups.workers import Worker, sleep

pytestmark = [pytest.mark.root, pytest.mark.v2]

Work = Callable[[Group | None, Callable[[], object]], Worker]


def test_a_cgroup_namespace_shows_the_group_as_the_root(group: Group, work: Work) -> None:
    def inside() -> None:
        before = Path("/proc/self/cgroup").read_text()
        assert group.path in before
        namespaces.unshare(namespaces.CLONE_NEWCGROUP)
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        assert {line.split(":", 2)[2] for line in lines} == {"/"}

    assert work(group, inside).wait() == 0


def test_the_containers_mounts_show_only_its_own_group(
    group: Group, work: Work, tmp_path: Path
) -> None:
    recipe = group.mounts_for_container()
    assert recipe

    def inside() -> None:
        namespaces.unshare(namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount("none", str(tmp_path), "tmpfs")
        for entry in recipe:
            place = tmp_path / entry.directory
            place.mkdir(exist_ok=True)
            mounts.mount("cgroup", str(place), entry.fstype, 0, entry.data or None)
            for link in entry.links:
                (tmp_path / link).symlink_to(entry.directory)
            assert str(os.getpid()) in (place / "cgroup.procs").read_text().split()
            assert not [path for path in place.iterdir() if "sampan-test" in path.name]
            bound = Path(entry.source) / "cgroup.procs"
            assert bound.read_text() == (place / "cgroup.procs").read_text()

    assert work(group, inside).wait() == 0


def test_detect_inside_the_namespace_finds_groups_below(
    group: Group, work: Work, tmp_path: Path
) -> None:
    recipe = group.mounts_for_container()

    def inside() -> None:
        namespaces.unshare(namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.umount("/sys/fs/cgroup", mounts.MNT_DETACH)
        if len(recipe) > 1:
            mounts.mount("none", "/sys/fs/cgroup", "tmpfs")
        for entry in recipe:
            place = Path("/sys/fs/cgroup") / entry.directory
            place.mkdir(exist_ok=True)
            mounts.mount("cgroup", str(place), entry.fstype, 0, entry.data or None)
        here = detect()
        # On v2 this group holds us, so its controllers can only be handed on once we are in a leaf.
        inner = here.group("/inner")
        inner.create()
        names = {tree.own for tree in here.trees}
        assert names == ({"/sampan-self"} if here.kind == "v2" else {"/"})
        assert inner.exists()
        if here.kind == "v2":
            offered = (Path("/sys/fs/cgroup/inner") / "cgroup.controllers").read_text()
            assert "memory" in offered
        inner.destroy()

    assert work(group, inside).wait() == 0
    assert not group.child("inner").exists()


def test_an_occupied_group_above_is_named(hierarchy: Hierarchy, group: Group, work: Work) -> None:
    if hierarchy.kind != "v2":
        pytest.skip("a rule of v2")
    worker = work(group, sleep)
    with pytest.raises(Conflict, match=rf"{group.path} has processes of its own \({worker.pid}\)"):
        group.child("below").create()
    assert not group.child("below").exists()


def test_exec_joins_the_sub_group_of_the_process_beside(
    hierarchy: Hierarchy, group: Group, work: Work
) -> None:
    leaf = group.child("init.scope")
    leaf.create()
    init = work(leaf, sleep)
    joiner = work(None, sleep)
    if hierarchy.kind != "v2":
        group.add(joiner.pid, beside=init.pid)
        assert joiner.pid in group.processes()
        return
    with pytest.raises(KernelError, match="EBUSY"):
        group.add(joiner.pid)
    group.add(joiner.pid, beside=init.pid)
    assert sorted(leaf.processes()) == sorted([init.pid, joiner.pid])
    stranger = work(None, sleep)
    with pytest.raises(Conflict, match="has left cgroup"):
        group.add(stranger.pid, beside=stranger.pid)


def test_add_to_one_controller_only(hierarchy: Hierarchy, group: Group, work: Work) -> None:
    if hierarchy.kind == "v2":
        pytest.skip("v2 has one hierarchy for all controllers")
    worker = work(None, sleep)
    group.add(worker.pid, controllers=["pids"])
    text = Path(f"/proc/{worker.pid}/cgroup").read_text()
    inside = [line for line in text.splitlines() if line.endswith(group.path)]
    assert len(inside) == 1
    assert "pids" in inside[0]


def test_a_child_is_born_in_the_group_and_enters_the_rest(
    hierarchy: Hierarchy, group: Group
) -> None:
    fd = group.open_fd()
    if hierarchy.unified is None:
        assert fd is None
        return
    assert fd is not None
    pid, pidfd = clone3(0, cgroup_fd=fd)
    if pid == 0:
        code = 1
        try:
            before = membership(Path("/proc/self/cgroup").read_text())
            group.enter()
            after = membership(Path("/proc/self/cgroup").read_text())
            ours = {key for tree in hierarchy.trees for key in tree.keys} - {"unified"} | {""}
            code = 0 if before[""] == group.path else 2
            code |= 0 if {key for key in after if after[key] == group.path} == ours else 4
        finally:
            os._exit(code)
    os.close(fd)
    os.close(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_delegation_gives_sub_groups_but_not_the_limits(
    hierarchy: Hierarchy, group: Group, work: Work
) -> None:
    if hierarchy.kind != "v2":
        pytest.skip("v1 has no safe delegation")
    group.delegate(1234, 1234)
    path = Path(group.paths()["unified"])

    def inside() -> None:
        os.setgid(1234)
        os.setuid(1234)
        (path / "mine").mkdir()
        (path / "mine" / "cgroup.procs").write_text("0")
        with pytest.raises(PermissionError):
            (path / "memory.max").write_text("max")

    assert work(group, inside).wait() == 0
