"""Killing what is ours at random moments of a load (``kill_load``).

A monitor's death dooms its container, which the ledger is told of before it is killed. One of the
pair that waits for the next request may just be getting it: its death excuses one container, which
one cannot be known. The daemon and the zygote excuse nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.kernel.processes import pidfd_open, pidfd_send_signal, start_time
from tests.daemon.leftovers import is_resolver

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.daemon.kill_load import Ledger, Load
    from tests.daemon_fixture import Daemon

__all__ = ["Killer", "kill_monitor"]


def kill_monitor(daemon: Daemon, ledger: Ledger, container: str) -> None:
    """Kill the monitor of a container that runs, at whatever moment of its life that is."""
    try:
        text = (daemon.exec_root / "containers" / container / "monitor.json").read_text()
    except OSError:
        return  # it has just ended
    record = json.loads(text)
    _kill(int(record["pid"]), ledger, container, int(record["start_time"]))


def _kill(pid: int, ledger: Ledger, container: str, started: int = 0) -> None:
    try:
        pidfd = pidfd_open(pid)
    except SampanError:
        return
    try:
        if Path(f"/proc/{pid}/comm").read_text() == "sampan-monitor\n" and (
            not started or start_time(pid) == started
        ):
            ledger.doom(container)
            pidfd_send_signal(pidfd, signal.SIGKILL)
    except (OSError, SampanError):
        return
    finally:
        os.close(pidfd)


class Killer:
    """Strikes at a random thing of ours, and starts the daemon again where it was that."""

    DAEMON = ("daemon",)
    ALL = ("daemon", "daemon", "zygote", "monitor", "monitor", "monitor", "waiting")

    def __init__(self, load: Load, chance: random.Random, what: tuple[str, ...] = DAEMON) -> None:
        self._load = load
        self._daemon = load.daemon
        self._chance = chance
        self._what = what
        self.strikes: dict[str, int] = {}
        self.ready: list[float] = []
        """Seconds from each start of a daemon to its being ready."""

    def strike(self) -> None:
        what = self._chance.choice(self._what)
        self.strikes[what] = self.strikes.get(what, 0) + 1
        strike: Callable[[], None] = getattr(self, f"strike_{what}")
        strike()
        self._load.check()

    def strike_daemon(self) -> None:
        daemon, chance = self._daemon, self._chance
        daemon.kill()
        if chance.random() < 0.25:
            # While it takes up what its predecessor left.
            daemon.spawn()
            time.sleep(chance.uniform(0.05, 0.3))
            daemon.kill()
            self.strikes["daemon that starts"] = self.strikes.get("daemon that starts", 0) + 1
        time.sleep(chance.choice((0.0, 0.0, 0.05, 0.2)))
        begin = time.monotonic()
        daemon.start()
        self.ready.append(time.monotonic() - begin)

    def strike_zygote(self) -> None:
        for child in self._daemon.zygotes():
            if not is_resolver(child):
                os.kill(child, signal.SIGKILL)

    def strike_monitor(self) -> None:
        spared = {ticker.id for ticker in self._load.tickers}
        try:
            found = sorted(set(os.listdir(self._daemon.exec_root / "containers")) - spared)
        except OSError:
            return
        if found:
            kill_monitor(self._daemon, self._load.ledger, self._chance.choice(found))

    def strike_waiting(self) -> None:
        """The monitor or the maker that waits for the next request, or has just got it."""
        zygotes = self._daemon.zygotes()
        pairs = [
            pid
            for monitor in (child for zygote in zygotes for child in _children(zygote))
            if (makers := _children(monitor))
            for pid in (monitor, *makers)
            if self._nobodys(monitor)
        ]
        if pairs:
            _kill(self._chance.choice(pairs), self._load.ledger, "")

    def _nobodys(self, monitor: int) -> bool:
        """Whether it is the monitor of no container yet."""
        for place in (self._daemon.exec_root / "containers").glob("*/monitor.json"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(place.read_text())["pid"] == monitor:
                    return False
        return True


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
