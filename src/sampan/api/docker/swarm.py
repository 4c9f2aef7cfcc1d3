"""Swarm's operations, answered by an engine that is in no swarm and plugins' by one without any.

The order is dockerd's: what is wrong with a request is said before what is wrong with the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.api.docker.context import Context, reply
from sampan.errors import InvalidArgument, NotFound, NotSupported, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sampan.api.http.stream import Answer

    Handler = Callable[[Context], Awaitable[Answer]]

__all__ = ["ROUTES"]

# Clients look for these words.
_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)


async def no_manager(context: Context) -> Answer:
    context.filters()
    raise Unavailable(_NO_MANAGER)


async def with_body(context: Context) -> Answer:
    """A create: its body is read first."""
    await _object(context)
    raise Unavailable(_NO_MANAGER)


async def with_version(context: Context) -> Answer:
    """An update: of a body and of the object's version."""
    await _object(context)
    version = context.text("version")
    if not (version.isascii() and version.isdecimal()):
        raise InvalidArgument(
            f"invalid version '{version[:40]}' of what is updated: give its number"
        )
    raise Unavailable(_NO_MANAGER)


async def _object(context: Context) -> None:
    if not isinstance(await context.body(), dict):
        raise InvalidArgument("expected a JSON object as the request's body")


async def logs(context: Context) -> Answer:
    if not (context.flag("stdout") or context.flag("stderr")):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    raise Unavailable(_NO_MANAGER)


async def leave(context: Context) -> Answer:
    raise Unavailable("This node is not part of a swarm")


async def found(context: Context) -> Answer:
    """init and join would make this node part of a swarm, which it cannot be."""
    await _object(context)
    raise NotSupported("swarm mode is not supported: this engine is for one machine")


async def plugins(context: Context) -> Answer:
    context.filters(("capability", "enabled", "enable"))
    return reply([])


async def no_plugin(context: Context) -> Answer:
    raise NotFound(f'plugin "{context.parameters[0]}" not found')


async def no_plugins(context: Context) -> Answer:
    raise NotSupported("plugins are not supported: this engine has none and takes none in")


def _collection(path: str, update: bool = True) -> list[tuple[str, str, Handler]]:
    rows: list[tuple[str, str, Handler]] = [
        ("GET", path, no_manager),
        ("GET", f"{path}/{{id}}", no_manager),
    ]
    if update:
        rows += [
            ("DELETE", f"{path}/{{id}}", no_manager),
            ("POST", f"{path}/{{id}}/update", with_version),
        ]
    return rows


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/swarm", no_manager),
    ("POST", "/swarm/init", found),
    ("POST", "/swarm/join", found),
    ("POST", "/swarm/leave", leave),
    ("POST", "/swarm/update", with_version),
    ("GET", "/swarm/unlockkey", no_manager),
    ("POST", "/swarm/unlock", with_body),
    *_collection("/nodes"),
    *_collection("/services"),
    ("POST", "/services/create", with_body),
    ("GET", "/services/{id}/logs", logs),
    *_collection("/tasks", update=False),
    ("GET", "/tasks/{id}/logs", logs),
    *_collection("/secrets"),
    ("POST", "/secrets/create", with_body),
    *_collection("/configs"),
    ("POST", "/configs/create", with_body),
    ("GET", "/plugins", plugins),
    ("GET", "/plugins/privileges", no_plugins),
    ("POST", "/plugins/pull", no_plugins),
    ("POST", "/plugins/create", no_plugins),
    ("GET", "/plugins/{name}/json", no_plugin),
    ("DELETE", "/plugins/{name}", no_plugin),
    *(
        ("POST", f"/plugins/{{name}}/{action}", no_plugin)
        for action in ("enable", "disable", "upgrade", "push", "set")
    ),
)
