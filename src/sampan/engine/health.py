"""Health checks: whether a container does what it is for, asked of itself again and again.

A check is an exec through the container's monitor, whose output comes back on a socket. Between
two checks a container costs this process one timer. What is known (status, failures in a row, the
last five results) is in the container's state; it is written down when the status changes, so that
the next daemon knows it, and goes on checking.

The rules are Docker's: the first check comes an interval after the start; while the container
starts (``StartPeriod``) failures do not count and ``StartInterval`` is the interval; ``Retries``
failures in a row make it unhealthy, one success healthy. A container that does not run, or is
frozen, is shown as unhealthy, and no event says so.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.beside import beside
from sampan.engine.container import Check, Health, now
from sampan.engine.live import Attachment, Exec
from sampan.engine.log import log
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from sampan.engine.config import ContainerConfig, Healthcheck
    from sampan.engine.core import Engine
    from sampan.engine.live import Live

__all__ = ["Checks", "check_health", "command", "go_duration", "judge", "pause_before"]

_LEAST = 1_000_000
_INTERVAL = 30_000_000_000
_START_INTERVAL = 5_000_000_000
_TIMEOUT = 30_000_000_000
_RETRIES = 3
_LONGEST = 365 * 86400.0
"""Seconds a timer is set for at most."""
_OUTPUT = 4096
_KEPT = 5
_START_DEADLINE = 30.0
_DYING = 10.0
"""Seconds from a check's SIGKILL to its end; longer, and it is given up."""
_LAST_WORDS = 1.0
SIGKILL = 9


def check_health(health: Healthcheck | None) -> None:
    """Raises InvalidArgument."""
    if health is None:
        return
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < _LEAST:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(
            f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD', 'CMD-SHELL' or 'NONE')"
        )
    if health.test[:1] in (["CMD"], ["CMD-SHELL"]) and len(health.test) == 1:
        raise InvalidArgument(f"Healthcheck.Test: {health.test[0]} needs a command")


def command(config: ContainerConfig) -> tuple[str, ...]:
    """What a check executes; nothing where there are no checks."""
    test = config.healthcheck.test if config.healthcheck is not None else []
    if not test or test[0] == "NONE":
        return ()
    if test[0] == "CMD":
        return tuple(test[1:])
    return (*(config.shell or ("/bin/sh", "-c")), *test[1:])


def pause_before(health: Healthcheck, status: str, age: int) -> int:
    """Nanoseconds to the next check of a container that was started ``age`` ago."""
    if status == "starting" and age < health.start_period:
        return health.start_interval or _START_INTERVAL
    return health.interval or _INTERVAL


def judge(health: Healthcheck, known: Health, check: Check, started_at: int) -> Health:
    """What is known after one more check."""
    results = (*known.log, check)[-_KEPT:]
    if check.exit_code == 0:
        return Health(status="healthy", log=results)
    starting = known.status == "starting" and check.start - started_at < health.start_period
    streak = known.streak if starting else known.streak + 1
    sick = streak >= (health.retries or _RETRIES) and not starting
    return Health(status="unhealthy" if sick else known.status, streak=streak, log=results)


