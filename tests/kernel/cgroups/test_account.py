"""Accounts that agree with the work done."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from sampan.kernel.cgroups import Group, Hierarchy, Usage
from tests.kernel.cgroups.workers import Worker, burn, hold, sleep

pytestmark = [pytest.mark.root, pytest.mark.v2]

Work = Callable[[Group | None, Callable[[], object]], Worker]


def test_cpu_time_agrees_with_getrusage(group: Group, work: Work) -> None:
    ours, theirs = os.pipe()

    def measured() -> None:
        start = resource.getrusage(resource.RUSAGE_SELF)
        burn(0.5)
        for _ in range(20_000):
            os.stat("/")
        end = resource.getrusage(resource.RUSAGE_SELF)
        used = (end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime)
        os.write(theirs, repr(used).encode())

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert work(group, measured).wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = (float(text) for text in os.read(ours, 200).strip(b"()").split(b","))
    os.close(ours)
    os.close(theirs)
    # Its whole life, of which the cgroup has nearly all: more than was measured, at any load.
    most_user, most_system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    cpu = group.account().cpu
    assert 0.9 * (user + system) - 0.03 <= cpu.total / 1e9 <= 1.1 * (most_user + most_system) + 0.03
    assert 0.85 * user - 0.05 <= cpu.user / 1e9 <= 1.15 * most_user + 0.05
    assert 0.85 * system - 0.05 <= cpu.system / 1e9 <= 1.15 * most_system + 0.05


def test_memory_agrees_with_what_was_touched(group: Group) -> None:
    worker = hold(group, 32)
    memory = group.account().memory
    worker.end()
    assert 32 << 20 <= memory.usage.usage < 48 << 20
    assert memory.usage.max >= memory.usage.usage or memory.usage.max == 0
    assert memory.stat.get("anon", memory.stat.get("total_rss", 0)) >= 32 << 20
    assert memory.usage.limit is None


def test_pids_are_counted(group: Group, work: Work) -> None:
    workers = [work(group, sleep) for _ in range(3)]
    assert group.account().pids.current == 3
    assert sorted(group.processes()) == sorted(worker.pid for worker in workers)


def test_pressure_is_told_where_the_kernel_has_it(group: Group, hierarchy: Hierarchy) -> None:
    if hierarchy.unified is None or not os.path.exists("/proc/pressure/cpu"):
        pytest.skip("no pressure stall information")
    usage = group.account()
    assert usage.cpu.pressure is not None
    assert usage.memory.pressure is not None
    assert usage.io_pressure is not None
    assert usage.cpu.pressure.some.total >= 0


def test_usage_crosses_as_json(group: Group, work: Work) -> None:
    assert work(group, lambda: burn(0.05)).wait() == 0
    usage = group.account()
    assert Usage.from_json(usage.to_json()) == usage
    assert usage.cpu.total > 0
