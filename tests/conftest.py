"""For every test: kernel tests need root, and a run leaves nothing of the project behind.

After the last test, mounts, cgroups, interfaces and processes are compared with what was there
before the first; what is new and ours fails the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.compatibility.record import recorder

_before: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_sessionstart(session: pytest.Session) -> None:
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
    # A process that was told to end may need a moment; a leak stays.
    deadline = time.monotonic() + 5
    while (left := _ours() - _before) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        print("\nleft behind by the tests:", *sorted(left), sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _ours() -> set[str]:
    return _mounts() | _cgroups() | _processes() | _interfaces()


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [line.split()[4] for line in file]
    return {f"mount {p}" for p in places if "sampan" in p or "pytest" in p}


def _cgroups() -> set[str]:
    root = Path("/sys/fs/cgroup")
    found: set[str] = set()
    for pattern in ("*sampan*", "*/*sampan*", "*/*/*sampan*"):
        found |= {f"cgroup {path}" for path in root.glob(pattern) if path.is_dir()}
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
        if ours and state != "Z":
            found.add(f"process {path.name}: {name}")
    return found
