"""What an update changes, what it refuses, and what of it the monitor writes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sampan.engine.config import HostConfig, RestartPolicy
from sampan.engine.update import _FIXED, _back, _written, changed, read_update
from sampan.errors import InvalidArgument, NotSupported, SampanError

MB = 1 << 20


def apply(old: HostConfig, body: dict[str, Any], swap: bool = True) -> HostConfig:
    changes, _ = read_update(body)
    return changed(old, changes, swap=swap)


def test_what_is_empty_stays_and_names_case_does_not_matter() -> None:
    """The client sends every field of its struct."""
    changes, policy = read_update(
        {
            "CpuShares": 0, "memory": 64 * MB, "CgroupParent": "", "BlkioWeightDevice": None,
            "Devices": None, "PidsLimit": None, "MemorySwappiness": None, "OomKillDisable": False,
            "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
        }
    )  # fmt: skip
    assert changes == {"memory": 64 * MB}
    assert policy is None


def test_a_policy_is_read() -> None:
    _, policy = read_update({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}})
    assert policy == RestartPolicy(name="on-failure", maximum_retry_count=4)


@pytest.mark.parametrize("name", sorted(_FIXED))
def test_what_cannot_be_changed_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotSupported, match=f"{name} cannot be updated"):
        read_update({name: [{"x": 1}]})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "expected a JSON object"),
        ({"Mystery": 1}, "Mystery is not a field of an update"),
        ({"Memory": "much"}, "Memory"),
        ({"RestartPolicy": {"Name": 5}}, "RestartPolicy: Name"),
    ],
    ids=str,
)
def test_what_is_malformed_is_named(body: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read_update(body)


@pytest.mark.parametrize(
    ("old", "body", "words"),
    [
        ({"nano_cpus": 10**9}, {"CpuQuota": 5000}, "CPU Quota cannot be updated as NanoCPUs"),
        ({"nano_cpus": 10**9}, {"CpuPeriod": 5000}, "CPU Period cannot be updated as NanoCPUs"),
        ({"cpu_quota": 5000}, {"NanoCpus": 10**9}, "Nano CPUs cannot be updated as CPU Quota"),
        (
            {"memory": 64 * MB, "memory_swap": 128 * MB},
            {"Memory": 256 * MB},
            "update the memoryswap at the same time",
        ),
        ({}, {"Memory": 5 * MB}, "Minimum memory limit allowed is 6MB"),
        ({}, {"MemoryReservation": MB}, "Minimum memory reservation allowed is 6MB"),
        ({}, {"CpuQuota": 5}, "CPU cfs quota can not be less than 1ms"),
        ({}, {"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
    ],
    ids=str,
)
def test_contradictions_are_named(old: dict[str, Any], body: dict[str, Any], words: str) -> None:
    with pytest.raises(SampanError, match=words):
        apply(HostConfig(**old), body)


def test_memory_brings_its_swap_along() -> None:
    assert apply(HostConfig(), {"Memory": 64 * MB}).memory_swap == 128 * MB
    assert apply(HostConfig(), {"Memory": 64 * MB}, swap=False).memory_swap == 0
    assert apply(HostConfig(), {"Memory": 64 * MB, "MemorySwap": -1}).memory_swap == -1


def test_only_what_is_touched_is_written() -> None:
    old = HostConfig(memory=64 * MB, memory_swap=128 * MB, cpu_shares=512, pids_limit=10)
    written = _written(old, {"pids_limit": -1})
    assert (written.memory, written.cpu, written.block_io) == (None, None, None)
    new = msgspec.structs.replace(old, pids_limit=-1)
    assert _written(new, {"pids_limit": -1}).pids.limit == -1  # type: ignore[union-attr]  # is there
    written = _written(old, {"memory": 64 * MB})
    assert written.memory is not None
    assert (written.memory.limit, written.memory.swap) == (64 * MB, 128 * MB)
    assert written.pids is None


def test_what_was_not_limited_is_not_limited_again() -> None:
    back = _back(HostConfig(cpu_shares=300), {"memory": 1, "cpu_shares": 2, "pids_limit": 3})
    assert back.memory is not None
    assert (back.memory.limit, back.memory.swap) == (-1, None)
    assert back.cpu is not None
    assert back.cpu.shares == 300
    assert back.pids is not None
    assert back.pids.limit == -1
