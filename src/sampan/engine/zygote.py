"""Keeping a zygote: the process monitors are forked from is started again when it ends.

Containers do not depend on it once they are made. A request that could not be handed over was
provably not begun and goes to the next zygote; so does one whose connection ends before the run
directory, a monitor's first act, was made (``lifecycle``). What becomes of any other is said on the
monitor's connection, its end included. One that ends as soon as it was started cannot work
here: it is not started again before somebody needs it, so that no loop of starts runs unseen.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sampan.engine.log import log
from sampan.errors import Unavailable
from sampan.runtime.supervisor.client import start_zygote

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sampan.runtime.supervisor.client import Zygote

__all__ = ["ZygoteKeeper"]

_SHORT_LIFE = 2.0
"""Seconds; loading its modules takes a tenth of one."""
_ATTEMPTS = 3
"""How many zygotes may be dead before one takes a request; the next one's death is told."""


class ZygoteKeeper:
    """Owns one zygote at a time. ``watch`` once there is an event loop, ``close`` at the end."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._started = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int:
        return self._zygote.pid

    def watch(self) -> None:
        """Start another when this one ends."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._zygote.pidfd, self._ended)

    def _ended(self) -> None:
        age = time.monotonic() - self._started
        if age < _SHORT_LIFE:
            log.error("the zygote ended at once; see what it said", pid=self._zygote.pid)
            self._unwatch()
            return
        log.warn("the zygote ended; starting another", pid=self._zygote.pid)
        self._replace()

    def _replace(self) -> None:
        self._unwatch()
        old, self._zygote = self._zygote, start_zygote()
        self._started = time.monotonic()
        old.close()
        if self._loop is not None:
            self._loop.add_reader(self._zygote.pidfd, self._ended)

    def _unwatch(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._zygote.pidfd)

    def spawn(self, request: Mapping[str, object]) -> socket.socket:
        """Ask for a monitor; our end of its connection. Raises Unavailable, KernelError."""
        for _ in range(_ATTEMPTS):
            try:
                return self._zygote.spawn(request)
            except Unavailable:
                self._replace()
        return self._zygote.spawn(request)

    def close(self) -> None:
        """Let it end; monitors live on."""
        self._unwatch()
        self._zygote.close()
