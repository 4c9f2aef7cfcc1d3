"""Attach: a client becomes one of a container's streams; and the size of its terminal.

With ``logs`` what the container has said comes first. The log is read as far as it goes; then the
monitor takes the stream, keeps what is said from this moment on back, and tells where the log ends;
and when that is reached it is let go. So every line comes once, and in its order.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

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

    from sampan.api.http.connection import Answer
    from sampan.engine.live import Live
    from sampan.engine.log_formats import Entry

__all__ = ["ROUTES", "read_size"]


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
            await _with_log(context, live, attachment)
        elif context.flag("stream"):
            await context.engine.containers.attach(live, attachment)
            return await hijack.response()
    except ConnectionError:
        pass  # The client is gone.
    finally:
        # Unless it was passed on, or is kept for the start.
        if not any(one is attachment for one in live.parked):
            attachment.close()
    return await hijack.response()


async def _with_log(context: Context, live: Live, attachment: Attachment) -> None:
    """Send the log, and hand the stream over behind it."""
    engine = context.engine
    place = engine.log_place(live.record)
    query = LogQuery(stdout=attachment.stdout, stderr=attachment.stderr)
    if place is None:
        if context.flag("stream"):
            await engine.containers.attach(live, attachment)
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
        held = await engine.containers.attach(live, attachment, hold=True)
        if "attachment" not in held or monitor is None:
            return  # It does not run: the stream waits for the start.
        end = held["log"]
        await _send(client, reader.until(tuple(end) if end else None), multiplex)
        try:
            answer = await monitor.call("release", attachment=held["attachment"])
        except Unavailable:
            answer = {}
        if not answer.get("released"):
            # It has ended meanwhile: all it said is in the log.
            await _send(client, reader.until(None), multiplex)


async def _send(
    client: socket.socket, batches: AsyncIterator[list[Entry]], multiplex: bool
) -> None:
    loop = asyncio.get_running_loop()
    async for batch in batches:
        await loop.sock_sendall(client, rendered(batch, multiplex, False, False))


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
