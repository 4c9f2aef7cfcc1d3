"""``GET /containers/{id}/logs``, and a log as the bytes of a stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from sampan.api.docker import frames
from sampan.engine.logs import LogQuery, LogReader, parse_moment, parse_tail
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.api.docker.context import Context
    from sampan.api.http.stream import Answer
    from sampan.engine.log_formats import Entry

__all__ = ["ROUTES", "rendered"]


async def logs(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    stdout, stderr = context.flag("stdout"), context.flag("stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    place = engine.log_place(live.record)
    if place is None:
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
    with LogReader(place, query, follow=follow) as reader:
        stream = context.stream(frames.media_type(multiplex, context.version))
        if not follow:
            async for batch in reader.read():
                await stream.write(rendered(batch, multiplex, timestamps, details))
                await asyncio.sleep(0)  # others' turn, also when this client takes all at once
            return stream
        ended = asyncio.Event()

        def end(_: asyncio.Future[Any]) -> None:
            ended.set()

        lost = context.connection.lost
        future = await engine.containers.wait(live.id)
        future.add_done_callback(end)
        lost.add_done_callback(end)
        try:
            async with aclosing(reader.follow(ended)) as batches:
                async for batch in batches:
                    if lost.done():
                        return stream
                    if batch:
                        await stream.write(rendered(batch, multiplex, timestamps, details))
                        await asyncio.sleep(0)
        finally:
            lost.remove_done_callback(end)
            future.cancel()
    return stream


def rendered(batch: list[Entry], multiplex: bool, timestamps: bool, details: bool) -> bytes:
    """Log entries as the stream's bytes."""
    parts = []
    for entry in batch:
        text = entry.log
        data = text.encode() if isinstance(text, str) else text
        if details:
            data = _attributes(entry.attrs) + data
        if timestamps:
            data = _nine_digits(entry.time) + data
        if multiplex:
            stream = frames.STDERR if entry.stream == "stderr" else frames.STDOUT
            data = frames.frame(stream, data)
        parts.append(data)
    return b"".join(parts)


def _attributes(attrs: dict[str, str]) -> bytes:
    pairs = (f"{quote_plus(name)}={quote_plus(attrs[name])}" for name in sorted(attrs))
    return f"{','.join(pairs)} ".encode()


def _nine_digits(moment: str) -> bytes:
    """A time of constant width, as Docker prints it here."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z ".encode()


ROUTES = (("GET", "/containers/{id}/logs", logs),)
