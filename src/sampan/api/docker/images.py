"""The API's tag *Image*."""

from __future__ import annotations

import functools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sampan.api.docker import credentials, progress
from sampan.api.docker.context import Context, empty, ordered, reply
from sampan.api.docker.platforms import platform_of, platforms_of
from sampan.api.http.messages import Response
from sampan.errors import Corrupt, InvalidArgument, NotSupported
from sampan.image.types import check_platform, to_seconds
from sampan.oci import platform as platforms
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping

    from sampan.api.docker.versions import Version
    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine
    from sampan.engine.progress import Reporter
    from sampan.image.types import Image, Removal

__all__ = ["ROUTES", "summary"]

T = TypeVar("T")

_line = msgspec.json.Encoder().encode


def summary(
    engine: Engine, image: Image, version: Version, shared: Mapping[str, int]
) -> dict[str, Any]:
    tags, digests = list(image.references), list(image.digests)
    if version < (1, 43) and not tags and not digests:
        # Older clients know a nameless image by these words.
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    users = sum(1 for live in engine.registry if live.record.image_id == image.id)
    shown = {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": int(image.created),
        "Size": image.size,
        "SharedSize": shared.get(image.id, -1),
        "Labels": ordered(image.config.labels) or {},
        "Containers": users,
    }
    if version < (1, 44):
        shown["VirtualSize"] = image.size
    return shown


async def list_(context: Context) -> Answer:
    """What has a name, or nothing built on it; with ``all`` the steps between too.

    ``digests`` asks for what is always there, ``manifests`` for the platforms of each
    image's index.
    """
    engine = context.engine
    filters = context.filters()
    if "label!" in filters:
        raise InvalidArgument("invalid filter 'label!'")
    found = await engine.images.select(filters, steps=context.flag("all"))
    shared: Mapping[str, int] = {}
    if context.flag("shared-size"):
        shared = await engine.images.shared_sizes()
    shown = [summary(engine, image, context.version, shared) for image in found]
    if context.flag("manifests") and context.version >= (1, 47):
        from sampan.api.docker.image_members import members

        known = await engine.images.members(found)
        for image, fields in zip(found, shown, strict=True):
            if image.id in known:
                fields.update(members(engine, image, known[image.id], context.version))
    return reply(shown)


# A container's fields, which an image's configuration had before 1.50 and never filled.
_CONTAINERS_OWN: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Image": "",
}


def _config(image: Image) -> dict[str, Any]:
    config = image.config
    shown: dict[str, Any] = {
        "User": config.user,
        "Env": list(config.env) or None,
        "Cmd": list(config.cmd) or None,
        "Volumes": ordered(config.volumes) or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": list(config.on_build) or None,
        "Labels": ordered(config.labels) or None,
    }
    if config.exposed_ports:
        shown["ExposedPorts"] = ordered(config.exposed_ports)
    if config.stop_signal:
        shown["StopSignal"] = config.stop_signal
    if config.shell:
        shown["Shell"] = list(config.shell)
    if config.healthcheck is not None:
        shown["Healthcheck"] = config.healthcheck.to_json()
    return shown


async def inspect(context: Context) -> Answer:
    if context.flag("manifests") and context.text("platform"):
        raise InvalidArgument(
            "conflicting options: manifests and platform options cannot both be set"
        )
    image = await _resolve(context)
    document = image.document
    last = document.history[-1] if document.history else None
    shown: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": document.comment or (last.comment if last is not None else "") or "",
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
    if context.version < (1, 50):
        shown["Config"] |= _CONTAINERS_OWN
    if context.version < (1, 45) or _is_compose_1(context):
        shown |= {"Container": "", "ContainerConfig": shown["Config"]}
    return reply(shown)


def _is_compose_1(context: Context) -> bool:
    """docker-compose 1 speaks the newest version there is, and ends with a KeyError where it looks
    for a field that went with 1.45 (it asks for the image's volumes to recreate a container)."""
    return context.request.headers.get("user-agent", "").startswith("docker-compose/1.")


def _moment(seconds: float) -> str:
    from sampan.engine.container import rfc3339

    return rfc3339(int(seconds * 1e9))


async def history(context: Context) -> Answer:
    """Steps, the youngest first; that of an image that is here has its ID and names."""
    image = await _resolve(context)
    sizes: Iterator[int] = iter(context.engine.images.layer_sizes(image))
    steps: list[dict[str, Any]] = [
        {
            "Id": "<missing>",
            "Created": int(to_seconds(step.created)),
            "CreatedBy": step.created_by or "",
            "Tags": [],
            "Size": 0 if step.empty_layer else next(sizes, 0),
            "Comment": step.comment or "",
        }
        for step in image.document.history
    ]
    steps.reverse()
    here: Image | None = image
    for step in steps:
        if here is None:
            break
        step.update(Id=here.id, Tags=list(here.references))
        here = await context.engine.images.find(here.parent) if here.parent else None
    return reply(steps)


