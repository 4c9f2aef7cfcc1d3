"""The API's tag *Image*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sampan.api.docker import credentials, progress
from sampan.api.docker.context import Context, empty, reply
from sampan.api.http.messages import Response
from sampan.errors import Corrupt, InvalidArgument, NotSupported
from sampan.image.types import to_seconds
from sampan.oci import platform as platforms
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from sampan.api.http.connection import Answer
    from sampan.engine.core import Engine
    from sampan.engine.progress import Reporter
    from sampan.image.types import Image

__all__ = ["ROUTES"]

T = TypeVar("T")

_line = msgspec.json.Encoder().encode


def _names(image: Image) -> tuple[list[str], list[str]]:
    return list(image.references), list(image.digests)


def _summary(engine: Engine, image: Image) -> dict[str, Any]:
    tags, digests = _names(image)
    users = sum(1 for live in engine.registry if live.record.image_id == image.id)
    return {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": int(image.created),
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.config.labels or {},
        "Containers": users,
    }


async def list_(context: Context) -> Answer:
    images = await context.engine.images.select(context.filters())
    return reply([_summary(context.engine, image) for image in images])


def _config(image: Image) -> dict[str, Any]:
    config = image.config
    shown: dict[str, Any] = {
        "Hostname": "",
        "Domainname": "",
        "User": config.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": list(config.env) or None,
        "Cmd": list(config.cmd) or None,
        "Image": "",
        "Volumes": config.volumes or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": list(config.on_build) or None,
        "Labels": config.labels or None,
    }
    if config.exposed_ports:
        shown["ExposedPorts"] = config.exposed_ports
    if config.stop_signal:
        shown["StopSignal"] = config.stop_signal
    if config.shell:
        shown["Shell"] = list(config.shell)
    if config.healthcheck is not None:
        shown["Healthcheck"] = config.healthcheck.to_json()
    return shown


async def inspect(context: Context) -> Answer:
    image = await context.engine.images.resolve(context.parameters[0])
    document = image.document
    tags, digests = _names(image)
    shown = {
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": image.parent,
        "Comment": document.comment or "",
        "Created": context.engine.images.created(image),
        "DockerVersion": document.docker_version or "",
        "Author": document.author or "",
        "Config": _config(image),
        "Architecture": document.architecture,
        "Os": document.os,
        "Size": image.size,
        "GraphDriver": {"Data": image.graph or None, "Name": image.driver},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": _moment(image.last_tag)},
    }
    if document.variant:
        shown["Variant"] = document.variant
    if document.os_version:
        shown["OsVersion"] = document.os_version
    if context.version < (1, 44):
        shown["VirtualSize"] = image.size
    return reply(shown)


def _moment(seconds: float) -> str:
    from sampan.engine.container import rfc3339

    return rfc3339(int(seconds * 1e9))


async def history(context: Context) -> Answer:
    """Steps, the youngest first; only the youngest carries the image's ID and names."""
    image = await context.engine.images.resolve(context.parameters[0])
    sizes: Iterator[int] = iter(context.engine.images.layer_sizes(image))
    steps: list[dict[str, Any]] = [
        {
            "Id": "<missing>",
            "Created": int(to_seconds(step.created)),
            "CreatedBy": step.created_by or "",
            "Tags": None,
            "Size": 0 if step.empty_layer else next(sizes, 0),
            "Comment": step.comment or "",
        }
        for step in image.document.history
    ]
    steps.reverse()
    if steps:
        steps[0].update(Id=image.id, Tags=list(image.references) or None)
    return reply(steps)


async def tag(context: Context) -> Answer:
    repository, name = context.text("repo"), context.text("tag")
    if not repository:
        raise InvalidArgument("repo: give the repository of the new name")
    target = f"{repository}:{name}" if name else repository
    await context.engine.images.tag(context.parameters[0], target)
    return empty(201)


