"""The API's tag *Container*, but for its streams (``attach``, ``logs``) and figures (``stats``)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sampan.api.docker import render
from sampan.api.docker.compat import of_version
from sampan.api.docker.context import Context, empty, reply
from sampan.api.docker.listing import FILTERS, list_containers
from sampan.engine.pruning import FILTERS as FILTERS_OF_PRUNE
from sampan.engine.pruning import prune_containers
from sampan.engine.reading import read_create
from sampan.engine.sizes import container_sizes
from sampan.engine.update import read_update, update
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sampan.api.http.messages import Response
    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine
    from sampan.engine.live import Live, WaitResult

__all__ = ["ROUTES"]

_START_BODY = 1 << 20
_NOTHING = 7
_CONDITIONS = ("not-running", "next-exit", "removed")


async def list_(context: Context) -> Answer:
    return reply(
        await list_containers(
            context.engine,
            context.version,
            everything=context.flag("all"),
            limit=context.integer("limit"),
            size=context.flag("size"),
            filters=context.filters(FILTERS),
        )
    )


async def create(context: Context) -> Answer:
    unified = context.engine.hierarchy.kind == "v2"
    request = of_version(read_create(await context.body()), context.version, unified=unified)
    platform = context.text("platform") if context.version >= (1, 41) else ""
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


def inspect(context: Context) -> Response | Awaitable[Answer]:
    engine = context.engine
    live = engine.registry.find(context.parameters[0])
    shown = render.inspect(engine, live)
    if context.version < (1, 45):
        render.add_own_names(shown, live.record)
    return _with_sizes(engine, live, shown) if context.flag("size") else reply(shown)


async def _with_sizes(engine: Engine, live: Live, shown: dict[str, Any]) -> Response:
    shown["SizeRw"], shown["SizeRootFs"] = await container_sizes(engine, live.record)
    return reply(shown)


async def start(context: Context) -> Answer:
    if context.text("checkpoint"):
        raise NotSupported("checkpoint: this version has no checkpoints")
    # Clients of API 1.22 configured a container with its start; "{}" and "null" mean nothing.
    if len(await context.request.body.read(_START_BODY)) > _NOTHING:
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and "
            "removed in v1.24"
        )
    await context.engine.containers.start(context.parameters[0])
    return empty()


async def stop(context: Context) -> Answer:
    await context.engine.control.stop(
        context.parameters[0], context.integer("t"), _stop_signal(context)
    )
    return empty()


async def restart(context: Context) -> Answer:
    await context.engine.control.restart(
        context.parameters[0], context.integer("t"), _stop_signal(context)
    )
    return empty()


def _stop_signal(context: Context) -> str:
    return context.text("signal") if context.version >= (1, 42) else ""


async def kill(context: Context) -> Answer:
    await context.engine.control.kill(context.parameters[0], context.text("signal"))
    return empty()


async def pause(context: Context) -> Answer:
    await context.engine.control.pause(context.parameters[0])
    return empty()


async def unpause(context: Context) -> Answer:
    await context.engine.control.unpause(context.parameters[0])
    return empty()


async def rename(context: Context) -> Answer:
    context.engine.creation.rename(context.parameters[0], context.text("name"))
    return empty()


async def update_(context: Context) -> Answer:
    live = context.engine.registry.find(context.parameters[0])
    changes, policy = read_update(await context.body())
    if context.version < (1, 40):
        changes.pop("pids_limit", None)
    return reply({"Warnings": await update(context.engine, live.id, changes, policy)})


async def prune(context: Context) -> Answer:
    pruned = await prune_containers(context.engine, context.filters(FILTERS_OF_PRUNE))
    return reply({"ContainersDeleted": pruned.ids, "SpaceReclaimed": pruned.reclaimed})


async def remove(context: Context) -> Answer:
    if context.flag("link"):
        from sampan.engine.links import unlink

        await unlink(context.engine, context.parameters[0])
        return empty()
    await context.engine.remove(
        context.parameters[0], force=context.flag("force"), volumes=context.flag("v")
    )
    return empty()


async def wait(context: Context) -> Answer:
    """Clients before API 1.30 know no conditions, and wait for the header with the body."""
    modern = context.version >= (1, 30)
    condition = (context.text("condition") if modern else "") or "not-running"
    if condition not in _CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    future = await context.engine.containers.wait(context.parameters[0], condition)
    if future.done():
        return reply(_outcome(future.result()))
    # The client starts the container when it has our header: it must not wait for the body.
    stream = context.stream() if modern else None
    waits: tuple[asyncio.Future[Any], ...] = (future, context.connection.lost)
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
        future.cancel()
        return stream or empty(500)
    answer = reply(_outcome(future.result()))
    return answer if stream is None else stream.last(answer.body)


def _outcome(result: WaitResult) -> dict[str, Any]:
    shown: dict[str, Any] = {"StatusCode": result.code}
    if result.error:
        shown["Error"] = {"Message": result.error}
    return shown


ROUTES = (
    ("GET", "/containers/json", list_),
    ("POST", "/containers/create", create),
    ("GET", "/containers/{id}/json", inspect),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/update", update_),
    ("POST", "/containers/prune", prune),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
)
