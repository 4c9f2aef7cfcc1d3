"""Run the body of a test in a forked child, which may unshare, mount, lose rights as it likes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import pytest

from sampan.kernel import mounts, namespaces, processes

if TYPE_CHECKING:
    from collections.abc import Callable


class SkippedInChild(Exception):
    """Raised by ``skip`` in a child; the parent's test is skipped then."""


def skip(reason: str) -> NoReturn:
    """As ``pytest.skip``, from inside a forked child."""
    raise SkippedInChild(reason)


def run_forked(function: Callable[[], object]) -> None:
    """Call ``function`` in a forked child; fail with the child's traceback if it raises.

    The child ends with ``os._exit``: no fixture, no atexit handler and no buffer of pytest's runs
    twice. Whatever it unshared ends with it. A child that is killed by a signal is a failure.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(function, write_end)
    os.close(write_end)
    finished = False
    try:
        with open(read_end, "rb") as pipe:
            report = pipe.read().decode(errors="replace")
        finished = True
    finally:
        if not finished:  # the time limit of the test: no child outlives it
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 77:
        pytest.skip(report)
    assert code == 0, f"in the forked child (exit {code}):\n{report}"


def _child(function: Callable[[], object], write_end: int) -> NoReturn:
    code = 1
    report = ""
    parent = os.getpid()
    processes.set_parent_death_signal(signal.SIGKILL)
    try:
        function()
        code = 0
    except SkippedInChild as reason:
        report, code = str(reason), 77
    except BaseException:  # noqa: BLE001 - the parent gets and judges it
        report = traceback.format_exc()
    finally:
        # A grandchild that fell through from the body must not report in its parent's name.
        if os.getpid() != parent:
            os._exit(99)
        os.write(write_end, report.encode(errors="replace")[:60000])
        os._exit(code)


def private_mounts() -> None:
    """Give this process a mount namespace whose mounts nobody else sees."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
