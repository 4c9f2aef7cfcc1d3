"""What one more check means, when the next is due, and which checks are none."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.engine.config import ContainerConfig, Healthcheck
from sampan.engine.container import Check, Health
from sampan.engine.health import (
    Checks,
    check_health,
    command,
    go_duration,
    judge,
    pause_before,
)
from sampan.engine.merge import merge
from sampan.errors import InvalidArgument
from sampan.oci.image import Healthcheck as ImageHealth
from sampan.oci.image import ImageConfig
from tests.engine.test_changes_meanwhile import container

SECOND = 1_000_000_000


def result(code: int, at: int = 100) -> Check:
    return Check(start=at * SECOND, end=at * SECOND, exit_code=code, output=str(code))


def after(codes: list[int], health: Healthcheck, known: Health | None = None) -> Health:
    """What is known after checks at seconds 0, 1, 2 … of a container."""
    known = known or Health()
    for second, code in enumerate(codes):
        known = judge(health, known, result(code, second), 0)
    return known


@pytest.mark.parametrize(
    ("codes", "status", "streak"),
    [
        ([], "starting", 0),
        ([0], "healthy", 0),
        ([1, 1], "starting", 2),
        ([1, 1, 1], "unhealthy", 3),
        ([0, 1, 1], "healthy", 2),
        ([0, 1, 2, -1], "unhealthy", 3),
        ([1, 1, 1, 1], "unhealthy", 4),
        ([1, 1, 1, 0], "healthy", 0),
    ],
    ids=str,
)
def test_three_failures_make_it_unhealthy_and_one_success_healthy(
    codes: list[int], status: str, streak: int
) -> None:
    known = after(codes, Healthcheck(test=["CMD", "x"]))
    assert (known.status, known.streak) == (status, streak)


def test_the_last_five_results_are_kept() -> None:
    known = after([9, 1, 2, 3, 4, 5, 6], Healthcheck())
    assert [check.exit_code for check in known.log] == [2, 3, 4, 5, 6]


def test_failures_while_it_starts_do_not_count() -> None:
    health = Healthcheck(start_period=3 * SECOND, retries=1)
    assert after([1, 1, 1], health).streak == 0
    assert after([1, 1, 1, 1], health).status == "unhealthy"
    # Once it was healthy it is not starting any more.
    assert after([0, 1], health).status == "unhealthy"


def test_when_the_next_is_due() -> None:
    plain = Healthcheck(test=["CMD", "x"])
    assert pause_before(plain, "starting", 0) == 30 * SECOND
    slow = Healthcheck(start_period=60 * SECOND, interval=7 * SECOND)
    assert pause_before(slow, "starting", 0) == 5 * SECOND
    assert pause_before(slow, "healthy", 0) == 7 * SECOND
    assert pause_before(slow, "starting", 60 * SECOND) == 7 * SECOND
    own = Healthcheck(start_period=60 * SECOND, start_interval=SECOND)
    assert pause_before(own, "starting", 0) == SECOND


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interval": 1}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"timeout": -5}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"start_period": 999_999}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"start_interval": 1}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"retries": -1}, "Retries in Healthcheck cannot be negative"),
        ({"test": ["PING", "x"]}, "Unknown healthcheck type 'PING'"),
        ({"test": ["CMD"]}, "CMD needs a command"),
    ],
    ids=str,
)
def test_what_is_no_check_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_health(Healthcheck(**fields))


@pytest.mark.parametrize(
    ("test", "shell", "expected"),
    [
        (None, None, ()),
        ([], None, ()),
        (["NONE"], None, ()),
        (["CMD", "a", "b c"], None, ("a", "b c")),
        (["CMD-SHELL", "a || b"], None, ("/bin/sh", "-c", "a || b")),
        (["CMD-SHELL", "a"], ["/bin/bash", "-ec"], ("/bin/bash", "-ec", "a")),
    ],
    ids=str,
)
def test_what_is_executed(
    test: list[str] | None, shell: list[str] | None, expected: tuple[str, ...]
) -> None:
    health = None if test is None else Healthcheck(test=test)
    assert command(ContainerConfig(healthcheck=health, shell=shell)) == expected


@pytest.mark.parametrize("problem", ["no descriptor is left", "the disk is full"])
def test_what_hinders_one_check_does_not_end_them(problem: str) -> None:
    """A check that cannot be made, and one whose result cannot be written."""
    full = problem == "the disk is full"
    config = ContainerConfig(healthcheck=Healthcheck(test=["CMD", "x"], interval=3600 * SECOND))

    def put_state(_: object) -> None:
        raise sqlite3.OperationalError(problem)

    async def run(_: object) -> tuple[int, str]:
        if full:
            return 0, "fine"
        raise OSError(24, problem)

    async def main() -> None:
        live = container("running", config, health=Health())
        checks = Checks(cast("Any", SimpleNamespace(store=SimpleNamespace(put_state=put_state))))
        checks._run = run  # type: ignore[assignment]
        live.checking = token = object()
        if full:
            with pytest.raises(sqlite3.OperationalError):
                await checks._check(live, token)
        else:
            await checks._check(live, token)
        health = live.record.state.health
        assert health is not None
        assert problem in health.log[0].output or health.status == "healthy"
        assert live.next_check is not None
        live.next_check.cancel()

    asyncio.run(main())


def test_a_containers_own_check_takes_the_rest_from_the_image() -> None:
    image = ImageConfig(healthcheck=ImageHealth(test=("CMD", "a"), interval=3, retries=7))

    def merged(own: Healthcheck | None) -> Healthcheck | None:
        return merge(ContainerConfig(cmd=["x"], healthcheck=own), image).healthcheck

    assert merged(None) == Healthcheck(test=["CMD", "a"], interval=3, retries=7)
    assert merged(Healthcheck(interval=5)) == Healthcheck(test=["CMD", "a"], interval=5, retries=7)
    assert merged(Healthcheck(test=["NONE"])) == Healthcheck(test=["NONE"], interval=3, retries=7)
    assert merge(ContainerConfig(cmd=["x"]), ImageConfig()).healthcheck is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30 * SECOND, "30s"),
        (1_500_000_000, "1.5s"),
        (200_000_000, "200ms"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
    ],
)
def test_durations_look_as_go_prints_them(value: int, text: str) -> None:
    assert go_duration(value) == text
