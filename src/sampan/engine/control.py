"""What is asked of a running container: signals, stop, restart, freeze, resize.

Requests only ask and wait; the end they wait for is applied where the monitor's report is read
(``lifecycle``). Who asks for a container's end turns its restart policy off before the signal goes
out, so that no order of events starts it again.
"""

from __future__ import annotations

import asyncio
import signal as signals
from typing import TYPE_CHECKING

from sampan.engine.container import advance
from sampan.errors import (
    Conflict,
    InvalidArgument,
    KernelError,
    NotFound,
    NotModified,
    SampanError,
    Unavailable,
)
from sampan.kernel.processes import parse_signal

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.engine.live import Live, WaitResult
    from sampan.engine.monitors import Monitor

__all__ = ["STOP_TIMEOUT", "Control", "read_signal"]

KILL_DEADLINE = 15.0
"""Seconds from SIGKILL to the end; longer means a process that hangs in the kernel."""
STOP_TIMEOUT = 10
SIGKILL = 9

# Signals that ask for an end, whatever the container's own stop signal is. Docker takes any signal
# for one where the container has no StopSignal; then a reload (HUP) turns the restart policy off.
_ENDING = {signals.SIGKILL, signals.SIGTERM, signals.SIGINT, signals.SIGQUIT}


def read_signal(text: str) -> int:
    try:
        return parse_signal(text)
    except SampanError as error:
        raise InvalidArgument(f"Invalid signal: {text}") from error


