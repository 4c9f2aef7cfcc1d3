"""The API's tag *Container*."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sampan.api.docker import frames, render
from sampan.api.docker.context import Context, empty, reply
from sampan.api.docker.hijack import Hijack
from sampan.api.docker.listing import list_containers
from sampan.api.docker.top import top
from sampan.engine.config import read_create
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment, WaitResult
from sampan.engine.logs import LogQuery, LogReader, parse_moment, parse_tail
from sampan.errors import Conflict, InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.api.http.connection import Answer
    from sampan.engine.live import Live
    from sampan.engine.logs import Entry

__all__ = ["ROUTES"]

_CONDITIONS = ("not-running", "next-exit", "removed")


async def list_(context: Context) -> Answer:
    return reply(
        await list_containers(
            context.engine,
            everything=context.flag("all"),
            limit=context.integer("limit"),
            size=context.flag("size"),
            filters=context.filters(),
        )
    )


async def create(context: Context) -> Answer:
    request = read_create(await context.body())
    platform = context.text("platform")
    if platform and platform not in ("linux", *_own_platforms()):
        raise NotSupported(f"platform {platform} is not this machine's: {_own_platforms()[0]}")
    container_id, warnings = await context.engine.creation.create(request, context.text("name"))
    return reply({"Id": container_id, "Warnings": warnings}, 201)


def _own_platforms() -> tuple[str, ...]:
    from sampan.oci.platform import machine

    own = machine()
    names = [f"{own.os}/{own.architecture}"]
    if own.variant:
        names.append(f"{names[0]}/{own.variant}")
    return tuple(names)


async def inspect(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    shown = render.inspect(engine, live)
    if context.flag("size"):
        usage = await asyncio.to_thread(engine.driver.usage, live.id)
        shown["SizeRw"] = usage.bytes
        image = await engine.images.find(live.record.image_id)
        shown["SizeRootFs"] = usage.bytes + (image.size if image else 0)
    return reply(shown)


async def start(context: Context) -> Answer:
    await context.engine.containers.start(context.parameters[0])
    return empty()


async def stop(context: Context) -> Answer:
    await context.engine.containers.stop(
        context.parameters[0], context.integer("t"), context.text("signal")
    )
    return empty()


async def kill(context: Context) -> Answer:
    await context.engine.containers.kill(context.parameters[0], context.text("signal"))
    return empty()


async def pause(context: Context) -> Answer:
    await context.engine.containers.pause(context.parameters[0])
    return empty()


async def unpause(context: Context) -> Answer:
    await context.engine.containers.unpause(context.parameters[0])
    return empty()


async def rename(context: Context) -> Answer:
    context.engine.creation.rename(context.parameters[0], context.text("name"))
    return empty()


async def resize(context: Context) -> Answer:
    rows, columns = read_size(context)
    await context.engine.containers.resize(context.parameters[0], rows, columns)
    return empty(200)


def read_size(context: Context) -> tuple[int, int]:
    """Rows and columns of a resize. Raises InvalidArgument."""
    rows, columns = context.integer("h"), context.integer("w")
    if rows is None or columns is None or not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise InvalidArgument("resize: give h and w, each from 0 to 65535")
    return rows, columns


async def remove(context: Context) -> Answer:
    if context.flag("link"):
        raise NotSupported("link: containers have no links in this version")
    await context.engine.remove(
        context.parameters[0], force=context.flag("force"), volumes=context.flag("v")
    )
    return empty()


async def wait(context: Context) -> Answer:
    condition = context.text("condition") or "not-running"
    if condition not in _CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    future = await context.engine.containers.wait(context.parameters[0], condition)
    if future.done():
        return reply(_outcome(future.result()))
    # The client starts the container when it has our header: it must not wait for the body.
    stream = context.stream()
    waits: tuple[asyncio.Future[Any], ...] = (future, context.connection.lost)
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
        future.cancel()
        return stream
    return stream.last(reply(_outcome(future.result())).body)


def _outcome(result: WaitResult) -> dict[str, Any]:
    shown: dict[str, Any] = {"StatusCode": result.code}
    if result.error:
        shown["Error"] = {"Message": result.error}
    return shown


async def attach(context: Context) -> Answer:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    if live.record.state.status == "paused":
        raise Conflict(f"container {live.id} is paused, unpause the container before attach")
    config = live.record.config
    keys = read_keys(context.text("detachKeys")) if config.tty else ()
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
            _replay(context, live, hijack, stdout, stderr)
        if context.flag("stream"):
            await engine.containers.attach(live, attachment)
            return await hijack.response()
    except BaseException:
        attachment.close()
        raise
    attachment.close()
    return await hijack.response()


def _replay(context: Context, live: Live, hijack: Hijack, stdout: bool, stderr: bool) -> None:
    if not (stdout or stderr):
        return
    query = LogQuery(stdout=stdout, stderr=stderr)
    with LogReader(context.engine.log_path(live.id), query) as reader:
        for batch in reader.read():
            hijack.write(_render(batch, not live.record.config.tty, False, False))


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
                await stream.write(_render(batch, multiplex, timestamps, details))
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
                    await stream.write(_render(batch, multiplex, timestamps, details))
        finally:
            lost.remove_done_callback(end)
            future.cancel()
    return stream


def _render(batch: list[Entry], multiplex: bool, timestamps: bool, details: bool) -> bytes:
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


async def processes(context: Context) -> Answer:
    live, _ = context.engine.containers.running(context.parameters[0])
    group = context.engine.hierarchy.group(context.engine.cgroup_of(live.record))
    return reply(await top(group.processes(), context.text("ps_args") or "-ef"))


ROUTES = (
    ("GET", "/containers/json", list_),
    ("POST", "/containers/create", create),
    ("GET", "/containers/{id}/json", inspect),
    ("GET", "/containers/{id}/top", processes),
    ("GET", "/containers/{id}/logs", logs),
    ("POST", "/containers/{id}/resize", resize),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/attach", attach),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
)
