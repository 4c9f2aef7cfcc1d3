"""``GET /containers/{id}/logs``, and a log as the bytes of a stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sampan.api.docker import frames
from sampan.engine.logs import LogQuery, LogReader, parse_moment, parse_tail
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.api.docker.context import Context
    from sampan.api.http.connection import Answer
    from sampan.engine.logs import Entry

__all__ = ["ROUTES", "rendered"]


async def logs(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    stdout, stderr = context.flag("stdout"), context.flag("stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    if live.record.host_config.log_config.type == "none":
        raise NotSupported("configured logging driver does not support reading")
    query = LogQuery(
        stdout=stdout,
        stderr=stderr,
        tail=parse_tail(context.text("tail", "all")),
        since=parse_moment(context.text("since")),
        until=parse_moment(context.text("until")),
    )
    timestamps, details = context.flag("timestamps"), context.flag("details")
    multiplex = not live.record.config.tty
    follow = context.flag("follow") and live.record.state.running
    with LogReader(engine.log_path(live.id), query) as reader:
        stream = context.stream(frames.media_type(multiplex, context.version))
        if not follow:
            for batch in reader.read():
                await stream.write(rendered(batch, multiplex, timestamps, details))
            return stream
        ended = asyncio.Event()

        def end(_: asyncio.Future[Any]) -> None:
            ended.set()

        lost = context.connection.lost
        future = await engine.containers.wait(live.id)
        future.add_done_callback(end)
        lost.add_done_callback(end)
        try:
            async for batch in reader.follow(ended):
                if lost.done():
                    return stream
                if batch:
                    await stream.write(rendered(batch, multiplex, timestamps, details))
        finally:
            lost.remove_done_callback(end)
            future.cancel()
    return stream


def rendered(batch: list[Entry], multiplex: bool, timestamps: bool, details: bool) -> bytes:
    """Log entries as the stream's bytes."""
    parts = []
    for entry in batch:
        text = entry.log
        if details:
            text = ",".join(f"{k}={v}" for k, v in sorted(entry.attrs.items())) + " " + text
        if timestamps:
            text = f"{entry.time} {text}"
        data = text.encode()
        if multiplex:
            stream = frames.STDERR if entry.stream == "stderr" else frames.STDOUT
            data = frames.frame(stream, data)
        parts.append(data)
    return b"".join(parts)


ROUTES = (("GET", "/containers/{id}/logs", logs),)
