"""How a monitor rests that has been awake: an heirloom for the one that sleeps on.

To be awake is to write to memory that was shared, two megabytes of it. So once a container runs,
the monitor that sleeps (``asleep``) does not wake itself: it forks one that is awake, shares its
descriptor table with it, stays the parent of the container's init, and waits for either to end.

    the one that sleeps to the one that is awake      and back
    init's wait status, when it has ended             the poll set, and exit status RESTED
                                                      or 0: the container has ended, all is done

Who is awake rests when nothing was to be done for ``PATIENCE`` seconds. It writes what it knows
into the report, closes what it opened for itself (the table is shared: its end closes nothing), and
ends. If it dies of anything else the one that sleeps ends too, and the container with it, as with
any monitor that dies; if that one dies, so does the one that is awake (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import marshal
import os
import select
import struct
from typing import TYPE_CHECKING, Any

from sampan.runtime.supervisor.handover import CONTROL, REPORT, SLOTS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["LENGTH", "PATIENCE", "PLACE", "RESTED", "WATCHED", "Keeper", "places"]

PATIENCE = 10.0
RESTED = 3
LENGTH = struct.Struct("Q")
PLACE = struct.Struct("ii")  # of a poll set: struct pollfd
WATCHED = ("pidfd", "listener", "stdout", "stderr", "terminal", "oom")
_STATUS = struct.Struct("i")
_STANDARD = range(3)


def places(made: Mapping[str, Any], fds: Mapping[str, int]) -> list[int]:
    """What a monitor that sleeps waits for, but for its maker, which has the first place.

    The second is for the daemon, whose end is no work for a monitor: where it is, it is watched as
    all others are. The third is init's.
    """
    watched = [fds[name] for name in WATCHED if name in fds]
    return [-1, *watched, CONTROL] if made["bound"] else [CONTROL, *watched]


class Keeper:
    """The monitor that sleeps, to the one that is awake: its ends of their connection."""

    __slots__ = ("_ours", "_theirs")

    def __init__(self, theirs: int, ours: int) -> None:
        self._theirs = theirs
        self._ours = ours

    def fileno(self) -> int:
        """Readable when init has ended."""
        return self._ours

    def init_status(self) -> int:
        """Init's wait status. Blocks until there is one."""
        status: int = _STATUS.unpack(os.read(self._ours, _STATUS.size))[0]
        return status

    def leave(
        self, made: Mapping[str, Any], fds: Mapping[str, int], connections: Collection[int]
    ) -> bool:
        """Hand over: what is known of the container, its descriptors by name, and the daemons'.

        False when these are more than somebody who sleeps can watch, and nothing was done.
        """
        others = [fd for fd in connections if fd != CONTROL]
        control = CONTROL in connections
        watched = [fd if control or fd != CONTROL else -1 for fd in places(made, fds)] + others
        if len(watched) >= SLOTS:
            return False
        _rewrite({**made, "fds": fds, "control": control, "connections": others})
        kept = {*_STANDARD, REPORT, self._ours, self._theirs, *fds.values(), *others}
        if control:
            kept.add(CONTROL)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                try:
                    os.close(int(name))
                except OSError:
                    continue  # What listed them.
        awaited = {fds["oom"]: made["oom_events"]} if "oom" in fds else {}
        os.write(
            self._ours,
            b"".join(PLACE.pack(fd, awaited.get(fd, select.POLLIN)) for fd in (-1, *watched)),
        )
        return True


def _rewrite(made: dict[str, Any]) -> None:
    """Put ``made`` into the report, before the request."""
    start = LENGTH.size + LENGTH.unpack(os.pread(REPORT, LENGTH.size, 0))[0]
    body = os.pread(REPORT, os.fstat(REPORT).st_size - start, start)
    text = marshal.dumps(made)
    content = LENGTH.pack(len(text)) + text + body
    os.ftruncate(REPORT, len(content))
    os.pwrite(REPORT, content, 0)
