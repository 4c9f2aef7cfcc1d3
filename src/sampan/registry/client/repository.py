"""Manifests and tags of one repository (distribution specification, "Pulling manifests", "Pushing
manifests", "Content discovery").

Every manifest is held against a digest: the one it was asked by, or the one the registry names in
``Docker-Content-Digest``. A manifest of more than 4 MiB is refused, as the specification advises
registries to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from sampan.errors import Corrupt, NotFound, NotSupported, SampanError
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.registry.client.errors import refusal
from sampan.registry.client.session import pull_scope, push_scope
from sampan.registry.types import MANIFEST_LIMIT, Document

if TYPE_CHECKING:
    from sampan.registry.client.http import Response
    from sampan.registry.client.session import Session
    from sampan.registry.client.urls import Url

__all__ = ["Repository", "next_page", "read_tags"]

_TAGS_LIMIT = 100_000
_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_ACCEPT = ", ".join((oci.MANIFEST, oci.INDEX, oci.DOCKER_MANIFEST, oci.DOCKER_INDEX))


class _Type(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType", default="")
    schema_version: int = msgspec.field(name="schemaVersion", default=0)
    config: object = None
    manifests: object = None


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class Repository:
    """``name`` is the repository's path in the registry: ``library/busybox``."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.pull = (pull_scope(name),)
        self.push = (push_scope(name),)

    def path(self, rest: str) -> str:
        return f"/v2/{self.name}/{rest}"

    async def manifest(self, reference: str) -> Document:
        """By tag or digest. Raises NotFound, Corrupt, NotSupported (schema 1)."""
        wanted = reference if digests.is_digest(reference) else None
        path = self.path(f"manifests/{reference}")
        async with self.session.request(
            "GET", path, {"Accept": _ACCEPT}, scopes=self.pull
        ) as response:
            if response.status != 200:
                raise await refusal(response, f"manifest {self.name}:{reference}")
            if (response.length or 0) > MANIFEST_LIMIT:
                raise SampanError(
                    f"{response.url.shown}: a manifest of {response.length} bytes: more than "
                    f"{MANIFEST_LIMIT} are refused"
                )
            data = await response.read(MANIFEST_LIMIT)
            claimed = response.head.fields.get("docker-content-digest", "")
            declared = response.head.fields.get("content-type", "").partition(";")[0].strip()
            shown = response.url.shown
        expected = wanted or (claimed if digests.is_digest(claimed) else None)
        digest = digests.of(data, expected or "sha256:")
        if expected is not None and digest != expected:
            raise Corrupt(f"{shown}: expected manifest {expected}, found {digest}")
        return Document(_media_type(data, declared, shown), digest, data)

    async def digest_of(self, tag: str) -> str | None:
        """What a tag stands for, as far as HEAD tells; None if there is none."""
        path = self.path(f"manifests/{tag}")
        async with self.session.request(
            "HEAD", path, {"Accept": _ACCEPT}, scopes=self.pull
        ) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise await refusal(response, f"manifest {self.name}:{tag}")
            claimed = response.head.fields.get("docker-content-digest", "")
            return claimed if digests.is_digest(claimed) else None

    async def put_manifest(self, reference: str, document: Document) -> bool:
        """Store a manifest under a tag or its digest; whether the registry says that it has taken
        notice of the manifest's subject. Raises SampanError.
        """
        path = self.path(f"manifests/{reference}")
        async with self.session.request(
            "PUT", path, {"Content-Type": document.media_type}, document.data, scopes=self.push
        ) as response:
            if response.status not in (200, 201, 202):
                raise await refusal(response, f"put manifest {self.name}:{reference}")
            await response.read(1 << 16, cut=True)
            said = response.head.fields.get("docker-content-digest", "")
            if digests.is_digest(said) and said.partition(":")[0] == "sha256":
                stored = digests.of(document.data)
                if said != stored:
                    raise Corrupt(
                        f"{response.url.shown}: sent manifest {stored}, the registry stored {said}"
                    )
            return "oci-subject" in response.head.fields

    async def delete(self, reference: str) -> None:
        """Remove a tag, or a manifest by its digest. Raises NotFound, Refused."""
        path = self.path(f"manifests/{reference}")
        scopes = (f"repository:{self.name}:delete,pull",)
        async with self.session.request("DELETE", path, scopes=scopes) as response:
            if response.status != 202:
                raise await refusal(response, f"delete {self.name}:{reference}")
            await response.read(1 << 16, cut=True)

    async def tags(self) -> list[str]:
        """Every tag, page by page. Raises NotFound, SampanError past 100,000."""
        found: list[str] = []
        target: str | Url = self.path("tags/list")
        while target:
            async with self.session.request("GET", target, scopes=self.pull) as response:
                if response.status != 200:
                    raise await refusal(response, f"tags of {self.name}")
                page = await read_tags(response)
                link = next_page(response)
                here = response.url
            found += page
            if len(found) > _TAGS_LIMIT or (link and not page):
                raise SampanError(f"{here.shown}: a list of tags without an end: refused")
            target = here.join(link) if link else ""
        if not found:
            raise NotFound(f"tags of {self.name}: name unknown: the repository has no tags")
        return found

    async def blob(self, digest: str, limit: int = MANIFEST_LIMIT) -> bytes:
        """A small blob (a configuration), verified. Raises NotFound, Corrupt."""
        path = self.path(f"blobs/{digest}")
        async with self.session.request("GET", path, scopes=self.pull) as response:
            if response.status != 200:
                raise await refusal(response, f"blob {digest} of {self.name}")
            data = await response.read(limit)
            shown = response.url.shown
        found = digests.of(data, digest)
        if found != digest:
            raise Corrupt(f"{shown}: expected blob {digest}, found {found}")
        return data

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has it (HEAD), for who is about to push."""
        path = self.path(f"blobs/{digest}")
        async with self.session.request("HEAD", path, scopes=self.push) as response:
            if response.status in (200, 404):
                return response.status == 200
            raise await refusal(response, f"blob {digest} of {self.name}")


async def read_tags(response: Response) -> list[str]:
    """One page of a list of tags. Raises Corrupt."""
    data = await response.read(MANIFEST_LIMIT)
    try:
        return msgspec.json.decode(data, type=_Tags).tags or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{response.url.shown}: not a list of tags: {error}") from error


def next_page(response: Response) -> str:
    """The target of ``Link: <…>; rel="next"`` (RFC 8288); nothing on the last page."""
    target, _, rest = response.head.fields.get("link", "").partition(">")
    if not target.startswith("<") or "next" not in rest:
        return ""
    return quote(target[1:], safe="/:?&=%+,;@!$'()*~[]#")


def _media_type(data: bytes, declared: str, shown: str) -> str:
    """What the document says it is; where it says nothing, what the registry says.

    Both, and what is in it, have to agree: a document that is a manifest to one and an index to
    another reader is an attack (CVE-2021-41190).
    """
    if declared in _SCHEMA_1:
        raise NotSupported(
            f"{shown}: its manifest has schema 1, which no current engine takes: push the image "
            "again with a newer client"
        )
    try:
        inside = msgspec.json.decode(data, type=_Type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{shown}: not a manifest: {error}") from error
    if inside.schema_version == 1:
        raise NotSupported(f"{shown}: its manifest has schema 1, which no current engine takes")
    known = inside.media_type or declared
    if not (oci.is_manifest(known) or oci.is_index(known)):
        known = oci.INDEX if inside.manifests is not None else oci.MANIFEST
    wrong = inside.manifests is not None if oci.is_manifest(known) else inside.config is not None
    if wrong or (inside.media_type and declared and _differ(inside.media_type, declared)):
        raise Corrupt(
            f"{shown}: ambiguous: media type {known or 'none'}, sent as {declared or 'none'}, with "
            f"{'both' if wrong else 'other'} contents"
        )
    return known


def _differ(one: str, other: str) -> bool:
    """Whether two types, as far as we know them, make different things of a document."""
    return (oci.is_manifest(one) and oci.is_index(other)) or (
        oci.is_index(one) and oci.is_manifest(other)
    )
