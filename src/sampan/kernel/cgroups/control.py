"""Freeze, thaw, kill and remove a group: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

v2 does each in one write, for the whole sub-tree, and tells by an event when it has happened
(cgroup.freeze since Linux 5.2, cgroup.kill since 5.14). v1's freezer has a state that must be read
until it is reached, and killing there is: freeze (so that nothing forks and no PID is reused),
signal, thaw.
"""

from __future__ import annotations

import os
import signal
import time
from errno import EBUSY, ENODEV, ENOENT, ENOTEMPTY, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError
from sampan.kernel.cgroups.events import wait_for_event, wait_until_gone
from sampan.kernel.processes import pidfd_open, pidfd_send_signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.kernel.cgroups.files import Directory

__all__ = [
    "enter_by",
    "freeze_v1",
    "freeze_v2",
    "is_frozen_v1",
    "is_frozen_v2",
    "kill_v1",
    "kill_v2",
    "remove",
    "signal_all",
    "thaw_v1",
    "thaw_v2",
]

_SHORTEST_WAIT = 0.0002
_LONGEST_WAIT = 0.02


def freeze_v2(directory: Directory, deadline: float) -> None:
    """Stop every process of the sub-tree; ``Conflict`` (and thawed again) past the deadline."""
    directory.write("cgroup.freeze", "1")
    if not wait_for_event(directory, "frozen", 1, deadline):
        directory.write("cgroup.freeze", "0")
        raise Conflict(_not_frozen(directory))


def thaw_v2(directory: Directory, deadline: float) -> None:
    """Let them run again."""
    directory.write("cgroup.freeze", "0")
    if not wait_for_event(directory, "frozen", 0, deadline):
        raise Conflict(f"cgroup {directory.group} stays frozen: a group above it is frozen")


def is_frozen_v2(directory: Directory) -> bool:
    return (directory.find("cgroup.freeze") or "").strip() == "1"


def freeze_v1(directory: Directory, deadline: float) -> None:
    """As ``freeze_v2``. There is no event for the state FROZEN: it is asked for again and again.

    A process that forks at the wrong moment can leave the state at FREEZING; writing FROZEN once
    more takes in its child.
    """
    wait = _SHORTEST_WAIT
    while True:
        directory.write("freezer.state", "FROZEN")
        if directory.read("freezer.state").strip() == "FROZEN":
            return
        if time.monotonic() >= deadline:
            directory.write("freezer.state", "THAWED")
            raise Conflict(_not_frozen(directory))
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def thaw_v1(directory: Directory) -> None:
    directory.write("freezer.state", "THAWED")
    if directory.read("freezer.state").strip() != "THAWED":
        raise Conflict(f"cgroup {directory.group} stays frozen: a group above it is frozen")


def is_frozen_v1(directory: Directory) -> bool:
    return (directory.find("freezer.state") or "THAWED").strip() != "THAWED"


def _not_frozen(directory: Directory) -> str:
    shown = " ".join(str(pid) for pid in directory.processes()[:8])
    return (
        f"cgroup {directory.group} could not be frozen in time: a process is in an uninterruptible"
        f" wait (processes: {shown})"
    )


def kill_v2(directory: Directory) -> bool:
    """SIGKILL to the whole sub-tree, forks included; False where the kernel has no cgroup.kill."""
    try:
        directory.write("cgroup.kill", "1")
    except KernelError as error:
        if error.errno in (ENOENT, ENODEV):  # the latter when it is removed while it is open
            return not directory.exists()
        raise
    return True


def kill_v1(directory: Directory, freezer: Directory | None, deadline: float) -> None:
    """SIGKILL until the sub-tree is empty or the deadline passes."""
    while pids := _processes(directory):
        if freezer is not None:
            try:
                freeze_v1(freezer, min(deadline, time.monotonic() + 0.2))
                pids = _processes(directory)
            except Conflict:
                pass  # one that sleeps in the kernel cannot fork: what runs is signalled below
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if freezer is not None:
            thaw_v1(freezer)
        if not wait_until_gone(pids, deadline) or time.monotonic() >= deadline:
            return


def signal_all(directory: Directory, number: int) -> None:
    """A signal to each process of the sub-tree: a number may be another's since it was read."""
    for pid in _processes(directory):
        try:
            pidfd = pidfd_open(pid)
        except KernelError as error:
            if error.errno == ESRCH:
                continue
            raise
        try:
            if pid in _processes(directory):
                pidfd_send_signal(pidfd, number)
        except KernelError as error:
            if error.errno != ESRCH:
                raise
        finally:
            os.close(pidfd)


def _processes(directory: Directory) -> list[int]:
    return [pid for group in directory.subtree() for pid in group.processes()]


def remove(directory: Directory, version: int, deadline: float) -> None:
    """Remove the group and its sub-groups, deepest first; no error if it is gone.

    Processes that are ending are waited for; ``Conflict`` names those left at the deadline.
    """
    if _rmdir(directory):
        return
    wait = _SHORTEST_WAIT
    while True:
        for group in directory.subtree():
            _rmdir(group)
        if not directory.exists():
            return
        if version == 2:
            emptied = wait_for_event(directory, "populated", 0, deadline)
        else:
            emptied = wait_until_gone(_processes(directory), deadline)
        left = [group for group in directory.subtree() if not _rmdir(group)]
        if not left:
            return
        if not emptied or time.monotonic() >= deadline:
            pids = _processes(directory)
            shown = " ".join(str(pid) for pid in pids[:8]) or "none any more"
            raise Conflict(
                f"cgroup {directory.group} cannot be removed from {directory.path}: it is still in"
                f" use (processes: {shown})"
            )
        # The last process has ended but is not yet unlinked from its group: the kernel does that
        # after it has told us, and offers nothing to wait on.
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _rmdir(directory: Directory) -> bool:
    try:
        os.rmdir(directory.path)
    except OSError as error:
        if error.errno == ENOENT:
            return True
        if error.errno in (EBUSY, ENOTEMPTY):
            return False
        raise KernelError("rmdir", error.errno or 0, directory.path) from None
    return True


def enter_by(doors: Sequence[int]) -> None:
    """As ``Group.enter``, for a process that no longer sees the host's files: by what the group's
    ``doors`` gave, which is closed."""
    try:
        for door in doors:
            os.write(door, b"0")
    except OSError as error:
        raise KernelError("write", error.errno or 0, "tasks of the cgroup to enter") from None
    finally:
        for door in doors:
            os.close(door)
