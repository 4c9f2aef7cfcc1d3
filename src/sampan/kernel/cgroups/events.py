"""Waiting for what happens in a group, by events and never by the clock alone.

* Emptiness: v2's cgroup.events is pollable (``POLLPRI`` when a value in it changes). v1 tells
  nobody, so there every process's own end is waited for, by pidfd_open(2) and poll(2).
* Out of memory: v1 signals an eventfd(2) registered through cgroup.event_control
  (Documentation/admin-guide/cgroup-v1/memory.rst, section 9); v2's memory.events is pollable as
  cgroup.events is. inotify(7) would tell of it too, but a user has 128 instances of that
  (fs.inotify.max_user_instances), and there may be more containers than that.
"""

from __future__ import annotations

import os
import select
import time
from errno import EINVAL, ENODEV, ENOENT, ESPIPE, ESRCH
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel.cgroups.files import flat
from sampan.kernel.syscalls import syscall

if TYPE_CHECKING:
    from sampan.kernel.cgroups.files import Directory

__all__ = [
    "drain_oom",
    "oom_kills_v1",
    "wait_for_event",
    "wait_until_gone",
    "watch_oom_v1",
    "watch_oom_v2",
]

_EFD_CLOEXEC = os.O_CLOEXEC
_EFD_NONBLOCK = os.O_NONBLOCK
_POLL_ERROR = select.POLLERR | select.POLLPRI


def wait_for_event(directory: Directory, key: str, value: int, deadline: float) -> bool:
    """Wait until ``key`` of cgroup.events is ``value``; False when the deadline passed.

    ``deadline`` is of time.monotonic(). A group that is gone is empty and not frozen: True.
    """
    try:
        fd = directory.open("cgroup.events")
    except KernelError as error:
        if error.errno == ENOENT:
            return True
        raise
    try:
        poll = select.poll()
        poll.register(fd, _POLL_ERROR)
        while True:
            try:
                # Reading arms the event: what changes from here on wakes the poll below.
                text = os.pread(fd, 4096, 0)
            except OSError:  # ENODEV: removed while we waited
                return True
            if flat(text.decode()).get(key) == value:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    finally:
        os.close(fd)


def wait_until_gone(pids: list[int], deadline: float) -> bool:
    """Wait until every one of these processes has ended; False when the deadline passed."""
    watched: list[int] = []
    poll = select.poll()
    try:
        for pid in pids:
            try:
                fd = syscall("pidfd_open", pid, 0, target=str(pid))
            except KernelError as error:
                # EINVAL: the thread group's leader has been reaped already.
                if error.errno in (ESRCH, EINVAL):
                    continue
                raise
            watched.append(fd)
            poll.register(fd, select.POLLIN)
        running = set(watched)
        while running:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for fd, _ in poll.poll(left * 1000):
                running.discard(fd)
                poll.unregister(fd)
        return True
    finally:
        for fd in watched:
            os.close(fd)


def watch_oom_v1(directory: Directory) -> int:
    """An eventfd that is signalled at each OOM in the group, and when the group is removed."""
    control = directory.open("memory.oom_control")
    try:
        event = _eventfd()
        try:
            directory.write("cgroup.event_control", f"{event} {control}")
        except KernelError:
            os.close(event)
            raise
        return event
    finally:
        os.close(control)


def _eventfd() -> int:
    # glibc's wrapper only; the flags are those of open(2).
    return os.eventfd(0, _EFD_CLOEXEC | _EFD_NONBLOCK)


def watch_oom_v2(directory: Directory) -> int:
    """A descriptor of memory.events, which polls ``POLLPRI`` when that has changed."""
    fd = directory.open("memory.events")
    drain_oom(fd)  # Reading arms the event.
    return fd


def drain_oom(fd: int) -> bool:
    """Take note of what such a descriptor told of; False when its group is gone."""
    try:
        os.pread(fd, 4096, 0)
    except OSError as error:
        if error.errno == ENODEV:
            return False
        if error.errno != ESPIPE:
            raise
        try:
            os.read(fd, 8)  # an eventfd
        except BlockingIOError:
            pass
    return True


def oom_kills_v1(directory: Directory) -> int:
    """Processes killed for memory in the group and below: v1 counts each group by itself."""
    return sum(
        flat(group.find("memory.oom_control")).get("oom_kill", 0) for group in directory.subtree()
    )
