"""Restart policies: whether a container that ended is started again, and when.

Docker's rules. The delay before a start doubles from 100 ms to a minute, and begins anew after a
run of 10 s; a start by hand begins the count anew; an end that somebody asked for is final, until
somebody starts the container or, where the policy is ``always``, the daemon is started. A start
that fails is not tried again: a policy speaks of containers that ran.

The next start is a row's ``restarting`` and ``restart_at`` before it is a task here, so that a
daemon that is killed in between leaves it to the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from sampan.engine.container import advance, now
from sampan.engine.log import log
from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError

if TYPE_CHECKING:
    from sampan.engine.config import HostConfig, RestartPolicy
    from sampan.engine.container import ContainerRecord, State
    from sampan.engine.core import Engine
    from sampan.engine.live import Live

__all__ = ["Restarts", "after_daemon", "check_policy", "follow_up", "joined"]

FIRST_DELAY = 100_000_000
LONGEST_DELAY = 60_000_000_000
LONG_RUN = 10_000_000_000
"""A run of this many nanoseconds was no failure: the delay begins anew."""
AT_ONCE = 8
"""Starts of ours under way at one time."""
PATIENCE = 5.0
"""Seconds that a start waits for a container that is to go first."""

_POLICIES = ("no", "always", "on-failure", "unless-stopped")


def check_policy(policy: RestartPolicy, *, auto_remove: bool) -> None:
    """Raises InvalidArgument."""
    name, count = policy.name, policy.maximum_retry_count
    if name and name not in _POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if name == "on-failure" and count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if name and name != "on-failure" and count:
        also = " and cannot be negative" if count < 0 else ""
        raise InvalidArgument(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{also}"
        )
    if auto_remove and name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def follow_up(policy: RestartPolicy, state: State) -> int | None:
    """Nanoseconds from the end that ``state`` tells of to the next start, or None for no start."""
    name, most = policy.name, policy.maximum_retry_count
    if state.by_hand or name in ("", "no"):
        return None
    if name == "on-failure" and (state.exit_code == 0 or 0 < most <= state.restarts):
        return None
    if state.finished_at - state.started_at >= LONG_RUN or not state.delay:
        return FIRST_DELAY
    return min(state.delay * 2, LONGEST_DELAY)


def after_daemon(policy: RestartPolicy, state: State) -> bool:
    """Whether a container that had ended before is started with the daemon."""
    if state.status != "exited" or not state.started_at:
        return False
    return policy.name == "always" or (policy.name == "unless-stopped" and not state.by_hand)


def joined(host: HostConfig) -> list[str]:
    """The containers whose namespaces it joins, as they were named."""
    modes = (host.network_mode, host.ipc_mode, host.pid_mode)
    return [mode.partition(":")[2] for mode in modes if mode.startswith("container:")]


class Restarts:
    """The starts that are due in one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._open = asyncio.Event()

    def open(self) -> None:
        """Let starts happen: every container's state is known now."""
        self._open.set()

    def recur(self, record: ContainerRecord, **changes: object) -> ContainerRecord | None:
        """The record of a container whose end the policy answers, or None where it does not.

        ``changes`` are the state's at its end.
        """
        ended = record.with_state(**changes)
        delay = follow_up(record.host_config.restart_policy, ended.state)
        if delay is None:
            return None
        return advance(
            ended,
            "recur",
            restarts=ended.state.restarts + 1,
            delay=delay,
            restart_at=now() + delay,
        )

    def plan(self, live: Live) -> None:
        """Start a container whose row says ``restarting`` when its moment comes."""
        live.recurring = self._engine.spawn_task(self._again(live))

    def cancel(self, live: Live) -> bool:
        """Take a planned start back; False when there is none, or it is being done already."""
        if live.recurring is None or live.record.state.status != "restarting":
            return False
        self.withdraw(live)
        return True

    def withdraw(self, live: Live) -> None:
        """End a container that is between two runs, and is not being started: its start is planned
        only, or the caller holds its lock."""
        if live.recurring is not None:
            live.recurring.cancel()
            live.recurring = None
        live.record = advance(live.record, "cancel", by_hand=True, restart_at=0)
        self._engine.store.put_state(live.record, ending=True)
        live.settle_ends()
        live.settle_starts()

    async def _again(self, live: Live) -> None:
        left = live.record.state.restart_at - now()
        # Whatever the clock says now, it was no longer than this when it was planned.
        await asyncio.sleep(max(0, min(left, LONGEST_DELAY)) / 1e9)
        await self._open.wait()
        await self._wait_for_others(live)
        async with self._slots:
            live.recurring = None  # from here on it is a start like any other
            try:
                await self._engine.containers.start_again(live)
            except (SampanError, OSError, sqlite3.Error) as error:
                log.error("a restart failed", container=live.id, error=error)

    async def _wait_for_others(self, live: Live) -> None:
        """Let those whose namespaces it joins, or to whom it is linked, go first, where they are
        due as well."""
        linked = [link.container for link in live.record.links]
        for reference in (*joined(live.record.host_config), *linked):
            try:
                other = self._engine.registry.find(reference)
            except (NotFound, InvalidArgument, Conflict):
                continue  # the start says so
            if other.record.state.status == "restarting":
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                other.starts.append(future)
                await asyncio.wait((future,), timeout=PATIENCE)
