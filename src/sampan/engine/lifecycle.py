"""A container's life: its start and its end; what is asked of it in between is ``control``.

What the monitor reports is applied the moment it is read, in one piece: state, row, waiters,
removal. Requests only ask and wait. So there is no moment at which a container has ended and its
record says otherwise, whoever asks.
"""

from __future__ import annotations

import asyncio
import os
import select
import sqlite3
from typing import TYPE_CHECKING, Any

from sampan.engine.assembly import assemble
from sampan.engine.container import advance, now
from sampan.engine.log import log
from sampan.engine.monitors import Monitor, read_exit, rebuilt
from sampan.errors import (
    Conflict,
    NotModified,
    SampanError,
    Unavailable,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Attachment, Live, WaitResult

__all__ = ["DIED", "Lifecycle"]

START_DEADLINE = 120.0
"""Seconds from spawn to started: hooks of the user may run in between."""
HANDOVERS = 4
"""How many zygotes may die on a request before it is what they die of."""
DIED = "the container's monitor died; its processes were killed"


class NotBegunError(Unavailable):
    """A spawn request was lost before anything was done for it."""


class Lifecycle:
    """Start, wait and attach, and what monitors report, for one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- start -------------------------------------------------------------------------------

    async def start(self, reference: str) -> None:
        """Start and wait until the command runs.

        Raises NotModified when it runs already, CommandNotFound, CommandNotExecutable, Conflict.
        """
        live = self._engine.registry.find(reference)
        async with live.lock:
            state = live.record.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.up:
                raise NotModified(f"container {live.record.name} is running already")
            if live.removing or live.id not in self._engine.registry:
                raise Conflict("container is marked for removal and cannot be started")
            # Whoever starts it wants it to run, and begins the restart policy's count anew.
            live.record = live.record.with_state(by_hand=False, restarts=0, delay=0, restart_at=0)
            await self._try(live)

    async def start_again(self, live: Live) -> None:
        """The restart policy's start. Raises what ``start`` does."""
        async with live.lock:
            # Who removes it waits for this, or is told that it is between two runs.
            if live.record.state.status == "restarting":
                await self._try(live)

    async def _try(self, live: Live) -> None:
        try:
            await self._launch(live)
        except SampanError as error:
            self._failed(live, error)
            raise
        except (OSError, sqlite3.Error) as error:
            # A full disk, most of all. What the start had got by then is given back all the same.
            self._failed(live, Unavailable(f"container {live.record.name} cannot start: {error}"))
            raise

    async def _launch(self, live: Live) -> None:
        message = await assemble(self._engine, live)
        for attempt in range(1, HANDOVERS + 1):
            try:
                await self._spawn(live, message)
                break
            except NotBegunError:
                # The zygote was dead, and the request still in its socket: the next one gets it.
                if attempt == HANDOVERS:
                    raise
        live.drop_parked()

    async def _spawn(self, live: Live, message: Mapping[str, object]) -> None:
        live.begun = asyncio.get_running_loop().create_future()
        try:
            self.connect(live, self._engine.zygote.spawn(message))
            self._pass_parked(live)
            try:
                async with asyncio.timeout(START_DEADLINE):
                    await live.begun
            except TimeoutError as error:
                await self._destroy(live)
                raise Unavailable(
                    f"container {live.record.name} did not start within {START_DEADLINE:.0f} s"
                ) from error
        finally:
            live.begun = None

    def connect(self, live: Live, sock: socket.socket) -> Monitor:
        """Take up a connection with the container's monitor."""

        def lost() -> None:
            self._lost(live, monitor)

        monitor = Monitor(sock, lambda event: self._event(live, event), lost)
        live.monitor = monitor
        return monitor

    def _pass_parked(self, live: Live) -> None:
        monitor = live.monitor
        if monitor is None or not live.parked:
            return
        for attachment in live.parked:
            self._pass(monitor, attachment).add_done_callback(_observed)
        if not self._engine.networking.resolving.uses(live):
            monitor.request("start").add_done_callback(_observed)

    async def _start_named(self, live: Live, monitor: Monitor) -> None:
        """Of a container that is made: its names are answered before its command asks."""
        try:
            await self._engine.networking.resolving.serve(live)
            problem = None
        except SampanError as error:
            problem = error
        if live.monitor is not monitor:
            return  # It has ended meanwhile, and another start may be under way.
        if problem is None:
            monitor.request("start").add_done_callback(_observed)
            return
        live.monitor = None  # What it has to say of its end is not why.
        monitor.close()
        await self._destroy(live)
        self._resolve(live, problem)

    def _pass(
        self, monitor: Monitor, attachment: Attachment, *, hold: bool = False
    ) -> asyncio.Future[dict[str, Any]]:
        # A monitor of an earlier version does not know this word.
        held: dict[str, Any] = {"hold": True} if hold else {}
        return monitor.request(
            "attach",
            (attachment.fd,),
            stdin=attachment.stdin,
            stdout=attachment.stdout,
            stderr=attachment.stderr,
            multiplex=attachment.multiplex,
            detach_keys=list(attachment.detach_keys),
            **held,
        )

    def _failed(self, live: Live, error: SampanError) -> None:
        """The container never ran: its record says why, and nothing of the attempt is left."""
        if live.monitor is not None:
            live.monitor.close()
            live.monitor = None
        live.drop_parked()
        code = error.exit_code if error.exit_code in (126, 127) else 128
        live.record = advance(
            live.record,
            "fail",
            pid=0,
            start_time=0,
            exit_code=code,
            error=error.message,
            finished_at=now(),
        )
        self._save(live.record)
        self._engine.clear_run_dir(live.id)
        self._engine.release_shm(live.record)
        self._engine.volumes.release(live.record)
        self._engine.networking.release(live)
        live.settle_starts()
        live.settle_ends()
        if live.record.host_config.auto_remove:
            self._engine.forget(live)

    # -- what monitors report -----------------------------------------------------------------

    def _event(self, live: Live, event: dict[str, Any]) -> None:
        name = event.get("event")
        if name == "created":
            live.record = live.record.with_state(pid=event["pid"], start_time=event["start_time"])
            if live.monitor is not None and self._engine.networking.resolving.uses(live):
                self._engine.spawn_task(self._start_named(live, live.monitor))
        elif name == "started":
            self.started(live, event)
        elif name == "exit":
            self.ended(live, event)
        elif name == "failed":
            # Its last word, and its end is no news then.
            if live.monitor is not None:
                live.monitor.close()
                live.monitor = None
            self._resolve(live, rebuilt(event.get("error") or {}))
        elif name == "oom":
            self._engine.publish(live.record, "oom")
        elif name == "log-loss":
            log.warn("a container's log loses lines", container=live.id, reason=event["reason"])
        elif name == "detach":
            self._engine.execs.detached(live, event["exec_id"])
        elif name == "exec-exit":
            self._engine.execs.ended(live, str(event["exec_id"]), int(event["code"]))

    def started(self, live: Live, event: dict[str, Any]) -> None:
        """The command runs."""
        live.record = advance(
            live.record,
            "start",
            started_at=int(event["at"] * 1e9),
            exit_code=0,
            error="",
            oom_killed=False,
            restart_at=0,
            health=self._engine.checks.fresh(live),
        )
        self._save(live.record)
        self.tell_start(live)
        self._engine.checks.begin(live)
        live.settle_starts()
        self._resolve(live, None)

    def _save(self, record: ContainerRecord) -> bool:
        """Write what a monitor reported. It has happened, so a full disk does not undo it."""
        try:
            self._engine.store.put_state(record, ending=record.state.by_hand)
        except sqlite3.Error as error:
            log.error("a state cannot be written", container=record.id, error=error)
            return False
        return True

    async def await_start(self, live: Live) -> None:
        """See a start to its end that an earlier daemon asked for."""
        async with live.lock:
            if live.monitor is None or live.record.state.running:
                return
            live.begun = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(START_DEADLINE):
                    await live.begun
            except TimeoutError:
                await self._destroy(live)
            except SampanError as error:
                self._failed(live, error)
            finally:
                live.begun = None

    def _resolve(self, live: Live, error: SampanError | None) -> None:
        if live.begun is None or live.begun.done():
            return
        if error is None:
            live.begun.set_result(None)
        else:
            live.begun.set_exception(error)

    def ended(self, live: Live, event: dict[str, Any], error: str = "") -> None:
        """The container is over: all of what follows from it, at once."""
        if live.monitor is not None:
            live.monitor.close(Conflict(f"container {live.id} is not running"))
            live.monitor = None
        if not live.record.state.running:
            # It ended between "created" and "started".
            self._resolve(live, Unavailable(error or "the container ended before it started"))
            return
        changes = {
            "pid": 0,
            "start_time": 0,
            "exit_code": int(event["code"]),
            "oom_killed": bool(event.get("oom")),
            "finished_at": int(event["at"] * 1e9),
            "error": error,
            "health": self._engine.checks.cease(live),
        }
        again = None if live.removing else self._engine.restarts.recur(live.record, **changes)
        live.record = again or advance(live.record, "exit", **changes)
        saved = self._save(live.record)
        self._engine.release_shm(live.record)
        self._engine.volumes.release(live.record)
        self._engine.networking.release(live)
        self._engine.execs.all_ended(live)
        self.tell_end(live)
        # A row that cannot be written now is made up for at the next start, from exit.json.
        if saved:
            self._engine.clear_run_dir(live.id)
        live.settle_ends()
        if again is not None:
            self._engine.restarts.plan(live)
        elif live.record.host_config.auto_remove and not live.kept:
            self._engine.forget(live)

    def tell_start(self, live: Live) -> None:
        """The events of a container's start, which the row has."""
        self._engine.networking.publish(live.record, "connect")
        self._engine.publish_marked(live.record, "start", live.record.state.started_at, {})

    def tell_end(self, live: Live) -> None:
        """The events of a container's end, which the row has."""
        state = live.record.state
        lasted = max(0, state.finished_at - state.started_at) // 1_000_000_000
        attributes = {"exitCode": str(state.exit_code), "execDuration": str(lasted)}
        self._engine.publish_marked(live.record, "die", state.finished_at, attributes)
        self._engine.networking.publish(live.record, "disconnect")

    def _lost(self, live: Live, monitor: Monitor) -> None:
        """A connection ended without an exit: the monitor is dead."""
        if live.monitor is not monitor:
            return
        live.monitor = None
        if live.settling:
            return  # Recovery reads what it left.
        log.error("the monitor of a container died", container=live.id)
        self._engine.spawn_task(self._after_monitor(live))

    async def _after_monitor(self, live: Live) -> None:
        if live.monitor is not None:
            return  # Whoever had asked it something has settled that, and another is at work.
        directory = self._engine.run_dir(live.id)
        if (event := read_exit(directory)) is not None:
            self.ended(live, event)  # It died behind its last word.
            return
        # A monitor's first act is to make its directory.
        did_begin = os.path.exists(directory)
        await self._destroy(live)
        if live.begun is not None:
            self._resolve(live, Unavailable(DIED) if did_begin else NotBegunError(DIED))
        elif live.record.state.running:
            self.ended(live, {"code": 137, "at": now() / 1e9}, DIED)

    async def _destroy(self, live: Live) -> None:
        """Kill what is in the container's cgroup; nothing of its life is left."""
        await self._engine.kill_group(live.id, self._engine.cgroup_of(live.record))
        self._engine.clear_run_dir(live.id)

    # -- requests ------------------------------------------------------------------------------

    def running(self, reference: str) -> tuple[Live, Monitor]:
        """The container and its monitor. Raises Conflict when it is not running."""
        live = self._engine.registry.find(reference)
        if not live.record.state.running:
            if live.record.state.up:
                raise Conflict(
                    f"Container {live.id} is restarting, wait until the container is running"
                )
            raise Conflict(f"container {live.id} is not running")
        if live.monitor is None:
            raise Unavailable(f"the monitor of container {live.id} is gone")
        return live, live.monitor

    async def wait(
        self, reference: str, condition: str = "not-running"
    ) -> asyncio.Future[WaitResult]:
        """A future of the end the condition names. Raises NotFound, InvalidArgument."""
        live = self._engine.registry.find(reference)
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if condition == "removed":
            live.removals.append(future)
        elif condition == "next-exit" or live.record.state.up:
            live.ends.append(future)
        else:
            future.set_result(live.result())
        return future

    async def attach(
        self, live: Live, attachment: Attachment, *, hold: bool = False
    ) -> dict[str, Any]:
        """Give a client's stream to the container; before its start, keep it until then.

        The monitor's reply, {} when it was kept. ``hold``: the container's output is kept back
        until the monitor is asked to ``release`` it.
        """
        if live.monitor is not None:
            # It runs, or is being made: then the monitor answers as soon as it is.
            reply = self._pass(live.monitor, attachment, hold=hold)
            attachment.close()  # the message holds a copy
            answer = await reply
            self._engine.publish(live.record, "attach")
            return answer
        for parked in [one for one in live.parked if _hung_up(one.fd)]:
            parked.close()
            live.parked.remove(parked)
        live.parked.append(attachment)
        self._engine.publish(live.record, "attach")
        return {}


def _hung_up(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0))


def _observed(reply: asyncio.Future[dict[str, Any]]) -> None:
    """The failure of a request nobody waits for is the start's, which reports it itself."""
    if not reply.cancelled():
        reply.exception()