async def tag(context: Context) -> Answer:
    repository, name = context.text("repo"), context.text("tag")
    if not repository:
        raise InvalidArgument("repo: give the repository of the new name")
    target = f"{repository}:{name}" if name else repository
    await context.engine.images.tag(context.parameters[0], target)
    return empty(201)


async def remove(context: Context) -> Answer:
    wanted = platforms_of(context, "platforms")
    if len(wanted) > 1:
        raise InvalidArgument("platforms: an image here has one platform: name one")
    if wanted:
        image = await context.engine.images.resolve(context.parameters[0])
        check_platform(image.document, wanted[0], context.parameters[0])
    removals = await context.engine.images.remove(
        context.parameters[0],
        force=context.flag("force"),
        prune=not context.flag("noprune"),
    )
    return reply(_lines(removals))


def _lines(removals: Iterable[Removal]) -> list[dict[str, Any]]:
    return [
        {"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted}
        for item in removals
    ]


async def prune(context: Context) -> Answer:
    pruned = await context.engine.images.prune(context.filters())
    return reply({"ImagesDeleted": _lines(pruned.removals), "SpaceReclaimed": pruned.reclaimed})


async def _resolve(context: Context) -> Image:
    """The image of the path, which has to be of the platform asked for, if one is."""
    name = context.parameters[0]
    image = await context.engine.images.resolve(name)
    wanted = platform_of(context)
    if wanted is not None:
        check_platform(image.document, wanted, name)
    return image


def _body(context: Context) -> AsyncIterator[bytes]:
    return aiter(context.request.body)


async def _uploaded(work: Awaitable[T]) -> T:
    """Bytes that are not what their format says are wrong as the client's, and not as ours."""
    try:
        return await work
    except Corrupt as problem:
        raise InvalidArgument(problem.message) from problem


async def load(context: Context) -> Answer:
    platform = platform_of(context)
    images, quiet = context.engine.images, context.flag("quiet")

    async def work(report: Reporter) -> None:
        advance = None if quiet else functools.partial(report.advance_from_thread, "Loading layer")
        loaded = await _uploaded(images.load(_body(context), platform, advance))
        report.flush()
        for image in loaded:
            for name in image.references:
                report.line(f"Loaded image: {name}")
            if not image.references:
                report.line(f"Loaded image ID: {image.id}")

    return await progress.follow(context, work)


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


async def commit(context: Context) -> Answer:
    """An image from a container; the body, if any, is a configuration to begin with."""
    container = context.text("container")
    if not container:
        raise InvalidArgument("container: name the container to commit")
    repository, tag_ = context.text("repo"), context.text("tag")
    if tag_ and not repository:
        raise InvalidArgument("tag: give the repository of the new name too")
    from sampan.engine import commits
    from sampan.engine.config import ContainerConfig
    from sampan.engine.reading import read_body

    body = await context.body()
    image_id = await commits.commit(
        context.engine,
        container,
        repository=repository,
        tag=tag_,
        author=context.text("author"),
        comment=context.text("comment"),
        changes=context.request.query.all("changes"),
        config=read_body(ContainerConfig, body) if body else None,
        pause=context.flag("pause", True),
    )
    return reply({"Id": image_id}, 201)


async def save_one(context: Context) -> Answer:
    return await _save(context, [context.parameters[0]])


async def save_many(context: Context) -> Answer:
    names = context.request.query.all("names")
    if not names:
        raise InvalidArgument("names: give at least one image")
    return await _save(context, [name for text in names for name in text.split(",")])


async def _save(context: Context, names: list[str]) -> Answer:
    platform = platform_of(context)
    stream = None
    # An error after the first piece cuts the connection: the status is sent.
    async with aclosing(context.engine.images.save(names, platform)) as archive:
        async for chunk in archive:
            if stream is None:
                stream = context.stream("application/x-tar")
            await stream.write(chunk)
    return stream or Response(200, b"", "application/x-tar")


ROUTES = (
    ("GET", "/images/json", list_),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("POST", "/commit", commit),
    ("POST", "/images/prune", prune),
    ("GET", "/images/get", save_many),
    ("GET", "/images/{name}/get", save_one),
    ("GET", "/images/{name}/json", inspect),
    ("GET", "/images/{name}/history", history),
    ("POST", "/images/{name}/tag", tag),
    ("DELETE", "/images/{name}", remove),
)
