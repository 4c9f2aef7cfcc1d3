"""Limits, by what happens to a process that goes beyond them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from errno import EAGAIN
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, NotSupported
from sampan.kernel.cgroups import Group, Hierarchy, drain_oom
from sampan.oci.runtime import (
    BlockIO,
    Cpu,
    HugepageLimit,
    InterfacePriority,
    Memory,
    Network,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)
from tests.kernel.cgroups.workers import Worker, burn, direct_write, hold, touch

pytestmark = [pytest.mark.root, pytest.mark.v2]

Work = Callable[[Group | None, Callable[[], object]], Worker]
MB = 1 << 20


def test_memory_limit_ends_in_an_oom_kill_that_is_seen_and_counted(
    group: Group, work: Work
) -> None:
    group.limit(Resources(memory=Memory(limit=24 * MB, swap=24 * MB)))
    watch = group.oom_watch()
    assert watch is not None
    try:
        assert group.oom_count() == 0
        greedy = work(group, lambda: touch(96))
        poll = select.poll()
        poll.register(*watch)
        assert poll.poll(20_000), "the OOM was not announced"
        assert greedy.wait() == -signal.SIGKILL
        assert drain_oom(watch[0])
        for _ in range(9):  # The kernel may tell of the shortage and of the kill apart.
            if not poll.poll(200):
                break
            assert drain_oom(watch[0])
        else:
            pytest.fail("it is announced without end")
        assert group.oom_count() == 1
        assert group.account().memory.oom_kills == 1
        assert group.account().memory.usage.limit == 24 * MB
    finally:
        os.close(watch[0])


def test_more_are_watched_than_a_user_has_instances_of_inotify(group: Group) -> None:
    """128, by default: each container's monitor has a watch of its own."""
    watches = [group.oom_watch() for _ in range(300)]
    try:
        assert None not in watches
    finally:
        for watch in watches:
            if watch is not None:
                os.close(watch[0])


def test_oom_in_a_sub_group_is_counted_for_the_group(group: Group, work: Work) -> None:
    group.limit(Resources(memory=Memory(limit=24 * MB, swap=24 * MB)))
    below = group.child("below")
    below.create()
    assert work(below, lambda: touch(96)).wait() == -signal.SIGKILL
    assert group.oom_count() == 1


def test_shares_divide_a_core(new_group: Callable[[], Group], work: Work) -> None:
    large, small = new_group(), new_group()
    core = {min(os.sched_getaffinity(0))}
    large.limit(Resources(cpu=Cpu(shares=1024)))
    small.limit(Resources(cpu=Cpu(shares=512)))

    def pinned() -> None:
        os.sched_setaffinity(0, core)
        burn(30)

    for group in (large, small):
        work(group, pinned)
    before = [group.account().cpu.total for group in (large, small)]
    time.sleep(3)
    used = [
        group.account().cpu.total - start
        for group, start in zip((large, small), before, strict=True)
    ]
    assert used[0] / sum(used) == pytest.approx(1024 / 1536, rel=0.2)


def test_quota_holds_a_burner_to_its_share_of_a_core(group: Group, work: Work) -> None:
    group.limit(Resources(cpu=Cpu(quota=10_000, period=50_000)))
    work(group, lambda: burn(30))
    start, before = time.monotonic(), group.account().cpu
    time.sleep(1.5)
    after = group.account().cpu
    share = (after.total - before.total) / 1e9 / (time.monotonic() - start)
    assert 0.02 < share < 0.25  # less where others want the core too
    assert after.throttled_periods > before.throttled_periods
    assert after.throttled_time > before.throttled_time


def test_pids_limit_stops_fork(group: Group, work: Work) -> None:
    group.limit(Resources(pids=Pids(limit=3)))

    def fork_until_refused() -> None:
        for count in range(1, 10):
            try:
                if os.fork() == 0:
                    signal.pause()
            except OSError as error:
                assert error.errno == EAGAIN
                assert count == 3
                return
        raise AssertionError("nothing stopped the forking")

    assert work(group, fork_until_refused).wait() == 0
    assert group.account().pids.limit == 3
    group.kill()


