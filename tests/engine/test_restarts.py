"""Restart policies as a table: which end is answered, when, and how often."""

from __future__ import annotations

import itertools

import pytest

from sampan.engine.config import RestartPolicy
from sampan.engine.container import State
from sampan.engine.restarts import (
    FIRST_DELAY,
    LONGEST_DELAY,
    after_daemon,
    check_policy,
    follow_up,
)
from sampan.errors import InvalidArgument

SECOND = 1_000_000_000


def policy(text: str) -> RestartPolicy:
    name, _, count = text.partition(":")
    return RestartPolicy(name=name, maximum_retry_count=int(count or 0))


def ended(code: int, **changes: int) -> State:
    fields = {"started_at": 100 * SECOND, "finished_at": 101 * SECOND, **changes}
    return State(status="exited", exit_code=code, **fields)  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(
    ("text", "state", "again"),
    [
        ("", ended(1), False),
        ("no", ended(1), False),
        ("always", ended(0), True),
        ("always", ended(0, by_hand=True), False),
        ("unless-stopped", ended(0), True),
        ("unless-stopped", ended(0, by_hand=True), False),
        ("on-failure", ended(0), False),
        ("on-failure", ended(3, restarts=1000), True),
        ("on-failure:2", ended(3, restarts=1), True),
        ("on-failure:2", ended(3, restarts=2), False),
        ("on-failure", ended(3, by_hand=True), False),
    ],
    ids=str,
)
def test_which_end_is_answered(text: str, state: State, again: bool) -> None:
    assert (follow_up(policy(text), state) is not None) is again


def test_the_delay_doubles_to_a_minute_and_begins_anew_after_ten_seconds() -> None:
    delays = []
    delay = 0
    for _ in itertools.repeat(None, 13):
        found = follow_up(policy("always"), ended(1, delay=delay))
        assert found is not None
        delays.append(delay := found)
    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-3:] == [LONGEST_DELAY] * 3
    long = ended(1, delay=delay, finished_at=110 * SECOND)
    assert follow_up(policy("always"), long) == FIRST_DELAY


@pytest.mark.parametrize(
    ("text", "state", "again"),
    [
        ("always", ended(0, by_hand=True), True),
        ("unless-stopped", ended(137, by_hand=True), False),
        ("unless-stopped", ended(128), True),
        ("on-failure", ended(1), False),
        ("no", ended(1), False),
        ("always", State(), False),
        ("always", State(status="running", started_at=1), False),
    ],
    ids=str,
)
def test_what_starts_with_the_daemon(text: str, state: State, again: bool) -> None:
    assert after_daemon(policy(text), state) is again


@pytest.mark.parametrize(
    ("text", "auto_remove", "words"),
    [
        ("sometimes", False, "unknown policy 'sometimes'"),
        ("always:3", False, "can only be used with 'on-failure'"),
        ("no:-1", False, "cannot be negative"),
        ("on-failure:-1", False, "maximum retry count cannot be negative"),
        ("always", True, "can't create 'AutoRemove' container with restart policy"),
    ],
)
def test_what_is_no_policy_is_named(text: str, auto_remove: bool, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_policy(policy(text), auto_remove=auto_remove)


@pytest.mark.parametrize("text", ["", "no", "always", "unless-stopped", "on-failure:5"])
def test_policies_pass(text: str) -> None:
    check_policy(policy(text), auto_remove=text in ("", "no"))
