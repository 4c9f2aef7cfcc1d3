"""Attach: a client becomes one of a container's streams; and the size of its terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.docker import frames
from sampan.api.docker.context import Context, empty
from sampan.api.docker.hijack import Hijack
from sampan.api.docker.logs import rendered
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment
from sampan.engine.logs import LogQuery, LogReader
from sampan.errors import Conflict, InvalidArgument

if TYPE_CHECKING:
    from sampan.api.http.connection import Answer
    from sampan.engine.live import Live

__all__ = ["ROUTES", "read_size"]


async def attach(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    name, status = context.parameters[0], live.record.state.status
    if status == "paused":
        raise Conflict(f"container {name} is paused, unpause the container before attach")
    if status == "restarting":
        raise Conflict(f"container {name} is restarting, wait until the container is running")
    config = live.record.config
    given = read_keys(context.text("detachKeys"))
    keys = given if config.tty else ()
    stdout, stderr, stdin = (context.flag(name) for name in ("stdout", "stderr", "stdin"))
    hijack = Hijack(context)
    multiplex = not config.tty
    fd = await hijack.take(frames.media_type(multiplex, context.version))
    attachment = Attachment(
        fd=fd,
        stdin=stdin and config.open_stdin,
        stdout=stdout,
        stderr=stderr,
        multiplex=multiplex,
        detach_keys=keys,
    )
    try:
        if context.flag("logs"):
            await _replay(context, live, hijack, stdout, stderr)
        if context.flag("stream"):
            await engine.containers.attach(live, attachment)
            return await hijack.response()
    except BaseException:
        attachment.close()
        raise
    attachment.close()
    return await hijack.response()


async def _replay(context: Context, live: Live, hijack: Hijack, stdout: bool, stderr: bool) -> None:
    place = context.engine.log_place(live.record)
    if place is None or not (stdout or stderr):
        return
    query = LogQuery(stdout=stdout, stderr=stderr)
    with LogReader(place, query) as reader:
        async for batch in reader.read():
            hijack.write(rendered(batch, not live.record.config.tty, False, False))


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
)
