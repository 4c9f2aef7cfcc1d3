"""Groups for the tests, named ``sampan-test-*``, and gone afterwards whatever happened."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

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
