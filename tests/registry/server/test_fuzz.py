"""Requests nobody would make (``fuzz``): the same few hundred each time; ``python -m
bench.registry_fuzz`` makes new ones for as long as one likes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.registry.server.accounts import htpasswd
from tests.registry.server.fuzz import Fuzzer, Made, requests

OPEN, GUARDED = "open", "guarded"


@pytest.fixture(scope="module")
def fuzzers(quick: Path) -> Iterator[dict[str, Fuzzer]]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="a:secret")
    for name in (OPEN, GUARDED):
        (place / name).mkdir()
    guard = ("--htpasswd", f"{place}/accounts", "--anonymous-pull", "--auth", "token")
    found = {OPEN: Fuzzer(place / OPEN), GUARDED: Fuzzer(place / GUARDED, *guard)}
    found[OPEN].seed()
    yield found
    for one in found.values():
        one.close()
    shutil.rmtree(place)


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
def test_requests_nobody_would_make(fuzzers: dict[str, Fuzzer], made: Made) -> None:
    fuzzers[OPEN].send(made)


@some(40)
@given(requests())
def test_the_same_where_one_has_to_log_in(fuzzers: dict[str, Fuzzer], made: Made) -> None:
    fuzzers[GUARDED].send(made)
