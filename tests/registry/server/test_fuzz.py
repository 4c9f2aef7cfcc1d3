"""Requests nobody would make (``fuzz``): the same few hundred each time; ``python -m
bench.registry_fuzz`` makes new ones for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.registry.server.fuzz import Fuzzer, Made, requests, two


@pytest.fixture(scope="module")
def fuzzers(quick: Path) -> Iterator[tuple[Fuzzer, Fuzzer]]:
    with two(quick) as found:
        yield found


def some(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@some(150)
@given(requests())
def test_requests_nobody_would_make(fuzzers: tuple[Fuzzer, Fuzzer], made: Made) -> None:
    fuzzers[0].send(made)


@some(40)
@given(requests())
def test_the_same_where_one_has_to_log_in(fuzzers: tuple[Fuzzer, Fuzzer], made: Made) -> None:
    fuzzers[1].send(made)
