"""For every test: kernel tests need root, and a run leaves nothing of the project behind.

After the last test, mounts, cgroups, interfaces and processes are compared with what was there
before the first; what is new and ours fails the run.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.compatibility.record import recorder
from tests.places import memory_of, quick_directory

_before: set[str] = set()
_base: list[Path] = []
_errors: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def _own_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where this run's files are, as against another's."""
    base = tmp_path_factory.getbasetemp()
    _base.extend((base, memory_of(base)))
    _errors.add(_errors_of("/proc/self"))


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
    _before.update(_ours())


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
    while (left := _ours() - _before) and time.monotonic() < deadline:
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


def _ours() -> set[str]:
    return _mounts() | _cgroups() | _processes() | _interfaces()


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [line.split()[4] for line in file]
    return {
        f"mount {p}" for p in places if ("sampan" in p or "pytest" in p) and not _is_anothers(p)
    }


def _is_anothers(text: str) -> bool:
    """Whether a name tells that it belongs to another run of tests on this machine."""
    directory = re.search(r"/pytest-of-[^/]+/pytest-(\d+)/", text)
    if directory is not None:
        return bool(_base) and directory[0] not in f"{_base[0]}/"
    group = re.search(r"sampan-test-(\d+)-", text)
    return group is not None and int(group[1]) != os.getpid()


def _cgroups() -> set[str]:
    found: set[str] = set()
    level = ["/sys/fs/cgroup"]
    for _ in range(3):
        below: list[str] = []
        for parent in level:
            try:
                with os.scandir(parent) as entries:
                    below += [entry.path for entry in entries if entry.is_dir()]
            except FileNotFoundError:
                continue  # another's, removed while we looked
        names = {path for path in below if "sampan" in os.path.basename(path)}
        found |= {f"cgroup {path}" for path in names if not _is_anothers(path)}
        level = below
    return found


def _interfaces() -> set[str]:
    net = Path("/sys/class/net")
    names = [path.name for path in net.iterdir()] if net.exists() else []
    return {f"interface {name}" for name in names if name.startswith(("sp", "sampan", "vsp"))}


def _processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            name = (path / "comm").read_text().strip()
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        first = [os.path.basename(word).decode(errors="replace") for word in command[:2]]
        ours = name.startswith("sampan") or any(word.startswith("sampan") for word in first)
        if ours and state != "Z" and _is_of_this_run(path.name):
            found.add(f"process {path.name}: {name}")
    return found


def _is_of_this_run(pid: str) -> bool:
    """Whether it descends from us, or writes where this run's processes do, whoever adopted it."""
    errors = _errors_of(f"/proc/{pid}")
    if errors in _errors or any(errors.startswith(f"{base}/") for base in _base):
        return True
    while pid not in ("0", "1"):
        if pid == str(os.getpid()):
            return True
        try:
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return False
    return False


def _errors_of(process: str) -> str:
    """Where its standard error goes: a daemon's log, for what it started too."""
    try:
        return os.readlink(f"{process}/fd/2")
    except OSError:
        return ""
