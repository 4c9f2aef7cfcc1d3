"""Freeze, thaw, kill, remove: by what the processes in the group do."""

from __future__ import annotations

import functools
import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.kernel.cgroups import Group, Hierarchy, control, detect
from tests.kernel.cgroups.workers import Worker, sleep, wait_until

pytestmark = [pytest.mark.root, pytest.mark.v2]

Work = Callable[[Group | None, Callable[[], object]], Worker]


@pytest.fixture(params=["whole", "v1 alone"] if detect().kind == "hybrid" else ["whole"])
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    """What the machine has; and, of a hybrid, its v1 part as a machine of that kind has it."""
    whole = detect()
    if request.param == "whole":
        return whole
    return Hierarchy([tree for tree in whole.trees if tree.version == 1])


def test_a_frozen_group_makes_no_progress_until_thawed(group: Group, work: Work) -> None:
    with mmap.mmap(-1, 4096) as shared:

        def count() -> None:
            number = 0
            while True:
                number += 1
                shared[0:8] = number.to_bytes(8, "little")

        def seen() -> int:
            return int.from_bytes(shared[0:8], "little")

        work(group, count)
        wait_until(lambda: seen() > 100)
        assert not group.frozen()
        group.freeze()
        assert group.frozen()
        stopped = seen()
        time.sleep(0.2)
        assert seen() == stopped
        group.thaw()
        assert not group.frozen()
        wait_until(lambda: seen() > stopped)
        group.kill()


def _family() -> None:
    """A session of its own with a few children, none of which minds a SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                sleep()
            sleep()
    sleep()


def test_kill_ends_every_process_below(group: Group, work: Work) -> None:
    parent = work(group, _family)
    wait_until(lambda: len(group.processes()) == 7)
    pids = group.processes()
    assert parent.pid in pids
    group.kill()
    assert parent.wait() == -signal.SIGKILL
    wait_until(lambda: not group.processes())
    group.destroy()
    assert not group.exists()


def test_kill_ends_a_frozen_group(group: Group, work: Work) -> None:
    parent = work(group, _family)
    wait_until(lambda: len(group.processes()) == 7)
    group.freeze()
    group.kill()
    assert parent.wait() == -signal.SIGKILL
    group.destroy()


def test_a_signal_reaches_every_process_below(group: Group, work: Work) -> None:
    parent = work(group, _family)
    wait_until(lambda: len(group.processes()) == 7)
    group.signal(signal.SIGTERM)  # which none minds
    assert len(group.processes()) == 7
    group.signal(signal.SIGUSR1)
    assert parent.wait() == -signal.SIGUSR1
    wait_until(lambda: not group.processes())


def test_a_signal_is_not_for_who_has_the_number_since_it_was_read(
    group: Group, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = work(group, sleep), work(None, sleep)
    real = control._processes
    looks = iter([[outside.pid, inside.pid]])
    monkeypatch.setattr(
        control, "_processes", lambda directory: next(looks, None) or real(directory)
    )
    group.signal(signal.SIGUSR1)
    assert inside.wait() == -signal.SIGUSR1
    assert outside.code is None
    os.kill(outside.pid, 0)


def test_kill_ends_a_fork_bomb(group: Group, work: Work) -> None:
    def bomb() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pid = os.fork()
            if pid:
                os._exit(0)

    work(group, bomb)
    time.sleep(0.1)
    group.kill()
    group.destroy()
    assert not group.exists()


def test_destroy_removes_sub_groups_the_container_made(group: Group, work: Work) -> None:
    deep = group.child("a/b/c")
    deep.create()
    group.child("d").create()
    work(deep, sleep)
    group.kill()
    group.destroy()
    assert not group.exists()
    assert not any(Path(path).exists() for path in group.paths().values())


def test_destroy_waits_for_processes_that_are_ending(group: Group, work: Work) -> None:
    ending = work(group, lambda: time.sleep(1))
    start = time.monotonic()
    group.destroy()
    assert 0.1 < time.monotonic() - start < 60
    assert ending.wait() == 0


def test_destroy_names_the_processes_that_stay(group: Group, work: Work) -> None:
    staying = work(group, sleep)
    with pytest.raises(Conflict, match=rf"still in use \(processes: {staying.pid}\)"):
        group.destroy(patience=0.1)
    assert staying.pid in group.processes()


def test_destroy_and_kill_of_a_group_that_is_gone_are_no_error(group: Group) -> None:
    group.destroy()
    group.destroy()
    group.kill()


def test_a_group_in_use_is_not_taken_again(group: Group, work: Work) -> None:
    group.create()  # there and empty: fine
    worker = work(group, sleep)
    with pytest.raises(Conflict, match=rf"holds processes \({worker.pid}\)"):
        group.create()
    assert group.exists()


def test_a_frozen_group_is_not_taken_again(group: Group) -> None:
    group.freeze()
    with pytest.raises(Conflict, match="is frozen"):
        group.create()
    group.thaw()


def test_groups_come_and_go_in_many_processes_at_once(hierarchy: Hierarchy, work: Work) -> None:
    """Their common parent is not there either: each finds it missing, new or half made."""
    parent = hierarchy.group(f"/sampan-test-crowd-{os.getpid()}")

    def lives(number: int) -> None:
        for turn in range(4):
            group = hierarchy.group(f"{parent.path}/{number}/{turn}")
            group.create()
            worker = Worker(group, sleep)
            assert group.processes() == [worker.pid]
            group.kill()
            assert worker.wait() == -signal.SIGKILL
            group.destroy()

    try:
        crowd = [work(None, functools.partial(lives, number)) for number in range(6)]
        assert [worker.wait() for worker in crowd] == [0] * 6
    finally:
        parent.kill()
        parent.destroy()


def test_accounts_of_a_group_that_is_gone_are_empty(group: Group) -> None:
    group.destroy()
    usage = group.account()
    assert (usage.cpu.total, usage.memory.usage.usage, usage.pids.current) == (0, 0, 0)
    assert group.oom_count() == 0
    assert group.processes() == []


@pytest.mark.parametrize("path", ["", "/", ".", "/..", "../x", "/a/../b", "/a\nb"])
def test_a_name_that_is_no_group_is_refused(hierarchy: Hierarchy, path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroup path"):
        hierarchy.group(path)


def test_a_relative_name_counts_from_our_own_group(
    group: Group, hierarchy: Hierarchy, work: Work
) -> None:
    def relative() -> None:
        kinds = {tree.version for tree in hierarchy.trees}
        here = Hierarchy([tree for tree in detect().trees if tree.version in kinds])
        inner = here.group("sampan-test-relative")
        if here.kind == "v2":
            # Beside us: a group with processes cannot hand out controllers.
            parent = Path(group.paths()["unified"]).parent
            assert Path(inner.paths()["unified"]) == parent / "sampan-test-relative"
        else:
            for key, path in inner.paths().items():
                assert path == f"{group.paths()[key]}/sampan-test-relative"
        inner.create()
        inner.destroy()

    assert work(group, relative).wait() == 0
