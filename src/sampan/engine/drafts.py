"""What is done for an exec before anybody asks for it.

An exec that was made is mostly started at once, and one that ended is often followed by another. So
a container where something is going on has a process that waits for the next one (a maker, 3 MB,
for some seconds; a few containers at a time), and it is told what was made: by the time the client
asks, it stands at the container's door (``runtime.supervisor.exec_maker``).

    made ── draft to the monitor ──► started by the draft's name ──► runs
                  │                        │
                  └ never started:         └ other than it was made, or no draft any more:
                    the maker ends           started by all its words, as any other

Nothing depends on a draft: whatever has changed between the two, the container or what is asked of
the exec, makes it void.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from sampan.engine import security
from sampan.engine import spec as specs
from sampan.engine.assembly import with_links
from sampan.engine.container import now
from sampan.engine.keys import read_keys
from sampan.oci.runtime import Capabilities, User

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Exec, Live
    from sampan.engine.monitors import Monitor

__all__ = ["Drafts", "circumstances"]

_READY = 4 * 1_000_000_000  # a little less than one waits: supervisor.execs.PATIENCE
_MOST = 8


class _Draft(NamedTuple):
    exec_id: str
    monitor: Monitor
    record: ContainerRecord
    circumstances: dict[str, Any]
    since: int


def circumstances(
    request: Exec, *, attached: bool, multiplex: bool, keys: tuple[int, ...]
) -> dict[str, Any]:
    """What a monitor is told of an exec that is known for sure when it is started only."""
    size = request.console_size
    return {
        "terminal": request.tty,
        "console_size": list(size) if size and size[0] else None,
        "stdin": request.stdin and attached,
        "stdout": request.stdout,
        "stderr": request.stderr,
        "multiplex": multiplex and attached,
        "detach_keys": list(keys) if attached else [],
        "privileged": request.privileged,
    }


class Drafts:
    """Every container's of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Containers that were made ready in the last seconds, and when.
        self._ready: dict[str, int] = {}
        # What their next process is made from, for the record that is named.
        self._bases: dict[str, tuple[ContainerRecord, dict[str, Any]]] = {}
        self._drafts: dict[str, _Draft] = {}

    def prepare(self, live: Live, request: Exec, after: float) -> None:
        """Be ready for ``request``, if it is not started yet, or for the one after it.

        ``after`` so many seconds, for who is woken may get this process's processor, and a client
        waits for an answer.
        """
        if not request.is_check:  # Nobody waits for those.
            asyncio.get_running_loop().call_later(after, self._prepare, live, request)

    def _prepare(self, live: Live, request: Exec) -> None:
        limit = now() - _READY
        self._ready = {one: since for one, since in self._ready.items() if since >= limit}
        self._drafts = {one: draft for one, draft in self._drafts.items() if draft.since >= limit}
        monitor, wanted = live.monitor, not request.started and live.id not in self._drafts
        is_ready = live.id in self._ready
        if monitor is None or (is_ready and not wanted):
            return
        if not is_ready and len(self._ready) >= _MOST:
            return
        self._ready[live.id] = now()
        self._bases = {one: base for one, base in self._bases.items() if one in self._ready}
        if self._bases.get(live.id, (None,))[0] is not live.record:
            self._bases[live.id] = (live.record, self._base(live.record))
        draft = None
        if wanted:
            likely = circumstances(
                request,
                attached=not request.detach,
                multiplex=not request.tty,
                keys=read_keys(request.detach_keys) if request.tty else (),
            )
            draft = {
                "exec_id": request.id,
                "process": self.process(live, request),
                **likely,
            }
            self._drafts[live.id] = _Draft(request.id, monitor, live.record, likely, now())
        # What is in its way is in the start's, and is told there.
        monitor.hint("prepare-exec", draft=draft)

    def take(self, live: Live, request: Exec, monitor: Monitor, asked: dict[str, Any]) -> bool:
        """Whether ``request`` may be started by its draft; who waits is somebody's now."""
        self._ready.pop(live.id, None)
        draft = self._drafts.get(live.id)
        if draft is None or draft.exec_id != request.id:
            return False
        del self._drafts[live.id]
        return (
            draft.monitor is monitor
            and draft.record is live.record
            and draft.circumstances == asked
            and draft.since >= now() - _READY
        )

    def process(self, live: Live, request: Exec) -> dict[str, Any]:
        """The process that ``request`` asks for, in JSON (OCI runtime specification, "Process")."""
        record, base = self._bases.get(live.id, (None, None))
        if base is None or record is not live.record or record.links:
            base = self._base(live.record)
        names = {item.partition("=")[0] for item in request.env}
        env = list(base.get("env", ()))
        if request.tty and not any(item.startswith("TERM=") for item in env):
            env.append("TERM=xterm")
        env = [item for item in env if item.partition("=")[0] not in names]
        env += [item for item in request.env if "=" in item]
        process = {
            **base,
            "args": list(request.args),
            "env": env,
            "terminal": request.tty,
        }
        if request.cwd:
            process["cwd"] = request.cwd
        if request.user:
            process["user"] = {**base.get("user", {}), "username": request.user}
        if request.privileged:
            every = security.all_capabilities()
            capabilities = Capabilities(effective=every, permitted=every, bounding=every)
            process["capabilities"] = capabilities.to_json()
        if request.console_size and request.console_size[0]:
            height, width = request.console_size
            process["consoleSize"] = {"height": height, "width": width}
        return process

    def _base(self, record: ContainerRecord) -> dict[str, Any]:
        """What an exec takes over. Not what a terminal of the container's means: it has its own."""
        name = specs.hostname(record, self._engine.machine)
        config = msgspec.structs.replace(record.config, tty=False)
        record = msgspec.structs.replace(record, config=config)
        process = specs.build_process(with_links(self._engine, record), name)
        user = User(
            username=process.user.username,
            additional_gids=process.user.additional_gids,
            additional_groups=process.user.additional_groups,
        )
        return process.replace(user=user, console_size=None, oom_score_adj=None).to_json()
