"""Further processes in running containers.

An exec is made, started once, and asked about afterwards. It lives in memory only: a daemon that
is started again learns of those that still run from their container's monitor. One that has ended
is remembered for some minutes, for the client that asks for its exit code.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine import security
from sampan.engine import spec as specs
from sampan.engine.assembly import with_links
from sampan.engine.container import now
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment, Exec, Live
from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.kernel.processes import is_ending
from sampan.oci.runtime import Capabilities, ConsoleSize, User

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.oci.runtime import Process

__all__ = ["Execs"]

_KEPT = 300 * 1_000_000_000
_READY = 4 * 1_000_000_000  # a little less than one waits: supervisor.execs.PATIENCE
_MOST = 8
_PAUSE = 0.05
_BEGINNING = 10.0


class Execs:
    """Every exec of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_id: dict[str, Exec] = {}
        # Containers that were made ready in the last seconds, and when.
        self._ready: dict[str, int] = {}
        # What their next process is made from, for the record that is named.
        self._bases: dict[str, tuple[ContainerRecord, Process]] = {}

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
        self._prepare(live, request, 0)
        self._publish(live, f"exec_create: {' '.join(request.args)}", request.id)
        return request

    def _prepare(self, live: Live, request: Exec, after: float) -> None:
        """Have a process ready for the next exec in a container, for some seconds.

        An exec that was made is mostly started at once, and one that ended is often followed by
        another. It takes 3 MB: so a few containers have one, those where something is going on.
        ``after`` so many seconds, for who is woken may get this process's processor, and a client
        waits for an answer.
        """
        if not request.is_check:  # Nobody waits for those.
            asyncio.get_running_loop().call_later(after, self._ask_for_one, live)

    def _ask_for_one(self, live: Live) -> None:
        limit = now() - _READY
        self._ready = {one: since for one, since in self._ready.items() if since >= limit}
        if live.monitor is not None and live.id not in self._ready and len(self._ready) < _MOST:
            self._ready[live.id] = now()
            live.monitor.request("prepare-exec").add_done_callback(_heard)
            self._bases = {one: base for one, base in self._bases.items() if one in self._ready}
            self._bases[live.id] = (live.record, self._base(live.record))

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
            if request.exit_code is not None and request.ended_at < limit:
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
            self._ready.pop(live.id, None)
            size = request.console_size
            attached = stream is not None
            reply = monitor.call(
                "exec",
                (stream.fd,) if stream is not None else (),
                exec_id=request.id,
                process=self._process(live, request).to_json(),
                terminal=request.tty,
                console_size=list(size) if size and size[0] else None,
                stdin=request.stdin and attached,
                stdout=request.stdout,
                stderr=request.stderr,
                multiplex=stream.multiplex if stream is not None else False,
                detach_keys=list(stream.detach_keys) if stream is not None else [],
                privileged=request.privileged,
                then=lambda: self._publish(
                    live, f"exec_start: {' '.join(request.args)}", request.id
                ),
            )
            try:
                answer: dict[str, Any] = await reply
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

    def _process(self, live: Live, request: Exec) -> Process:
        record, base = self._bases.get(live.id, (None, None))
        if base is None or record is not live.record or record.links:
            base = self._base(live.record)
        names = {item.partition("=")[0] for item in request.env}
        env = list(base.env)
        if request.tty and not any(item.startswith("TERM=") for item in env):
            env.append("TERM=xterm")
        env = [item for item in env if item.partition("=")[0] not in names]
        env += [item for item in request.env if "=" in item]
        capabilities = base.capabilities
        if request.privileged:
            every = security.all_capabilities()
            capabilities = Capabilities(effective=every, permitted=every, bounding=every)
        size = request.console_size
        return base.replace(
            args=request.args,
            env=tuple(env),
            cwd=request.cwd or base.cwd,
            terminal=request.tty,
            console_size=ConsoleSize(height=size[0], width=size[1]) if size and size[0] else None,
            user=User(
                username=request.user or base.user.username,
                additional_gids=base.user.additional_gids,
                additional_groups=base.user.additional_groups,
            ),
            capabilities=capabilities,
            oom_score_adj=None,
        )

    def _base(self, record: ContainerRecord) -> Process:
        """What an exec takes over. Not what a terminal of the container's means: it has its own."""
        name = specs.hostname(record, self._engine.machine)
        config = msgspec.structs.replace(record.config, tty=False)
        record = msgspec.structs.replace(record, config=config)
        return specs.build_process(with_links(self._engine, record), name)

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
            self._prepare(live, request, _PAUSE)

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


def _heard(reply: asyncio.Future[dict[str, Any]]) -> None:
    """Nothing depends on a preparation: what is in its way is in the start's, and is told there."""
    if not reply.cancelled():
        reply.exception()
