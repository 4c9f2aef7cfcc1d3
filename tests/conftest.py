"""For every test: kernel tests need root, and a run leaves nothing of the project behind
(``tests.leftovers``): what is new and ours after the last test fails the run.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import leftovers
from tests.compatibility.record import recorder
from tests.places import memory_of, quick_directory

_before: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def _own_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where this run's files are, as against another's."""
    base = tmp_path_factory.getbasetemp()
    leftovers.belong_to_us(base, memory_of(base))


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for what only has to be quick (``places``)."""
    with quick_directory(tmp_path_factory.getbasetemp()) as place:
        yield place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_sessionstart(session: pytest.Session) -> None:
    # Who runs this in the background may have SIGINT ignored, which programs under test inherit.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _before.update(leftovers.ours())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    recorder.after_test()
    yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        recorder.failed(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    recorder.save()
    if _is_whole(session) and (unchecked := recorder.unchecked()):
        print("\noperations without a check:", *unchecked, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    # A process that was told to end may need a moment; a leak stays.
    deadline = time.monotonic() + 30
    while (left := leftovers.ours() - _before) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        print("\nleft behind by the tests:", *sorted(left), sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_whole(session: pytest.Session) -> bool:
    """Every test was run, as root, to the end."""
    config = session.config
    return (
        os.geteuid() == 0
        and config.args_source == pytest.Config.ArgsSource.TESTPATHS
        and not (config.option.keyword or config.option.markexpr or config.option.collectonly)
        and not session.shouldstop
        and not session.shouldfail
    )