def go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: ``1m30s``, ``1.5s``, ``200ms``."""
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1_000_000:g}ms"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{rest / 1_000_000_000:g}s"


class Checks:
    """The checks of one engine's containers; how many ended, and how many of them badly."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended = 0
        self.failed = 0

    def fresh(self, live: Live) -> Health | None:
        """The state of a container that is being started; None where there are no checks."""
        if not command(live.record.config):
            return None
        known = live.record.state.health
        return Health(log=known.log if known is not None else ())

    def begin(self, live: Live, *, part: float = 1.0) -> None:
        """Check it from now on, first after an interval, or a ``part`` of one."""
        health, known = live.record.config.healthcheck, live.record.state.health
        if health is None or known is None or not command(live.record.config):
            return
        self._stop(live)
        age = now() - live.record.state.started_at
        seconds = min(pause_before(health, known.status, age) / 1e9 * part, _LONGEST)
        loop = asyncio.get_running_loop()
        live.next_check = loop.call_later(seconds, self._due, live)

    def take_up(self, live: Live) -> None:
        """Go on where an earlier daemon stopped; the many do not begin in the same moment."""
        state = live.record.state
        if state.status != "running" or not command(live.record.config):
            return
        if state.health is None:
            live.record = live.record.with_state(health=Health())
        self.begin(live, part=int(live.id[:4], 16) / 0xFFFF)

    def cease(self, live: Live) -> Health | None:
        """Check it no more; what it is shown as from now on."""
        self._stop(live)
        known = live.record.state.health
        return None if known is None else msgspec.structs.replace(known, status="unhealthy")

    def _stop(self, live: Live) -> None:
        if live.next_check is not None:
            live.next_check.cancel()
            live.next_check = None
        # A check that is under way ends by itself; nobody asks for its result any more.
        live.checking = None

    def _due(self, live: Live) -> None:
        live.next_check = None
        live.checking = object()
        self._engine.spawn_task(self._check(live, live.checking))

    async def _check(self, live: Live, token: object) -> None:
        start = now()
        try:
            code, output = await self._run(live)
        except (SampanError, OSError) as error:
            code, output = -1, str(error)
        self.ended += 1
        self.failed += code != 0
        if live.checking is not token or live.record.state.status != "running":
            return
        try:
            self._record(live, Check(start=start, end=now(), exit_code=code, output=output))
        finally:
            self.begin(live)  # also where a full disk does not take the result

    def _record(self, live: Live, check: Check) -> None:
        health, state = live.record.config.healthcheck, live.record.state
        if health is None or state.health is None:
            return
        known = judge(health, state.health, check, state.started_at)
        live.record = live.record.with_state(health=known)
        if known.status != state.health.status:
            self._engine.store.put_state(live.record)
            self._engine.publish(live.record, f"health_status: {known.status}")

    async def _run(self, live: Live) -> tuple[int, str]:
        """One check: exit code and output. Raises SampanError when it cannot be started."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            request = Exec(
                id="",
                container_id="",
                args=command(live.record.config),
                stdout=True,
                stderr=True,
                is_check=True,
            )
            request.over = asyncio.get_running_loop().create_future()
            stream = Attachment(
                fd=theirs.detach(), stdin=False, stdout=True, stderr=True, multiplex=False
            )
            try:
                self._engine.execs.create(live.id, request)
            except SampanError:
                stream.close()
                raise
            output = bytearray()
            try:
                async with beside(_read(ours, output)) as reading:
                    await self._engine.execs.start(request, stream)
                    return await self._wait(live, request, reading, output)
            finally:
                self._engine.execs.forget(live, request)

    async def _wait(
        self, live: Live, request: Exec, reading: asyncio.Future[None], output: bytearray
    ) -> tuple[int, str]:
        health, over = live.record.config.healthcheck, request.over
        assert health is not None and over is not None
        allowed = health.timeout or _TIMEOUT
        await asyncio.wait((over,), timeout=min(allowed / 1e9, _LONGEST))
        if not over.done():
            await self._kill(live, request)
            text = f"Health check exceeded timeout ({go_duration(allowed)})"
            said = output.decode(errors="replace")
            return -1, f"{text}: {said}" if said else text
        await asyncio.wait((reading,), timeout=_LAST_WORDS)
        return over.result(), output.decode(errors="replace")

    async def _kill(self, live: Live, request: Exec) -> None:
        assert request.over is not None
        try:
            _, monitor = self._engine.containers.running(live.id)
            await monitor.call("kill", signal=SIGKILL, exec_id=request.id)
        except SampanError as error:
            log.debug("a health check ended late", container=live.id, error=error.message)
        await asyncio.wait((request.over,), timeout=_DYING)


async def _read(sock: socket.socket, output: bytearray) -> None:
    """Take what comes, and keep the beginning."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 65536):
        if len(output) < _OUTPUT:
            output += data[: _OUTPUT - len(output)]
