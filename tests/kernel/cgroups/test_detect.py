"""Which hierarchies are found: on this machine, and in others' mountinfo lines."""

from __future__ import annotations

import pytest

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.cgroups import Hierarchy, detect, systemd_path
from sampan.kernel.cgroups.convert import block_weight, cpu_weight, swap_alone
from sampan.kernel.cgroups.detect import find_trees, membership
from sampan.kernel.mounts import mountinfo

_V1 = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 23 0:29 / /mnt/again rw - cgroup cgroup rw,memory
"""
_OWN = "3:memory:/user/x\n2:cpu,cpuacct:/user/x\n1:name=systemd:/a:b (deleted)\n"


@pytest.mark.root
@pytest.mark.v2
def test_finds_this_machines_hierarchies() -> None:
    hierarchy = detect()
    assert hierarchy.kind in ("v1", "v2", "hybrid")
    assert {"cpu", "memory", "pids"} <= set(hierarchy.controllers)
    assert (hierarchy.unified is None) == (hierarchy.kind == "v1")


def test_reads_the_v1_arrangement() -> None:
    hierarchy = Hierarchy(find_trees(mountinfo(_V1), membership(_OWN)))
    assert hierarchy.kind == "v1"
    assert hierarchy.mounts == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
    }
    group = hierarchy.group("/x/y")
    assert group.paths() == {
        "name=systemd": "/sys/fs/cgroup/systemd/x/y",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/x/y",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/x/y",
        "memory": "/sys/fs/cgroup/memory/x/y",
    }
    assert hierarchy.group("z").paths()["memory"] == "/sys/fs/cgroup/memory/user/x/z"
    assert hierarchy.group("z").paths()["name=systemd"] == "/sys/fs/cgroup/systemd/a:b/z"


def test_controllers_that_share_a_hierarchy_are_linked_in_the_container() -> None:
    hierarchy = Hierarchy(find_trees(mountinfo(_V1), membership(_OWN)))
    recipe = {entry.directory: entry for entry in hierarchy.group("/x").mounts_for_container()}
    assert recipe["cpu,cpuacct"].data == "cpu,cpuacct"
    assert recipe["cpu,cpuacct"].links == ("cpu", "cpuacct")
    assert recipe["cpu,cpuacct"].source == "/sys/fs/cgroup/cpu,cpuacct/x"
    assert recipe["systemd"].data == "none,name=systemd"


def test_a_mount_of_a_sub_tree_shifts_our_own_group() -> None:
    text = "31 30 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    inside = Hierarchy(find_trees(mountinfo(text), membership("1:memory:/docker/abc/sub\n")))
    assert inside.group("x").paths()["memory"] == "/sys/fs/cgroup/memory/sub/x"
    outside = Hierarchy(find_trees(mountinfo(text), membership("1:memory:/other\n")))
    assert outside.group("/x").paths()["memory"] == "/sys/fs/cgroup/memory/x"
    with pytest.raises(InvalidArgument, match="give an absolute one"):
        outside.group("x")


def test_no_hierarchy_at_all_is_an_error() -> None:
    with pytest.raises(NotSupported, match="mount one"):
        find_trees(mountinfo("22 27 0:21 / /proc rw - proc proc rw\n"), {})


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("user.slice::n", "/user.slice/n.scope"),
        ("-.slice:p:n", "/p-n.scope"),
        ("machine.slice:ignored:machine-x.slice", "/machine.slice/machine-x.slice"),
    ],
)
def test_systemd_names_become_the_paths_systemd_gives(name: str, path: str) -> None:
    assert systemd_path(name) == path


@pytest.mark.parametrize(
    "name", ["/plain/path", "a:b", "a.slice:b:", "a:b:c", "a--b.slice:p:n", "x/y.slice:p:n", "::"]
)
def test_what_is_no_systemd_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="slice"):
        systemd_path(name)


def test_shares_and_weights_meet_at_their_ends_and_defaults() -> None:
    assert [cpu_weight(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    weights = [cpu_weight(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)
    assert [block_weight(weight) for weight in (10, 1000)] == [1, 10000]
    with pytest.raises(InvalidArgument, match=r"blockIO\.weight 9"):
        block_weight(9)


def test_swap_alone_is_the_sum_without_the_memory() -> None:
    assert swap_alone("memory.swap 5", 5, 3) == 2
    assert swap_alone("memory.swap -1", -1, None) == -1
    with pytest.raises(InvalidArgument, match=r"memory\.swap 5: a swap limit needs a memory limit"):
        swap_alone("memory.swap 5", 5, None)
