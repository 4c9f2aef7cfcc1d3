"""Groups for the tests, named ``sampan-test-*``, and gone afterwards whatever happened."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.kernel.cgroups import Group, Hierarchy, detect
from tests.kernel.cgroups.workers import Worker

_numbers = itertools.count()


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    return detect()


@pytest.fixture
def new_group(hierarchy: Hierarchy) -> Iterator[Callable[[], Group]]:
    """Make groups; each is killed and removed at the end."""
    made: list[Group] = []
    before = _handed_out(hierarchy)

    def make() -> Group:
        group = hierarchy.group(f"/sampan-test-{os.getpid()}-{next(_numbers)}")
        made.append(group)
        group.create()
        return group

    yield make
    for group in made:
        if group.exists():
            group.kill()
            group.destroy()
    for controller in _handed_out(hierarchy) - before:
        _root(hierarchy).write_text(f"-{controller}")


def _root(hierarchy: Hierarchy) -> Path:
    assert hierarchy.unified is not None
    return Path(hierarchy.unified.mount_point) / "cgroup.subtree_control"


def _handed_out(hierarchy: Hierarchy) -> set[str]:
    """Controllers a hybrid's v2 root offers its groups: a limit may have added to them."""
    return set(_root(hierarchy).read_text().split()) if hierarchy.kind == "hybrid" else set()


@pytest.fixture
def group(new_group: Callable[[], Group]) -> Group:
    return new_group()


@pytest.fixture
def work() -> Iterator[Callable[[Group | None, Callable[[], object]], Worker]]:
    """Start workers; those still running are killed at the end."""
    started: list[Worker] = []

    def start(group: Group | None, function: Callable[[], object]) -> Worker:
        worker = Worker(group, function)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.code is None and worker.pid:
            worker.end()