class Control:
    """Requests to the running containers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- signals -------------------------------------------------------------------------------

    async def kill(self, reference: str, signal: str = "") -> None:
        """Send a signal to the container's first process. Raises Conflict, InvalidArgument."""
        try:
            live = self._engine.registry.find(reference)
        except NotFound as error:
            raise NotFound(f"cannot kill container: {reference}: {error.message}") from error
        number = read_signal(signal or "SIGKILL")
        if not live.record.state.up:
            raise Conflict(
                f"cannot kill container: {reference}: container {live.id} is not running"
            )
        config = live.record.config
        ends = number in _ENDING or (
            config.stop_signal != "" and number == read_signal(config.stop_signal)
        )
        if ends and await self._between_runs(live):
            return
        if not live.record.state.running:
            return  # between two runs there is no process to signal
        try:
            _, monitor = self._engine.containers.running(live.id)
            await self._send(live, monitor, number, ends)
        except (Conflict, Unavailable) as error:
            # Its process is dead, and its monitor about to tell; or that died, which kills it.
            if isinstance(error, Unavailable) and live.monitor is not None:
                raise
            if number != SIGKILL:
                await self._end_of(live, KILL_DEADLINE)
                raise Conflict(
                    f"cannot kill container: {reference}: container {live.id} is not running"
                ) from error
        if number == SIGKILL:
            await self._end_of(live, KILL_DEADLINE)

    async def _send(self, live: Live, monitor: Monitor, number: int, ends: bool) -> None:
        if ends:
            self._stopped_by_hand(live)
        await monitor.call(
            "kill",
            signal=number,
            then=lambda: self._engine.publish(live.record, "kill", signal=str(number)),
        )
        if ends and number != SIGKILL and live.record.state.status == "paused":
            # A frozen process takes no signal but this one: who ends it does not want it frozen.
            try:
                await self.unpause(live.id)
            except Conflict:
                if live.record.state.status == "paused":
                    raise  # else somebody was faster, or it has ended

    def _stopped_by_hand(self, live: Live) -> None:
        if live.record.state.by_hand:
            return
        live.record = live.record.with_state(by_hand=True)
        if live.record.host_config.restart_policy.name not in ("", "no"):
            # Else it is written with the end: nothing is lost if we die before that.
            self._engine.store.put_state(live.record, ending=True)

    async def _between_runs(self, live: Live) -> bool:
        """Take a planned start back; True when there was one: the container is ended now."""
        if live.record.state.status != "restarting":
            return False
        if self._engine.restarts.cancel(live):
            return True
        async with live.lock:
            # It was being started: now it runs, or failed to, or is between two runs once more.
            if live.record.state.status != "restarting":
                return False
            self._engine.restarts.withdraw(live)
            return True

    async def _end_of(self, live: Live, seconds: float | None) -> bool:
        """Wait for the end; False when it did not come in time."""
        if not live.record.state.running:
            return True
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        live.ends.append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        return True

    async def stop(self, reference: str, seconds: int | None = None, signal: str = "") -> None:
        """Ask the command to end, then kill it. A negative ``seconds`` waits for ever.

        Raises NotModified when it does not run.
        """
        live = self._engine.registry.find(reference)
        config = live.record.config
        number = read_signal(signal or config.stop_signal or "SIGTERM")
        if not live.record.state.up:
            raise NotModified(f"container {live.record.name} is stopped already")
        if not await self._between_runs(live):
            if seconds is None:
                seconds = STOP_TIMEOUT if config.stop_timeout is None else config.stop_timeout
            await self._stop(live, seconds, number)
        self._engine.publish(live.record, "stop")

    async def _stop(self, live: Live, seconds: int, number: int) -> None:
        if not live.record.state.running:
            return  # the start that was under way has failed
        try:
            _, monitor = self._engine.containers.running(live.id)
            await self._send(live, monitor, number, True)
            if not await self._end_of(live, seconds if seconds >= 0 else None):
                await self.kill(live.id, "SIGKILL")
        except (Conflict, Unavailable):
            # It ended in between.
            if not await self._end_of(live, KILL_DEADLINE):
                raise

    async def restart(self, reference: str, seconds: int | None = None, signal: str = "") -> None:
        """Stop it if it runs, and start it; ``--rm`` does not take it away in between.

        Raises what ``stop`` and ``start`` raise.
        """
        live = self._engine.registry.find(reference)
        live.kept = True
        try:
            if live.record.state.up:
                await self.stop(live.id, seconds, signal)
        except NotModified:
            pass  # it ended in between
        finally:
            live.kept = False
        try:
            await self._engine.containers.start(live.id)
        except NotModified:
            pass  # somebody else was faster
        except KernelError:
            raise
        except SampanError as error:
            error.args = (f"Cannot restart container {reference}: {error.message}",)
            raise
        self._engine.publish(live.record, "restart")

    # -- freezing ------------------------------------------------------------------------------

    async def pause(self, reference: str, *, committing: bool = False) -> None:
        """Freeze every process. Raises Conflict.

        ``committing``: for a commit, and so no longer than there is a daemon that commits. That is
        in the row before the container is frozen.
        """
        live = self._engine.registry.find(reference)
        async with live.freezing:
            if live.record.state.status == "paused":
                raise Conflict(f"container {live.id} is already paused")
            _, monitor = self._engine.containers.running(live.id)
            self._for_commit(live, committing)
            try:
                await monitor.call("pause")
            except SampanError:
                self._for_commit(live, False)
                raise
            self._change(live, "pause")

    def _for_commit(self, live: Live, committing: bool) -> None:
        if live.record.state.committing != committing:
            live.record = live.record.with_state(committing=committing)
            self._engine.store.put_state(live.record)

    async def unpause(self, reference: str) -> None:
        """Thaw. Raises Conflict."""
        live = self._engine.registry.find(reference)
        async with live.freezing:
            if live.record.state.status != "paused":
                raise Conflict(f"Container {live.id} is not paused")
            _, monitor = self._engine.containers.running(live.id)
            await monitor.call("resume")
            self._change(live, "resume")

    def _change(self, live: Live, event: str) -> None:
        if live.record.state.running:
            checks = self._engine.checks
            # Not told by an event: a frozen container cannot be asked.
            health = checks.cease(live) if event == "pause" else live.record.state.health
            committing = live.record.state.committing and event == "pause"
            live.record = advance(live.record, event, health=health, committing=committing)
            if event == "resume":
                checks.begin(live)
            self._engine.store.put_state(live.record, ending=live.record.state.by_hand)
            self._engine.publish(live.record, {"resume": "unpause"}.get(event, event))

    async def resize(self, reference: str, rows: int, columns: int) -> None:
        """Set the size of the container's terminal."""
        live, monitor = self._engine.containers.running(reference)
        if not live.record.config.tty:
            raise Conflict(f"container {live.id} has no terminal")
        await monitor.call("resize", rows=rows, cols=columns)
        self._engine.publish(live.record, "resize", height=str(rows), width=str(columns))
