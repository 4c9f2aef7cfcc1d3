"""Attach: a client becomes one of a container's streams; and the size of its terminal.

With ``logs`` what the container has said comes first. The log is read as far as it goes; then the
monitor takes the stream, keeps what is said from this moment on back, and tells where the log ends;
and when that is reached it is let go. So every line comes once, and in its order. The container may
end between any two of these steps: then the log has the rest.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sampan.api.docker import frames
from sampan.api.docker.context import Context, empty
from sampan.api.docker.hijack import Hijack
from sampan.api.docker.logs import rendered
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment
from sampan.engine.logs import LogQuery, LogReader
from sampan.errors import Conflict, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sampan.api.http.stream import Answer
    from sampan.engine.live import Live
    from sampan.engine.log_formats import Entry
    from sampan.engine.monitors import Monitor

__all__ = ["ROUTES", "read_size"]

STALL = 10.0
"""Seconds in which a client must take something while a container may have to wait for it."""
_SLICE = 64 * 1024


async def attach(context: Context) -> Answer:
    live = context.engine.registry.find(context.parameters[0])
    return await _attach(context, live, Hijack(context), multiplex=not live.record.config.tty)


async def attach_websocket(context: Context) -> Answer:
    from sampan.api.docker.sockets import WebSocketHijack

    live = context.engine.registry.find(context.parameters[0])
    return await _attach(context, live, WebSocketHijack(context), multiplex=False)


async def _attach(context: Context, live: Live, hijack: Hijack, *, multiplex: bool) -> Answer:
    name, status = context.parameters[0], live.record.state.status
    if status == "paused":
        raise Conflict(f"container {name} is paused, unpause the container before attach")
    if status == "restarting":
        raise Conflict(f"container {name} is restarting, wait until the container is running")
    config = live.record.config
    # Who attaches to what runs is not to wait for another start.
    did_run = live.monitor is not None
    given = read_keys(context.text("detachKeys"))
    stdout, stderr, stdin = (context.flag(name) for name in ("stdout", "stderr", "stdin"))
    attachment = Attachment(
        fd=await hijack.take(frames.media_type(multiplex, context.version)),
        stdin=stdin and config.open_stdin,
        stdout=stdout,
        stderr=stderr,
        multiplex=multiplex,
        detach_keys=given if config.tty else (),
    )
    try:
        if context.flag("logs") and (stdout or stderr):
            await _with_log(context, live, attachment, did_run=did_run)
        elif context.flag("stream") and not (did_run and live.monitor is None):
            await context.engine.containers.attach(live, attachment)
            return await hijack.response()
    except (ConnectionError, TimeoutError):
        pass  # The client is gone, or takes nothing.
    finally:
        # Unless it was passed on, or is kept for the start.
        if not any(one is attachment for one in live.parked):
            attachment.close()
    return await hijack.response()


async def _with_log(context: Context, live: Live, attachment: Attachment, *, did_run: bool) -> None:
    """Send the log, and hand the stream over behind it."""
    containers = context.engine.containers
    place = context.engine.log_place(live.record)
    query = LogQuery(stdout=attachment.stdout, stderr=attachment.stderr)
    if place is None:
        if context.flag("stream") and not (did_run and live.monitor is None):
            await containers.attach(live, attachment)
        return
    multiplex = attachment.multiplex
    with (
        LogReader(place, query, follow=True) as reader,
        socket.socket(fileno=os.dup(attachment.fd)) as client,
    ):
        client.setblocking(False)
        await _send(client, reader.read(), multiplex)
        if not context.flag("stream"):
            return
        monitor = live.monitor
        if monitor is None:
            # All it ever said; and nothing comes between the log's end and the next line here.
            await _send(client, reader.until(None), multiplex)
            if not did_run and (monitor := live.monitor) is None:
                await containers.attach(live, attachment)  # which keeps it for the start
        if monitor is None:
            return
        try:
            held = await containers.attach(live, attachment, hold=True)
        except (Conflict, Unavailable):
            is_let_go = False
        else:
            if "attachment" not in held:
                return  # By a monitor of an earlier version.
            is_let_go = await _catch_up(client, reader, held, monitor, multiplex)
        if not is_let_go:
            # It has ended meanwhile: all it said is in the log.
            await _send(client, reader.until(None), multiplex)


async def _catch_up(
    client: socket.socket,
    reader: LogReader,
    held: dict[str, Any],
    monitor: Monitor,
    multiplex: bool,
) -> bool:
    """Send what the log has had when the monitor took the stream, and have that let go. False when
    nothing was: the container has ended."""
    number, end = held["attachment"], held["log"]
    with ExitStack() as stack:
        stack.callback(_give_up, client, monitor, number)
        await _send(client, reader.until(tuple(end) if end else None), multiplex, STALL)
        stack.pop_all()
    try:
        answer = await monitor.call("release", attachment=number)
    except (Conflict, Unavailable):
        return False
    return bool(answer.get("released"))


def _give_up(client: socket.socket, monitor: Monitor, attachment: int) -> None:
    """End a connection that the monitor holds too: it is not to wait for us."""
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # The client has.
    if monitor.open:
        monitor.request("release", attachment=attachment)


async def _send(
    client: socket.socket,
    batches: AsyncIterator[list[Entry]],
    multiplex: bool,
    patience: float | None = None,
) -> None:
    """Raises OSError when the client is gone, or takes nothing for ``patience`` seconds."""
    loop = asyncio.get_running_loop()
    async for batch in batches:
        data = memoryview(rendered(batch, multiplex, False, False))
        for begin in range(0, len(data), _SLICE):
            async with asyncio.timeout(patience):
                await loop.sock_sendall(client, data[begin : begin + _SLICE])
        await asyncio.sleep(0)  # others' turn, also when this client takes all at once


async def resize(context: Context) -> Answer:
    rows, columns = read_size(context)
    await context.engine.control.resize(context.parameters[0], rows, columns)
    return empty(200)


def read_size(context: Context) -> tuple[int, int]:
    """Rows and columns of a resize. Raises InvalidArgument."""
    rows, columns = context.integer("h"), context.integer("w")
    if rows is None or columns is None or not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise InvalidArgument("resize: give h and w, each from 0 to 65535")
    return rows, columns


ROUTES = (
    ("POST", "/containers/{id}/resize", resize),
    ("POST", "/containers/{id}/attach", attach),
    ("GET", "/containers/{id}/attach/ws", attach_websocket),
)
