"""Further processes in running containers.

An exec is made, started once, and asked about afterwards. It lives in memory only: a daemon that
is started again learns of those that still run from their container's monitor. One that has ended
is remembered for some minutes, for the client that asks for its exit code.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from sampan.engine.container import now
from sampan.engine.drafts import Drafts, circumstances
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment, Exec, Live
from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.kernel.processes import is_ending

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.engine.monitors import Monitor

__all__ = ["Execs"]

_KEPT = 300 * 1_000_000_000
_PAUSE = 0.05
_BEGINNING = 10.0


class Execs:
    """Every exec of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_id: dict[str, Exec] = {}
        self._drafts = Drafts(engine)

    def create(self, reference: str, request: Exec) -> Exec:
        """Remember a request; ``id`` and ``container_id`` are filled in.

        Raises Conflict when the container is not running or is paused, InvalidArgument.
        """
        if not request.args:
            raise InvalidArgument("No exec command specified")
        read_keys(request.detach_keys)
        live = self._engine.registry.find(reference)
        self._runnable(live)
        self._prune(live)
        request.id = os.urandom(32).hex()
        request.container_id = live.id
        live.execs[request.id] = request
        self._by_id[request.id] = request
        self._drafts.prepare(live, request, 0)
        self._publish(live, f"exec_create: {' '.join(request.args)}", request.id)
        return request

    def _runnable(self, live: Live) -> None:
        status = live.record.state.status
        if status == "paused":
            raise Conflict(f"Container {live.id} is paused, unpause the container before exec")
        if status == "restarting":
            raise Conflict(
                f"Container {live.id} is restarting, wait until the container is running"
            )
        if status != "running":
            raise Conflict(f"container {live.id} is not running")

    def _prune(self, live: Live) -> None:
        limit = now() - _KEPT
        for request in list(live.execs.values()):
            if request.exit_code is None:
                continue
            if request.ended_at >= limit:
                return  # Mostly those behind it have ended later.
            self.forget(live, request)

    def forget(self, live: Live, request: Exec) -> None:
        """Nobody will ask for it any more."""
        live.execs.pop(request.id, None)
        self._by_id.pop(request.id, None)

    def find(self, exec_id: str) -> Exec:
        """Raises NotFound."""
        request = self._by_id.get(exec_id)
        if request is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return request

    def startable(self, exec_id: str) -> Exec:
        """The exec, if it may be started now. Raises NotFound, Conflict."""
        request = self.find(exec_id)
        self._check_fresh(request)
        self._runnable(self._engine.registry.find(request.container_id))
        return request

    @staticmethod
    def _check_fresh(request: Exec) -> None:
        if request.started:
            state = "is already running" if request.running else "has already run"
            raise Conflict(f"exec command {request.id} {state}")

    async def start(self, request: Exec, stream: Attachment | None) -> None:
        """Execute; ``stream`` goes to the process, or nothing does (detached).

        Raises CommandNotFound, CommandNotExecutable, InvalidArgument, Unavailable, Conflict. The
        stream is closed here in any case.
        """
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._check_fresh(request)  # somebody else's may be since the stream was asked for
            live, monitor = self._engine.containers.running(request.container_id)
            request.started = request.running = True
            request.begun = begun
            try:
                answer = await self._execute(live, monitor, request, stream)
            except SampanError as error:
                code = error.exit_code if error.exit_code in (126, 127) else 126
                self._end(request, code)
                if is_ending(live.record.state.pid):
                    # Whatever it was in the way of, there is nothing to execute in any more.
                    raise Conflict(f"container {live.id} is not running") from error
                raise
            request.pid = int(answer["pid"])
        finally:
            begun.set_result(None)
            if stream is not None:
                stream.close()

    async def _execute(
        self, live: Live, monitor: Monitor, request: Exec, stream: Attachment | None
    ) -> dict[str, Any]:
        fds = (stream.fd,) if stream is not None else ()
        asked = circumstances(
            request,
            attached=stream is not None,
            multiplex=stream is not None and stream.multiplex,
            keys=tuple(stream.detach_keys) if stream is not None else (),
        )

        def begun() -> None:
            self._publish(live, f"exec_start: {' '.join(request.args)}", request.id)

        if self._drafts.take(live, request, monitor, asked):
            try:
                return await monitor.call("exec-drafted", fds, begun, exec_id=request.id)
            except NotFound:
                pass  # The maker that knew of it has ended; nothing was executed.
        process = self._drafts.process(live, request)
        return await monitor.call("exec", fds, begun, exec_id=request.id, process=process, **asked)

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Set the size of its terminal. Raises NotFound, Conflict."""
        request = self.find(exec_id)
        if request.begun is not None and not request.begun.done():
            # Its client has the stream already, and says how large its terminal is.
            await asyncio.wait((request.begun,), timeout=_BEGINNING)
        if not request.running:
            raise Conflict(f"exec {exec_id} is not running")
        _, monitor = self._engine.containers.running(request.container_id)
        await monitor.call("resize", exec_id=exec_id, rows=rows, cols=columns)

    def ended(self, live: Live, exec_id: str, code: int) -> None:
        """A monitor reports an exec's end."""
        request = live.execs.get(exec_id)
        if request is not None:
            self._end(request, code)
            self._publish(live, "exec_die", exec_id, exitCode=str(code))
            self._drafts.prepare(live, request, _PAUSE)

    def detached(self, live: Live, exec_id: str | None) -> None:
        """Somebody has typed the keys that leave a terminal: the container's own, or an exec's."""
        if exec_id is None:
            self._engine.publish(live.record, "detach")
        else:
            self._publish(live, "exec_detach", exec_id)

    def _publish(self, live: Live, action: str, exec_id: str, **attributes: str) -> None:
        self._engine.publish(live.record, action, execID=exec_id, **attributes)

    def _end(self, request: Exec, code: int) -> None:
        request.running = False
        request.exit_code = code
        request.ended_at = now()
        if request.over is not None and not request.over.done():
            request.over.set_result(code)

    def all_ended(self, live: Live) -> None:
        """The container is over: what still ran was killed with it."""
        for request in live.execs.values():
            if request.running:
                self._end(request, 137)

    def drop(self, live: Live) -> None:
        """The container is removed."""
        for request in list(live.execs.values()):
            self.forget(live, request)

    def adopt(self, live: Live, status: dict[str, dict[str, Any]]) -> None:
        """Execs a monitor knows of and an earlier daemon made."""
        for exec_id, item in status.items():
            request = Exec(
                id=exec_id,
                container_id=live.id,
                args=(),
                started=True,
                running=bool(item["running"]),
                pid=int(item["pid"]),
                exit_code=item["code"],
                ended_at=0 if item["running"] else now(),
            )
            live.execs[exec_id] = request
            self._by_id[exec_id] = request
