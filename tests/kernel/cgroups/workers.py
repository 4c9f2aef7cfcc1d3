"""Processes that work inside a group, and end with the test."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from sampan.kernel.cgroups import Group


class Worker:
    """A forked child that joins ``group`` and then calls ``function``; the result is its status."""

    def __init__(self, group: Group | None, function: Callable[[], object]) -> None:
        ready, signalled = os.pipe()
        sys.stdout.flush()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                if group is not None:
                    group.add(0)
                os.write(signalled, b"x")
                function()
                code = 0
            except BaseException:  # noqa: BLE001 - it must not return into pytest
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(signalled)
        joined = os.read(ready, 1)
        os.close(ready)
        if not joined:
            self.wait()
            raise AssertionError("the worker did not get into its group")

    def wait(self) -> int:
        """Its exit code; minus the signal's number if one ended it."""
        if self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def end(self) -> None:
        """Kill it if it is still there."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def burn(seconds: float) -> None:
    """Use the CPU for that long by the clock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(1000):
            pass


def touch(megabytes: int) -> mmap.mmap:
    """Memory that is really there."""
    area = mmap.mmap(-1, megabytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, megabytes << 20, mmap.PAGESIZE):
        area[page] = 1
    return area


def hold(group: Group, megabytes: int) -> Worker:
    """A worker that has so much memory when this returns, and keeps it until killed."""
    ours, theirs = os.pipe()

    def keep() -> None:
        area = touch(megabytes)
        os.write(theirs, b"x")
        while not area.closed:
            signal.pause()

    worker = Worker(group, keep)
    os.close(theirs)
    touched = os.read(ours, 1)
    os.close(ours)
    assert touched, "the worker ended early"
    return worker


def sleep() -> None:
    """Until killed."""
    while True:
        signal.pause()


def direct_write(path: str, megabytes: int) -> None:
    """Write past the page cache, so that the device's work is the writer's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
    with mmap.mmap(-1, 1 << 18) as block:
        for _ in range(megabytes * 4):
            os.write(fd, block)
    os.close(fd)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Until it holds; an assertion fails when the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)