async def remove(context: Context) -> Answer:
    if context.text("platforms"):
        raise NotSupported("platforms is not supported: an image here has one platform")
    removals = await context.engine.images.remove(
        context.parameters[0], force=context.flag("force")
    )
    return reply(
        [
            {"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted}
            for item in removals
        ]
    )


def _body(context: Context) -> AsyncIterator[bytes]:
    return aiter(context.request.body)


async def _uploaded(work: Awaitable[T]) -> T:
    """Bytes that are not what their format says are wrong as the client's, and not as ours."""
    try:
        return await work
    except Corrupt as problem:
        raise InvalidArgument(problem.message) from problem


async def load(context: Context) -> Answer:
    if context.text("platform"):
        raise NotSupported("platform is not supported: every image of the archive is loaded")
    loaded = await _uploaded(context.engine.images.load(_body(context)))
    lines = []
    for image in loaded:
        names = [f"Loaded image: {name}\n" for name in image.references]
        lines += names or [f"Loaded image ID: {image.id}\n"]
    return _stream([{"stream": text} for text in lines])


def _stream(messages: list[dict[str, Any]]) -> Response:
    body = b"".join(_line(message) + b"\r\n" for message in messages)
    return Response(200, body, "application/json")


async def create(context: Context) -> Answer:
    """Pull (``fromImage``) or import (``fromSrc``)."""
    source = context.text("fromSrc")
    if source:
        return await _import(context, source)
    return await _pull(context)


async def _pull(context: Context) -> Answer:
    name, tag_ = context.text("fromImage"), context.text("tag")
    if not name:
        raise InvalidArgument("give fromImage or fromSrc")
    reference = references.parse(name)
    if tag_ and not reference.digest:
        tail = f"@{tag_}" if ":" in tag_ else f":{tag_}"
        reference = references.parse(f"{reference.replace(tag=None)}{tail}")
    platform = platforms.parse(context.text("platform")) if context.text("platform") else None
    given = credentials.of_request(context)
    engine = context.engine
    from sampan.engine import pulls

    async def work(report: Reporter) -> None:
        whole = reference.tag is None and reference.digest is None
        task = pulls.pull_all if whole else pulls.pull
        await task(engine, reference, platform, given, report)

    return await progress.follow(context, work)


async def _import(context: Context, source: str) -> Answer:
    if source != "-":
        raise NotSupported(
            f"fromSrc {source}: import from an address is not supported; send the archive (-)"
        )
    repository, tag_ = context.text("repo"), context.text("tag")
    reference = (f"{repository}:{tag_}" if tag_ else repository) or None
    image_id = await _uploaded(
        context.engine.images.import_archive(
            _body(context),
            reference=reference,
            changes=context.request.query.all("changes"),
            message=context.text("message"),
            platform=context.text("platform") or None,
        )
    )
    return _stream([{"status": image_id}])


async def save_one(context: Context) -> Answer:
    return await _save(context, [context.parameters[0]])


async def save_many(context: Context) -> Answer:
    names = context.request.query.all("names")
    if not names:
        raise InvalidArgument("names: give at least one image")
    return await _save(context, [name for text in names for name in text.split(",")])


async def _save(context: Context, names: list[str]) -> Answer:
    if context.text("platform"):
        raise NotSupported("platform is not supported: an image here has one platform")
    stream = None
    # An error after the first piece cuts the connection: the status is sent.
    async for chunk in context.engine.images.save(names):
        if stream is None:
            stream = context.stream("application/x-tar")
        await stream.write(chunk)
    return stream or Response(200, b"", "application/x-tar")


ROUTES = (
    ("GET", "/images/json", list_),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("GET", "/images/get", save_many),
    ("GET", "/images/{name}/get", save_one),
    ("GET", "/images/{name}/json", inspect),
    ("GET", "/images/{name}/history", history),
    ("POST", "/images/{name}/tag", tag),
    ("DELETE", "/images/{name}", remove),
)
