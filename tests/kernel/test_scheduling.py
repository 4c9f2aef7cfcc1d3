"""Scheduling, I/O priority, memory policy and personality, read back from the kernel."""

from __future__ import annotations

import os
import subprocess
from errno import EINVAL

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import scheduling
from tests.kernel.forked import run_forked


@pytest.mark.root
@pytest.mark.parametrize(
    ("policy", "nice", "priority"),
    [
        ("SCHED_OTHER", 5, 0),
        ("SCHED_BATCH", 10, 0),
        ("SCHED_IDLE", 0, 0),
        ("SCHED_FIFO", 0, 10),
        ("SCHED_RR", 0, 99),
    ],
)
def test_a_policy_is_set(policy: str, nice: int, priority: int) -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # Some policies leave it as it is.
        scheduling.set_scheduler(
            policy, nice=nice, priority=priority, flags=["SCHED_FLAG_RESET_ON_FORK"]
        )
        found = scheduling.get_scheduler()
        assert found["policy"] == scheduling.SCHEDULER_POLICIES[policy]
        assert (found["nice"], found["priority"]) == (nice, priority)
        assert found["flags"] & scheduling.SCHEDULER_FLAGS["SCHED_FLAG_RESET_ON_FORK"]
        assert os.sched_getscheduler(0) & 0xFF == scheduling.SCHEDULER_POLICIES[policy]

    run_forked(body)


@pytest.mark.root
def test_a_deadline_is_set() -> None:
    def body() -> None:
        scheduling.set_scheduler(
            "SCHED_DEADLINE",
            runtime=1_000_000,
            deadline=50_000_000,
            period=100_000_000,
            flags=["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"],
        )
        found = scheduling.get_scheduler()
        times = (found["runtime"], found["deadline"], found["period"])
        assert times == (1_000_000, 50_000_000, 100_000_000)
        assert found["flags"] == 0x6

    run_forked(body)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="'SCHED_MAGIC': expected one of SCHED_OTHER"):
        scheduling.set_scheduler("SCHED_MAGIC")
    with pytest.raises(InvalidArgument, match="scheduling flag 'RESET'"):
        scheduling.set_scheduler("SCHED_OTHER", flags=["RESET"])
    with pytest.raises(InvalidArgument, match="I/O priority class 'BE'"):
        scheduling.set_io_priority("BE")
    with pytest.raises(InvalidArgument, match="I/O priority 8"):
        scheduling.set_io_priority("IOPRIO_CLASS_BE", 8)
    with pytest.raises(InvalidArgument, match="personality domain 'BSD'"):
        scheduling.set_personality("BSD")
    with pytest.raises(InvalidArgument, match="memory policy 'MPOL_BEST'"):
        scheduling.set_memory_policy("MPOL_BEST")
    with pytest.raises(InvalidArgument, match="memory policy flag 'STATIC'"):
        scheduling.set_memory_policy("MPOL_BIND", ["STATIC"], "0")


def test_what_the_kernel_refuses_is_told() -> None:
    with pytest.raises(KernelError, match="sched_setattr SCHED_ISO nice 0 priority 0: EINVAL"):
        scheduling.set_scheduler("SCHED_ISO")
    with pytest.raises(KernelError, match="SCHED_OTHER nice 0 priority 3: EINVAL"):
        scheduling.set_scheduler("SCHED_OTHER", priority=3)


@pytest.mark.parametrize("klass", ["IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE", "IOPRIO_CLASS_RT"])
def test_an_io_priority_is_set(klass: str) -> None:
    if klass == "IOPRIO_CLASS_RT" and os.getuid() != 0:
        pytest.skip("needs root")

    def body() -> None:
        priority = 0 if klass == "IOPRIO_CLASS_IDLE" else 6
        scheduling.set_io_priority(klass, priority)
        assert scheduling.get_io_priority() == (scheduling.IO_CLASSES[klass], priority)

    run_forked(body)


def test_personality_shows_in_uname_after_execve() -> None:
    def body() -> None:
        scheduling.set_personality("LINUX32")
        assert scheduling.get_personality() == scheduling.PERSONALITIES["LINUX32"]
        machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True)
        assert machine.stdout.strip() in ("i686", "armv8l", "armv7l")
        scheduling.set_personality("LINUX")
        assert scheduling.get_personality() == 0

    run_forked(body)


@pytest.mark.parametrize(
    ("mode", "flags", "nodes"),
    [
        ("MPOL_BIND", ["MPOL_F_STATIC_NODES"], "0"),
        ("MPOL_BIND", ["MPOL_F_NUMA_BALANCING"], "0"),
        ("MPOL_INTERLEAVE", ["MPOL_F_RELATIVE_NODES"], "0"),
        ("MPOL_WEIGHTED_INTERLEAVE", [], "0"),
        ("MPOL_PREFERRED", [], "0"),
        ("MPOL_PREFERRED_MANY", [], "0"),
        ("MPOL_LOCAL", [], ""),
        ("MPOL_DEFAULT", [], ""),
    ],
)
def test_a_memory_policy_is_set(mode: str, flags: list[str], nodes: str) -> None:
    def body() -> None:
        scheduling.set_memory_policy(mode, flags, nodes or ())
        found, found_nodes = scheduling.get_memory_policy()
        bits = sum(scheduling.MEMORY_POLICY_FLAGS[flag] for flag in flags)
        assert found == scheduling.MEMORY_POLICIES[mode] | bits
        assert found_nodes == ((0,) if nodes else ())
        with open("/proc/self/numa_maps", encoding="ascii") as file:
            assert file.read()

    run_forked(body)


def test_a_node_that_is_not_there_is_told() -> None:
    def body() -> None:
        with pytest.raises(KernelError, match="MPOL_BIND nodes 999: EINVAL") as caught:
            scheduling.set_memory_policy("MPOL_BIND", [], [999])
        assert caught.value.errno == EINVAL
        with pytest.raises(InvalidArgument, match="a node is 0 to 1023"):
            scheduling.set_memory_policy("MPOL_BIND", [], "0-5000")

    run_forked(body)


def test_lists_are_read() -> None:
    assert scheduling.parse_list("0-3,7", "cpus") == (0, 1, 2, 3, 7)
    assert scheduling.parse_list("5, 1 ,1-2", "cpus") == (1, 2, 5)
    for text in ("", "a", "3-1", "1-", "-1", "1,,2", "0-99999999"):
        with pytest.raises(InvalidArgument, match="cpus"):
            scheduling.parse_list(text, "cpus")
