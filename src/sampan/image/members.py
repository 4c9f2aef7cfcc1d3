"""What an image's index listed when it was pulled: the platforms there are, and which is here.

A store of one platform for each image keeps the index as it came (``records.manifests``), so what
else there would be to pull is known without asking the registry. Attestations are BuildKit's
manifests for "unknown/unknown", with the digest they are about in an annotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.oci import image as oci
from sampan.oci.platform import Platform

if TYPE_CHECKING:
    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.registry.types import Document

__all__ = ["Member", "Members", "members_of"]

_KIND = "vnd.docker.reference.type"
_ABOUT = "vnd.docker.reference.digest"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest. ``here``: it is the one whose layers are in the store; ``content`` bytes are
    kept of it beside them. ``about`` is what an attestation attests, empty for images.
    """

    descriptor: oci.Descriptor
    platform: Platform
    here: bool
    content: int
    about: str = ""


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """``target`` is what the image's name stood for: an index, or a manifest alone."""

    target: oci.Descriptor
    manifests: tuple[Member, ...]


def members_of(records: ImageRecords, image: Image) -> Members | None:
    """None for an image that came with no manifest: built, imported, committed."""
    kept = records.manifests(image.id)
    manifest = next((one for one in kept if oci.is_manifest(one.media_type)), None)
    if manifest is None:
        return None
    config = len(records.config(image.id))
    document = image.document
    own = Platform(
        os=document.os, architecture=document.architecture, variant=document.variant or None
    )
    found = []
    target = _described(manifest)
    index = next((one for one in kept if oci.is_index(one.media_type)), None)
    if index is not None:
        target = _described(index)
        for one in oci.Index.from_json(msgspec.json.decode(index.data)).manifests:
            here = one.digest == manifest.digest
            found.append(
                Member(
                    descriptor=one,
                    platform=one.platform or own,
                    here=here,
                    content=len(manifest.data) + config if here else 0,
                    about=one.annotations.get(_ABOUT, "") if _KIND in one.annotations else "",
                )
            )
    if not any(one.here for one in found):  # alone, or below an index that the index lists
        content = len(manifest.data) + config
        found.append(
            Member(descriptor=_described(manifest), platform=own, here=True, content=content)
        )
    return Members(target=target, manifests=tuple(found))


def _described(document: Document) -> oci.Descriptor:
    return oci.Descriptor(
        media_type=document.media_type, digest=document.digest, size=len(document.data)
    )
