"""What is done apart is done once and whole, whatever the handlers of signals raise meanwhile."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from sampan.sdk.apart import apart, is_interruptible
from sampan.sdk.steps import take, wait, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.sdk.steps import Steps


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Has a signal's handler raise KeyboardInterrupt in the main thread."""

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    yield interrupt
    signal.signal(signal.SIGUSR1, before)


def test_what_it_returns_or_raises_is_told() -> None:
    assert apart(lambda: 7) == (7, None, None)
    assert apart(is_interruptible) == (False, None, None)
    assert is_interruptible()
    value, error, late = apart(lambda: 1 // 0)
    assert (value, type(error), late) == (None, ZeroDivisionError, None)


def test_it_is_done_once_and_to_its_end_though_it_is_interrupted(
    interrupt: Callable[[], None],
) -> None:
    done: list[int] = []

    def much() -> str:
        interrupt()
        for number in range(1000):
            done.append(number)
        return "whole"

    value, error, late = apart(much)
    assert (value, error, type(late)) == ("whole", None, KeyboardInterrupt)
    assert done == list(range(1000))


def test_an_interrupt_at_any_moment_before_it_is_begun_or_later() -> None:
    """Where it is raised here, nothing was begun; else it is done once."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    later = raised = 0
    try:
        for number in range(3000):
            done: list[bool] = []
            late: BaseException | None = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 300))
                _, _, late = apart(lambda done=done: done.append(True))  # type: ignore[misc]
            except KeyboardInterrupt:
                raised += 1
            later += late is not None
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                raised += 1
            assert len(done) <= 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised + later


def test_what_work_made_is_given_before_the_interrupt_is_raised(
    interrupt: Callable[[], None],
) -> None:
    seen: list[object] = []

    def make() -> str:
        interrupt()
        return "made"

    def steps() -> Steps[None]:
        seen.append((yield from work(make)))
        try:
            yield from wait({})
        except KeyboardInterrupt:
            seen.append("interrupted")
            seen.append((yield from work(lambda: "cleaned up")))
            raise

    with pytest.raises(KeyboardInterrupt):
        take(steps())
    assert seen == ["made", "interrupted", "cleaned up"]


def test_an_interrupt_of_the_last_work_is_raised_behind_it(interrupt: Callable[[], None]) -> None:
    for fails in (False, True):
        ended: list[bool] = []

        def steps(ended: list[bool] = ended, fails: bool = fails) -> Steps[None]:
            yield from work(interrupt)
            ended.append(True)
            if fails:
                raise ValueError

        with pytest.raises(KeyboardInterrupt):
            take(steps())
        assert ended == [True]
