"""After a start: what an earlier daemon left, taken up, finished or undone.

Three things tell the truth: the rows (what was promised), the run directories (what was begun),
the monitors (what lives).

    a row, and a monitor that answers         the container runs, or is about to: adopt it
    a row, and ``exit.json``                  it ended meanwhile: record that, as it ends now;
                                              where the row has it, what follows from it
    a row, and a monitor's file without one   its monitor died: kill what is left, record that
    a row that says running, and nothing      the machine was started again: it ended with it
    a run directory without a row             a start whose create was undone: end it
    a directory, a writable root, without a row   a create or remove cut short: remove it

Then, and beside whoever asks, what restart policies start: a row that says ``restarting``, and
what had ended and is to start with the daemon.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from sampan.engine.container import advance, now
from sampan.engine.lifecycle import DIED
from sampan.engine.live import Live
from sampan.engine.log import log
from sampan.engine.monitors import read_exit
from sampan.engine.restarts import after_daemon
from sampan.errors import NotFound, SampanError
from sampan.runtime.supervisor.client import connect

if TYPE_CHECKING:
    import socket

    from sampan.engine.core import Engine
    from sampan.engine.eventlog import Marks

__all__ = ["recover"]


async def recover(engine: Engine) -> None:
    """Bring memory, rows, directories and the kernel to agree."""
    for record in engine.store.load():
        engine.registry.add(Live(record))
    marks = engine.events.log.marks()
    await asyncio.gather(*(_settle(engine, live, marks) for live in engine.registry))
    for live in engine.registry:
        if not live.record.state.running and live.monitor is None:
            engine.release_shm(live.record)
    engine.volumes.settle()
    await _sweep(engine)
    await engine.networking.recover()
    for live in engine.registry:
        _recur(engine, live)
    engine.restarts.open()


def _recur(engine: Engine, live: Live) -> None:
    """Plan a start that its restart policy wants."""
    record = live.record
    if after_daemon(record.host_config.restart_policy, record.state):
        live.record = advance(record, "recur", restarts=0, delay=0, restart_at=now())
        engine.store.put_state(live.record)
    if live.record.state.status == "restarting" and live.recurring is None:
        engine.restarts.plan(live)


async def _settle(engine: Engine, live: Live, marks: Marks) -> None:
    """One container's row against what is there."""
    directory = engine.run_dir(live.id)
    sock = _connect(live, directory)
    if sock is not None:
        monitor = engine.containers.connect(live, sock)
        live.settling = True
        try:
            status = await monitor.call("status")
        except SampanError as error:
            # Most likely it was about to end, and has left its record.
            log.info("a monitor does not answer", container=live.id, error=error.message)
            if live.monitor is monitor:
                live.monitor = None
                monitor.close()
        else:
            await _adopt(engine, live, status, marks)
            return
        finally:
            live.settling = False
    if live.id not in engine.registry:
        return  # it ended while it was asked, and was to be removed
    event = read_exit(directory)
    if event is not None and int(event["at"] * 1e9) == live.record.state.finished_at:
        # The row has it; what comes after the row may not have been done.
        if marks.lack(live.id, "die", live.record.state.finished_at):
            engine.containers.tell_end(live)
        engine.clear_run_dir(live.id)
        if live.record.host_config.auto_remove:
            engine.forget(live)
    elif event is not None:
        _was_running(engine, live, marks)
        engine.containers.ended(live, event)
    elif os.path.isdir(directory) or live.record.state.running:
        await engine.kill_group(live.id, engine.cgroup_of(live.record))
        engine.clear_run_dir(live.id)
        if live.record.state.running:
            engine.containers.ended(live, {"code": 137, "at": now() / 1e9}, DIED)
    elif live.record.host_config.auto_remove and live.record.state.status == "exited":
        engine.forget(live)


def _connect(live: Live, directory: str) -> socket.socket | None:
    try:
        return connect(directory)
    except NotFound:
        return None
    except SampanError as error:
        log.error("a monitor cannot be reached", container=live.id, error=error.message)
        return None


async def _adopt(engine: Engine, live: Live, status: dict[str, Any], marks: Marks) -> None:
    state = status["state"]
    if status.get("starting"):
        # It runs any moment now, and that cannot be called back.
        engine.spawn_task(engine.containers.await_start(live))
        return
    if state == "created":
        # The daemon died between making and starting: nobody was told that it runs.
        if live.monitor is not None:
            live.monitor.close()
            live.monitor = None
        await engine.kill_group(live.id, engine.cgroup_of(live.record))
        engine.clear_run_dir(live.id)
        return
    _was_running(engine, live, marks)
    thawed = state == "paused" and live.record.state.committing and await _thaw(live)
    live.record = live.record.with_state(
        status="paused" if state == "paused" and not thawed else "running",
        pid=int(status["pid"]),
        start_time=int(status["start_time"]),
        committing=False,
    )
    if thawed:
        engine.publish(live.record, "unpause")
    engine.store.put_state(live.record)
    engine.execs.adopt(live, status.get("execs") or {})
    engine.checks.take_up(live)
    log.info("a running container was taken up", container=live.id, name=live.record.name)


async def _thaw(live: Live) -> bool:
    """The commit it was frozen for has ended with its daemon."""
    assert live.monitor is not None
    try:
        await live.monitor.call("resume")
    except SampanError as error:
        log.warn("a container cannot be thawed", container=live.id, error=error.message)
        return False
    return True


def _was_running(engine: Engine, live: Live, marks: Marks) -> None:
    """A container that runs, or ran: its start may be in no row, or in a row and no event."""
    if not live.record.state.running:
        live.record = live.record.with_state(
            status="running", started_at=now(), by_hand=False, restart_at=0
        )
    elif not marks.lack(live.id, "start", live.record.state.started_at):
        return
    engine.containers.tell_start(live)


async def _sweep(engine: Engine) -> None:
    """Remove what has no row."""
    settings, registry = engine.settings, engine.registry
    for name in os.listdir(settings.run_dirs):
        if name not in registry:
            log.warn("removing a container that has no row", container=name)
            await engine.kill_group(name, f"{settings.cgroup_parent.rstrip('/')}/{name}")
            engine.clear_run_dir(name)
    for name in os.listdir(settings.containers):
        if name not in registry:
            os.rename(f"{settings.containers}/{name}", f"{settings.trash}/{name}")
    for name in engine.driver.containers():
        if name not in registry:
            engine.driver.remove_container(name)
