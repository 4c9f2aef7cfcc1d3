"""What a registry has to know of a manifest: bytes in, facts out, no I/O.

OCI image manifests and indexes (image-spec 1.1) and Docker's schema 2 are read strictly; a document
that is both a manifest and an index is refused, since two readers would disagree about it
(CVE-2021-41190). Of every other media type nothing is demanded: where it is a JSON object that
names things as these do, those are kept with it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sampan.oci import digest as digests
from sampan.oci.image import is_index, is_manifest
from sampan.registry.server.errors import ManifestInvalid, Unsupported

__all__ = ["ARTIFACT", "Facts", "Named", "labels_and_platforms", "platform_text", "read"]

ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
_OLD = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
T = TypeVar("T")


class _Platform(msgspec.Struct, rename="camel"):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: list[str] | None = None
    platform: _Platform | None = None


class _Manifest(msgspec.Struct, rename="camel"):
    schema_version: int
    config: _Descriptor
    layers: list[_Descriptor] | None
    media_type: str = ""
    artifact_type: str | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None
    manifests: object = None


class _Config(_Platform):
    """What search wants of an image's configuration."""

    config: dict[str, msgspec.Raw] | None = None


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int
    manifests: list[_Descriptor] | None
    media_type: str = ""
    artifact_type: str | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None
    layers: object = None


class _Other(msgspec.Struct, rename="camel"):
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    media_type: str = ""
    artifact_type: str | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


class _MediaType(msgspec.Struct, rename="camel"):
    media_type: str = ""
    manifests: object = None


class Named(msgspec.Struct, frozen=True):
    """Something that a manifest names. ``required``: it must be in the repository.

    ``size`` is negative where the document does not say it.
    """

    digest: str
    size: int
    required: bool


class Facts(msgspec.Struct, frozen=True):
    """``config`` is the digest of a configuration that is an image's, or empty."""

    media_type: str
    artifact_type: str = ""
    subject: str | None = None
    config: str = ""
    blobs: tuple[Named, ...] = ()
    children: tuple[Named, ...] = ()
    annotations: dict[str, str] = {}
    platforms: tuple[str, ...] = ()


def read(media_type: str, data: bytes) -> Facts:
    """The facts of a document that is said to be of ``media_type``; "" where nothing was said.

    Raises ManifestInvalid, Unsupported.
    """
    if not media_type:
        media_type = _own_type(data)
    if media_type in _OLD:
        raise Unsupported(f"{media_type}: manifests of Docker's schema 1 are not stored")
    if is_manifest(media_type):
        return _manifest(media_type, data)
    if is_index(media_type):
        return _index(media_type, data)
    return _other(media_type, data)


def labels_and_platforms(data: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Of an image's configuration, as far as it can be read."""
    try:
        found = msgspec.json.decode(data, type=_Config)
        raw = (found.config or {}).get("Labels", msgspec.Raw(b"null"))
        labels = msgspec.json.decode(raw, type=dict[str, str] | None) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}, ()  # not ours to judge: the bytes are what the digest says
    platform = platform_text(found.os, found.architecture, found.variant)
    return labels, (platform,) if platform else ()


def platform_text(os: str, architecture: str, variant: str = "") -> str:
    """``linux/arm64/v8``."""
    return "/".join(filter(None, (os, architecture, variant)))


def _own_type(data: bytes) -> str:
    found = _decode(data, _MediaType)
    if not found.media_type:
        raise ManifestInvalid("the manifest's media type is neither in Content-Type nor in it")
    return found.media_type


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest cannot be read: {error}") from error


def _agree(media_type: str, own: str, version: int) -> None:
    if version != 2:
        raise ManifestInvalid(f"schemaVersion is {version}: expected 2")
    if own and own != media_type:
        raise ManifestInvalid(f"the manifest says it is {own}, its Content-Type {media_type}")


def _manifest(media_type: str, data: bytes) -> Facts:
    found = _decode(data, _Manifest)
    _agree(media_type, found.media_type, found.schema_version)
    if found.manifests is not None:
        raise ManifestInvalid("the document is a manifest and an index (CVE-2021-41190)")
    config = found.config
    is_image = "image.config" in config.media_type or "container.image" in config.media_type
    return Facts(
        media_type=media_type,
        artifact_type=found.artifact_type or config.media_type,
        subject=_subject(found.subject),
        config=config.digest if is_image else "",
        blobs=tuple(_named(one) for one in (config, *(found.layers or ()))),
        annotations=found.annotations or {},
    )


def _index(media_type: str, data: bytes) -> Facts:
    found = _decode(data, _Index)
    _agree(media_type, found.media_type, found.schema_version)
    if found.layers is not None:
        raise ManifestInvalid("the document is an index and a manifest (CVE-2021-41190)")
    children = found.manifests or []
    platforms = [
        platform_text(one.platform.os, one.platform.architecture, one.platform.variant)
        for one in children
        if one.platform is not None and one.platform.os not in ("", "unknown")
    ]
    return Facts(
        media_type=media_type,
        artifact_type=found.artifact_type or "",
        subject=_subject(found.subject),
        children=tuple(_named(one) for one in children),
        annotations=found.annotations or {},
        platforms=tuple(dict.fromkeys(platforms)),
    )


def _other(media_type: str, data: bytes) -> Facts:
    try:
        found = _decode(data, _Other)
        strict = media_type == ARTIFACT
        blobs = [_named(one, strict) for one in (found.config, *_all(found)) if one is not None]
        return Facts(
            media_type=media_type,
            artifact_type=found.artifact_type or "",
            subject=_subject(found.subject),
            blobs=tuple(blobs),
            children=tuple(_named(one, False) for one in found.manifests or ()),
            annotations=found.annotations or {},
        )
    except ManifestInvalid:
        if media_type == ARTIFACT:
            raise
        return Facts(media_type=media_type)  # bytes, of which we know nothing


def _all(found: _Other) -> list[_Descriptor]:
    return [*(found.layers or ()), *(found.blobs or ())]


def _subject(descriptor: _Descriptor | None) -> str | None:
    return None if descriptor is None else _named(descriptor).digest


def _named(descriptor: _Descriptor, strict: bool = True) -> Named:
    if not digests.is_digest(descriptor.digest):
        raise ManifestInvalid(f'the manifest names "{descriptor.digest}", which is no digest')
    if descriptor.size < 0:
        raise ManifestInvalid(f"the manifest gives {descriptor.digest} a negative size")
    foreign = bool(descriptor.urls) or any(
        word in descriptor.media_type for word in (".nondistributable.", ".foreign.")
    )
    return Named(descriptor.digest, descriptor.size, strict and not foreign)
