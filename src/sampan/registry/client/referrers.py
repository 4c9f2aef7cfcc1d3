"""Referrers of a manifest: by the API (distribution specification, "Listing Referrers"), and where
a registry has none, by the tag of its fallback ("Referrers Tag Schema"): an index called
``sha256-<hex>``, which clients keep themselves.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.errors import Corrupt, SampanError
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.registry.client.errors import Missing, refusal
from sampan.registry.client.repository import next_page
from sampan.registry.types import MANIFEST_LIMIT, Document

if TYPE_CHECKING:
    from sampan.registry.client.repository import Repository
    from sampan.registry.client.urls import Url

__all__ = ["add_referrer", "referrers"]

_MOST = 2000


class _Listed(msgspec.Struct):
    digest: str = ""


class _Index(msgspec.Struct):
    manifests: list[_Listed] | None = None


async def referrers(repository: Repository, digest: str) -> list[str]:
    """Digests of what refers to a manifest. Raises Corrupt, SampanError."""
    found: list[str] = []
    target: str | Url = repository.path(f"referrers/{digest}")
    while target:
        async with repository.session.request("GET", target, scopes=repository.pull) as response:
            if response.status == 404 and not found:
                await response.read(1 << 16, cut=True)
                return await _by_tag(repository, digest)
            if response.status != 200:
                raise await refusal(response, f"referrers of {repository.name}@{digest}")
            data = await response.read(MANIFEST_LIMIT)
            link = next_page(response)
            here = response.url
        page = _digests(data, here.shown)
        found += page
        if len(found) > _MOST or (link and not page):
            raise SampanError(f"{here.shown}: a list of referrers without an end: refused")
        target = here.join(link) if link else ""
    return list(dict.fromkeys(found))


async def _by_tag(repository: Repository, digest: str) -> list[str]:
    document = await _tagged(repository, digest)
    return _digests(document.data, repository.name) if document is not None else []


async def _tagged(repository: Repository, digest: str) -> Document | None:
    try:
        document = await repository.manifest(_tag(digest))
    except Missing:
        return None
    return document if oci.is_index(document.media_type) else None


def _tag(digest: str) -> str:
    return digest.replace(":", "-")[:128]


def _digests(data: bytes, where: str) -> list[str]:
    try:
        listed = msgspec.json.decode(data, type=_Index).manifests or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{where}: not a list of referrers: {error}") from error
    for one in listed:
        if not digests.is_digest(one.digest):
            raise Corrupt(f"{where}: {one.digest[:200]!r} is not a digest")
    return [one.digest for one in listed]


async def add_referrer(repository: Repository, document: Document) -> None:
    """List a manifest at the tag of its subject's fallback, for a registry without the API.

    Nothing protects the tag from another client that does so at the same moment: the specification
    has nothing to offer there.
    """
    said = json.loads(document.data)
    descriptor = {
        "mediaType": document.media_type,
        "digest": document.digest,
        "size": len(document.data),
    }
    kind = said.get("artifactType") or (said.get("config") or {}).get("mediaType")
    if kind:
        descriptor["artifactType"] = kind
    if said.get("annotations"):
        descriptor["annotations"] = said["annotations"]
    subject = str(said["subject"]["digest"])
    known = await _tagged(repository, subject)
    index = json.loads(known.data) if known is not None else _empty()
    listed = index.get("manifests") or []
    if any(one.get("digest") == document.digest for one in listed):
        return
    index["manifests"] = [*listed, descriptor]
    data = json.dumps(index, separators=(",", ":")).encode()
    await repository.put_manifest(_tag(subject), Document(oci.INDEX, digests.of(data), data))


def _empty() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}
