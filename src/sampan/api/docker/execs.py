"""The API's tag *Exec*."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.api.docker import frames, render
from sampan.api.docker.attach import read_size
from sampan.api.docker.context import BODY_LIMIT, Context, empty, reply, wording
from sampan.api.docker.hijack import Hijack
from sampan.engine.keys import read_keys
from sampan.engine.live import Attachment, Exec
from sampan.engine.reading import read_body
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sampan.api.http.messages import Response
    from sampan.api.http.stream import Answer

__all__ = ["ROUTES"]


class _Create(msgspec.Struct, kw_only=True, rename="pascal"):
    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] = []
    working_dir: str = ""
    cmd: list[str] = []


class _Start(msgspec.Struct, kw_only=True, rename="pascal"):
    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


def create(context: Context) -> Response | Awaitable[Answer]:
    body = context.request.body.whole(BODY_LIMIT)
    return _create_later(context) if body is None else _create(context, context.read(body))


async def _create_later(context: Context) -> Response:
    """Its body is on its way."""
    return _create(context, await context.body())


def _create(context: Context, body: object) -> Response:
    asked = read_body(_Create, _without(body, _REPEATED))
    request = context.engine.execs.create(
        context.parameters[0],
        Exec(
            id="",
            container_id="",
            args=tuple(asked.cmd),
            env=tuple(asked.env),
            cwd=asked.working_dir,
            user=asked.user,
            tty=asked.tty,
            privileged=asked.privileged,
            stdin=asked.attach_stdin,
            stdout=asked.attach_stdout,
            stderr=asked.attach_stderr,
            detach_keys=asked.detach_keys,
            detach=asked.detach,
            console_size=asked.console_size,
        ),
    )
    return reply({"Id": request.id}, 201)


_REPEATED = ("container", "execids")
"""Old clients say once more what the path says."""
_CLIENTS_OWN = ("hijack", "stdin")
"""Node's client (dockerode) sends what it was told of its own connection."""


def _without(body: object, names: tuple[str, ...]) -> object:
    if not isinstance(body, dict):
        raise InvalidArgument("exec: expected a JSON object")
    return {key: value for key, value in body.items() if key.lower() not in names}


async def start(context: Context) -> Answer:
    asked = read_body(_Start, _without(await context.body() or {}, _CLIENTS_OWN))
    engine = context.engine
    request = engine.execs.startable(context.parameters[0])
    if asked.console_size:
        request.console_size = asked.console_size
    if asked.detach:
        await engine.execs.start(request, None)
        return empty(200)
    keys = read_keys(request.detach_keys) if request.tty else ()
    multiplex = not asked.tty  # whatever it was made with, this is what the client reads
    hijack = Hijack(context)
    fd = await hijack.take(frames.media_type(multiplex, context.version))
    stream = Attachment(
        fd=fd,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        multiplex=multiplex,
        detach_keys=keys,
    )
    try:
        await engine.execs.start(request, stream)
    except SampanError as problem:
        # HTTP is over: the stream is where the client reads.
        text = f"{wording(problem)}\r\n".encode()
        hijack.write(frames.frame(frames.STDERR, text) if multiplex else text)
    return await hijack.response()


def inspect(context: Context) -> Response:
    return reply(render.exec_json(context.engine.execs.find(context.parameters[0])))


async def resize(context: Context) -> Answer:
    rows, columns = read_size(context)
    await context.engine.execs.resize(context.parameters[0], rows, columns)
    return empty(200)


ROUTES = (
    ("POST", "/containers/{id}/exec", create),
    ("POST", "/exec/{id}/start", start),
    ("POST", "/exec/{id}/resize", resize),
    ("GET", "/exec/{id}/json", inspect),
)