def test_pids_limit_of_zero_is_a_limit(group: Group, work: Work) -> None:
    group.limit(Resources(pids=Pids(limit=0)))

    def refused() -> None:
        with pytest.raises(BlockingIOError):
            os.fork()

    assert work(group, refused).wait() == 0
    group.update(Resources(pids=Pids(limit=-1)))
    assert group.account().pids.limit is None


def test_cpuset_confines_to_a_core(group: Group, work: Work) -> None:
    core = max(os.sched_getaffinity(0))
    group.limit(Resources(cpu=Cpu(cpus=str(core), mems="0")))

    def confined() -> None:
        assert os.sched_getaffinity(0) == {core}

    assert work(group, confined).wait() == 0


def _disk(path: Path) -> tuple[int, int]:
    """The whole disk that holds ``path``."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if not entry.exists():
        pytest.skip(f"{path} is on no block device")
    if (entry / "partition").exists():
        entry = entry.parent
    major, _, minor = (entry / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


def test_block_throttle_slows_writes_and_they_are_accounted(group: Group, work: Work) -> None:
    place = Path("/var/tmp" if Path("/var/tmp").exists() else "/var/lib")
    major, minor = _disk(place)
    rate = ThrottleDevice(major=major, minor=minor, rate=2 * MB)
    group.limit(Resources(block_io=BlockIO(throttle_write_bps_device=(rate,))))
    file = place / f"sampan-test-{os.getpid()}"
    try:
        start = time.monotonic()
        assert work(group, lambda: direct_write(str(file), 2)).wait() == 0
        assert time.monotonic() - start > 0.6
        assert sum(device.write_bytes for device in group.account().io) >= 2 * MB
        none = ThrottleDevice(major=major, minor=minor, rate=0)
        group.update(Resources(block_io=BlockIO(throttle_write_bps_device=(none,))))
    finally:
        file.unlink(missing_ok=True)


def test_memory_moves_up_and_down_with_swap(group: Group, hierarchy: Hierarchy) -> None:
    for limit, both in ((32, 64), (128, 128), (16, 16), (64, 200), (16, 300), (310, 310)):
        group.update(Resources(memory=Memory(limit=limit * MB, swap=both * MB)))
        now = group.account().memory
        assert (now.usage.limit, now.swap.limit) == (limit * MB, both * MB)
    group.update(Resources(memory=Memory(limit=-1)))
    assert group.account().memory.usage.limit is None
    assert group.account().memory.swap.limit is None


def test_cpu_quota_period_and_burst_move_in_any_direction(group: Group) -> None:
    for quota, period, burst in ((50, 100, 20), (5, 10, 5), (200, 400, 150), (1, 1, 0)):
        cpu = Cpu(quota=quota * 1000, period=period * 1000, burst=burst * 1000)
        group.update(Resources(cpu=cpu))
        assert _quota(group) == (quota * 1000, period * 1000, burst * 1000)
    group.update(Resources(cpu=Cpu(period=50_000)))
    assert _quota(group) == (1000, 50_000, 0)
    group.update(Resources(cpu=Cpu(quota=-1)))
    assert _quota(group)[0] == -1


def _quota(group: Group) -> tuple[int, int, int]:
    paths = group.paths()
    if "cpu" in paths:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us")
        values = [int((Path(paths["cpu"]) / name).read_text()) for name in names]
        return values[0], values[1], values[2]
    quota, period = (Path(paths["unified"]) / "cpu.max").read_text().split()
    burst = int((Path(paths["unified"]) / "cpu.max.burst").read_text())
    return -1 if quota == "max" else int(quota), int(period), burst


def test_zero_numbers_of_an_update_leave_things_as_they_are(group: Group) -> None:
    group.limit(Resources(memory=Memory(limit=64 * MB), cpu=Cpu(quota=20_000, shares=512)))
    zeros = Memory(limit=0, reservation=0, swap=0, kernel=0)
    group.update(Resources(memory=zeros, cpu=Cpu(quota=0, shares=0, period=0, cpus="", mems="")))
    assert group.account().memory.usage.limit == 64 * MB
    assert _quota(group)[0] == 20_000


def test_reservation_and_idle_are_written(group: Group) -> None:
    group.limit(Resources(memory=Memory(reservation=8 * MB), cpu=Cpu(idle=1)))
    paths = group.paths()
    if "memory" in paths:
        assert (Path(paths["memory"]) / "memory.soft_limit_in_bytes").read_text() == f"{8 * MB}\n"
        assert (Path(paths["cpu"]) / "cpu.idle").read_text() == "1\n"
    else:
        assert (Path(paths["unified"]) / "memory.low").read_text() == f"{8 * MB}\n"
        assert (Path(paths["unified"]) / "cpu.idle").read_text() == "1\n"
    # A weight and an idle group exclude each other; leaving idleness and taking a weight is fine.
    group.update(Resources(cpu=Cpu(shares=2048, idle=0)))


def test_kernel_memory_limits_are_ignored_with_a_warning(group: Group) -> None:
    warnings = group.limit(Resources(memory=Memory(kernel=MB, kernel_tcp=2 * MB)))
    assert len(warnings) == 2
    assert "memory.kernel 1048576" in warnings[0]
    assert "memory.kernelTCP 2097152" in warnings[1]


def test_check_before_update_refuses_a_limit_below_the_usage(group: Group) -> None:
    worker = hold(group, 32)
    with pytest.raises(InvalidArgument, match=r"memory\.limit 8388608: the group uses \d+ bytes"):
        group.update(Resources(memory=Memory(limit=8 * MB, check_before_update=True)))
    assert group.account().memory.usage.limit is None
    worker.end()


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (Resources(cpu=Cpu(cpus="4000")), "cpu.cpus 4000"),
        (Resources(cpu=Cpu(cpus="nonsense")), "cpu.cpus nonsense"),
        (Resources(cpu=Cpu(mems="63")), "cpu.mems 63"),
        (Resources(cpu=Cpu(shares=1)), "cpu.shares 1: expected 2 to 262144"),
        (Resources(cpu=Cpu(shares=262145)), "cpu.shares 262145"),
        (Resources(cpu=Cpu(quota=100)), "cpu.quota 100"),
        (Resources(cpu=Cpu(idle=7)), "cpu.idle 7"),
        (Resources(memory=Memory(limit=-2)), "memory.limit -2"),
        (Resources(memory=Memory(limit=8 * MB, swap=4 * MB)), "memory.swap 4194304"),
        (Resources(pids=Pids(limit=-7)), "pids.limit -7"),
        (
            Resources(
                block_io=BlockIO(
                    throttle_read_bps_device=(ThrottleDevice(major=4095, minor=9, rate=1),)
                )
            ),
            "blockIO.throttleReadBpsDevice 4095:9 1",
        ),
        (Resources(unified={"../memory.max": "1"}), "unified"),
    ],
)
def test_what_the_kernel_refuses_is_named_with_its_value(
    group: Group, hierarchy: Hierarchy, resources: Resources, said: str
) -> None:
    expected = InvalidArgument
    if resources.unified and hierarchy.unified is None:
        pytest.skip("this machine has no v2 hierarchy")
    with pytest.raises(expected) as caught:
        group.limit(resources)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("resources", "controller", "said"),
    [
        (
            Resources(network=Network(priorities=(InterfacePriority(name="nic", priority=1),))),
            "net_prio",
            "network.priorities nic",
        ),
        (Resources(rdma={"mlx5_0": Rdma(hca_handles=1)}), "rdma", "rdma mlx5_0"),
    ],
)
def test_a_limit_without_its_controller_is_an_error(
    group: Group, hierarchy: Hierarchy, resources: Resources, controller: str, said: str
) -> None:
    # Where the controller is there, its device is not.
    expected = InvalidArgument if controller in hierarchy.controllers else NotSupported
    with pytest.raises(expected) as caught:
        group.limit(resources)
    assert said in str(caught.value)
    assert controller in str(caught.value)


def test_a_file_this_kernel_lacks_is_named(group: Group, hierarchy: Hierarchy) -> None:
    asked = [
        Resources(block_io=BlockIO(leaf_weight=500)),
        Resources(hugepage_limits=(HugepageLimit(page_size="3MB", limit=1),)),
        Resources(block_io=BlockIO(weight_device=(WeightDevice(major=1, minor=1, leaf_weight=9),))),
    ]
    for resources in asked:
        with pytest.raises(NotSupported, match=r"leafWeight|hugetlb\.3MB|leaf_weight"):
            group.limit(resources)


def test_unified_settings_are_written_or_the_missing_controller_named(
    group: Group, hierarchy: Hierarchy
) -> None:
    if hierarchy.unified is None:
        with pytest.raises(NotSupported, match="cgroup v1 only"):
            group.limit(Resources(unified={"memory.high": "1"}))
        return
    group.limit(Resources(unified={"cgroup.max.depth": "3"}))
    path = Path(group.paths()["unified"])
    assert (path / "cgroup.max.depth").read_text() == "3\n"
    with pytest.raises(NotSupported, match="controller nonesuch is not enabled"):
        group.limit(Resources(unified={"nonesuch.max": "1"}))
    if hierarchy.kind == "v2":
        group.limit(Resources(unified={"memory.high": str(32 * MB)}))
        assert (path / "memory.high").read_text() == f"{32 * MB}\n"
    else:
        with pytest.raises(NotSupported, match="controller memory is not enabled"):
            group.limit(Resources(unified={"memory.high": "1"}))


def test_huge_pages_are_limited(group: Group, hierarchy: Hierarchy) -> None:
    if "hugetlb" not in hierarchy.controllers or not Path("/sys/kernel/mm/hugepages").exists():
        pytest.skip("no hugetlb controller")
    group.limit(Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MB),)))
    assert group.account().hugetlb["2MB"].limit == 4 * MB


def test_block_weights_are_written(group: Group, hierarchy: Hierarchy) -> None:
    tree = hierarchy.controllers["blkio"]
    directory = Path(group.paths()["blkio" if tree.version == 1 else "unified"])
    names = ("blkio.bfq.weight", "blkio.weight", "io.bfq.weight", "io.weight")
    present = [name for name in names if (directory / name).exists()]
    if not present:
        with pytest.raises(NotSupported, match=r"blockIO\.weight 500: .*weight"):
            group.limit(Resources(block_io=BlockIO(weight=500)))
        return
    group.limit(Resources(block_io=BlockIO(weight=500)))
    written = (directory / present[0]).read_text().split()[-1]
    assert written == ("4950" if present[0] == "io.weight" else "500")


def test_v1_only_settings_are_refused_by_name_on_v2(group: Group, hierarchy: Hierarchy) -> None:
    if hierarchy.kind != "v2":
        group.limit(Resources(memory=Memory(swappiness=10)))
        assert group.account().memory.oom_kills == 0
        with pytest.raises(InvalidArgument, match=r"memory\.swappiness 101"):
            group.limit(Resources(memory=Memory(swappiness=101)))
        return
    for resources in (
        Resources(memory=Memory(swappiness=10)),
        Resources(memory=Memory(disable_oom_killer=True)),
        Resources(cpu=Cpu(realtime_runtime=1000)),
    ):
        with pytest.raises(NotSupported, match="cgroup v2 has no file for it"):
            group.limit(resources)
