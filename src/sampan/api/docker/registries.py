"""What concerns registries: push, search, login, and the tag *Distribution*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.docker import credentials, progress
from sampan.api.docker.context import reply
from sampan.api.docker.platforms import platform_of
from sampan.engine.reading import read_body
from sampan.errors import InvalidArgument
from sampan.oci import image as oci
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.api.docker.context import Context
    from sampan.api.http.stream import Answer
    from sampan.engine.progress import Reporter
    from sampan.registry.types import Document

__all__ = ["ROUTES"]


async def push(context: Context) -> Answer:
    """One tag, or with none given all of a repository's."""
    name = references.parse(context.parameters[0])
    tag = context.text("tag")
    if name.digest:
        raise InvalidArgument("cannot push a digest reference")
    if tag:
        name = references.parse(f"{name.replace(tag=None)}:{tag}")
    platform = platform_of(context)
    given = credentials.of_request(context)
    engine = context.engine
    from sampan.engine import pushes

    async def work(report: Reporter) -> None:
        await pushes.push(engine, name, platform, given, report)

    return await progress.follow(context, work)


async def auth(context: Context) -> Answer:
    """Try credentials at a registry; a token in their place where it gives one."""
    body = await context.body()
    config = read_body(credentials.AuthConfig, body or {})
    from sampan.engine import logins

    token = await logins.login(context.engine, config.serveraddress or "", config.credentials())
    return reply({"Status": "Login Succeeded", "IdentityToken": token})


async def distribution(context: Context) -> Answer:
    """What a name stands for in its registry."""
    name = context.parameters[0]
    if len(name.removeprefix("sha256:")) == 64 and "/" not in name and "." not in name:
        raise InvalidArgument(f"no manifest found for full image ID {name}: give a name")
    reference = references.parse(name).tagged()
    from sampan.engine import logins

    found = await logins.look(context.engine, reference, credentials.of_request(context))
    top = found.top
    return reply(
        {
            "Descriptor": {
                "mediaType": top.media_type,
                "digest": top.digest,
                "size": len(top.data),
            },
            "Platforms": _platforms(top, found.config),
        }
    )


async def search(context: Context) -> Answer:
    """A registry's repositories by a word."""
    from sampan.engine import searches

    found = await searches.search(
        context.engine,
        context.text("term"),
        context.integer("limit"),
        context.filters(searches.FILTERS),
        credentials.of_request(context),
    )
    return reply(
        [
            {
                "star_count": hit.stars,
                "is_official": hit.official,
                "name": hit.name,
                "is_automated": hit.automated,
                "description": hit.description,
            }
            for hit in found
        ]
    )


def _platforms(top: Document, config: bytes) -> list[dict[str, Any]]:
    if oci.is_index(top.media_type):
        index = oci.Index.from_json(msgspec.json.decode(top.data))
        found = [item.platform for item in index.manifests]
        return [platform.to_json() for platform in found if platform is not None]
    document = oci.Image.from_json(msgspec.json.decode(config))
    shown = {"architecture": document.architecture, "os": document.os}
    if document.variant:
        shown["variant"] = document.variant
    return [shown]


ROUTES = (
    ("POST", "/images/{name}/push", push),
    ("GET", "/images/search", search),
    ("POST", "/auth", auth),
    ("GET", "/distribution/{name}/json", distribution),
)
