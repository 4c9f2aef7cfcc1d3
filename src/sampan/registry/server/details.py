"""One manifest, told to people: an image's configuration, layers and history, an index's platforms,
what refers to it.

Whatever is in these documents was written by whoever pushed them. What is not of the form that the
image specification 1.1 demands is left out here, never refused: the bytes are what they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.oci.image import is_index, is_layer
from sampan.registry.server import documents, listing
from sampan.registry.server.errors import BlobUnknown, ManifestUnknown

if TYPE_CHECKING:
    from sampan.registry.server.core import Registry
    from sampan.registry.server.place import Place

__all__ = ["Configuration", "Details", "Layer", "Platform", "Referrer", "Step", "describe"]

_TAGS = 100
_MOST = 1000
"""Entries of any one list that are told."""
_COSIGN = {"sig": "signature", "att": "attestation", "sbom": "SBOM"}
_ATTESTS = ("vnd.docker.reference.type", "vnd.docker.reference.digest")
_MANIFEST = """SELECT m.id, d.digest, m.media_type, m.artifact_type, m.annotations, m.created,
    m.pulls, m.pulled, m.subject, d.data, r.id FROM repositories r
    JOIN documents d ON d.digest = ?2 JOIN manifests m ON m.repository = r.id
    AND m.document = d.id WHERE r.name = ?1"""


class Platform(msgspec.Struct, frozen=True, rename="camel"):
    """A manifest of an index; ``size`` of its blobs, None where this repository has not got it."""

    platform: str
    digest: str
    media_type: str
    size: int | None
    annotations: dict[str, str] = {}


class Layer(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str
    title: str = ""


class Step(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of an image's history; ``layer`` is the place of its layer, None without one."""

    created: str
    created_by: str
    comment: str
    layer: int | None


class Referrer(msgspec.Struct, frozen=True, rename="camel"):
    """``kind`` where it is not known by its artifact type: of what a tag of cosign's names, of an
    attestation within an index.
    """

    digest: str
    artifact_type: str
    media_type: str
    size: int
    kind: str = ""
    annotations: dict[str, str] = {}


class Configuration(msgspec.Struct, frozen=True, rename="camel"):
    """What a container of the image begins with (image-spec, config.md)."""

    platform: str = ""
    created: str = ""
    author: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = {}


class Details(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """``size`` is the document's own; times are seconds since the epoch."""

    digest: str
    media_type: str
    artifact_type: str
    size: int
    pushed: float
    pulls: int
    pulled: float | None
    subject: str | None
    tags: tuple[str, ...]
    annotations: dict[str, str]
    platforms: tuple[Platform, ...] = ()
    configuration: Configuration | None = None
    layers: tuple[Layer, ...] = ()
    history: tuple[Step, ...] = ()
    referrers: tuple[Referrer, ...] = ()
    more_referrers: bool = False


def describe(registry: Registry, repository: str, digest: str) -> Details:
    """Raises ManifestUnknown."""
    place = registry.place
    row = place.database.row(_MANIFEST, (repository, digest))
    if row is None:
        raise ManifestUnknown(f"{repository} has no manifest {digest}", {"name": digest})
    manifest, _, media_type, artifact_type, annotations, created, pulls, pulled, subject = row[:9]
    document = _object(_decoded(row[9]))
    facts = documents.read(media_type, row[9])
    tags = place.database.rows(
        "SELECT name FROM tags WHERE manifest = ? ORDER BY version DESC, name DESC LIMIT ?",
        (manifest, _TAGS),
    )
    platforms, attestations = (
        _platforms(place, manifest, document) if is_index(media_type) else ((), ())
    )
    configuration = None
    history: tuple[Step, ...] = ()
    layers = tuple(_layers(document))
    # BuildKit's attestations have an image's configuration and no layer.
    unpacks = all(is_layer(one.media_type) for one in layers)
    if facts.config and unpacks and not document.get("artifactType"):
        configuration, history = _image(registry, repository, facts.config)
    said = listing.referrers(place, repository, digest, "", 0)
    return Details(
        digest=digest,
        media_type=media_type,
        artifact_type=artifact_type,
        size=len(row[9]),
        pushed=created,
        pulls=pulls,
        pulled=pulled,
        subject=subject,
        tags=tuple(tag[0] for tag in tags),
        annotations=json.loads(annotations),
        platforms=platforms,
        configuration=configuration,
        layers=layers,
        history=history,
        referrers=(
            *(_referrer(one) for one in said.descriptors[:_MOST]),
            *_signed(place, row[10], digest),
            *attestations,
        ),
        more_referrers=bool(said.next),
    )


# -- an index --------------------------------------------------------------------------------------


def _platforms(
    place: Place, manifest: int, document: dict[str, Any]
) -> tuple[tuple[Platform, ...], tuple[Referrer, ...]]:
    """Its images, and what else BuildKit puts beside them: attestations."""
    sizes = dict(
        place.database.rows(
            """SELECT d.digest, (SELECT coalesce(sum(b.size), 0) FROM uses u
                    JOIN blobs b ON b.id = u.blob WHERE u.manifest = c.child)
                FROM children c JOIN manifests m ON m.id = c.child
                JOIN documents d ON d.id = m.document WHERE c.manifest = ?""",
            (manifest,),
        )
    )
    found, beside = [], []
    for one in map(_object, _list(document.get("manifests"))):
        platform = _object(one.get("platform"))
        words = [_text(platform.get(key)) for key in ("os", "architecture", "variant")]
        notes = _texts_by_name(one.get("annotations"))
        digest = _text(one.get("digest"))
        kind = notes.get(_ATTESTS[0], "")
        if kind:
            beside.append(
                Referrer(
                    digest=digest,
                    artifact_type=_text(one.get("artifactType")),
                    media_type=_text(one.get("mediaType")),
                    size=_count(one.get("size")),
                    kind=kind.removesuffix("-manifest"),
                    annotations=notes,
                )
            )
            continue
        found.append(
            Platform(
                platform=documents.platform_text(*words),
                digest=digest,
                media_type=_text(one.get("mediaType")),
                size=sizes.get(digest),
                annotations=notes,
            )
        )
    return tuple(found), tuple(beside)


# -- an image --------------------------------------------------------------------------------------


def _layers(document: dict[str, Any]) -> list[Layer]:
    entries = _list(document.get("layers")) or _list(document.get("blobs"))
    return [
        Layer(
            digest=_text(one.get("digest")),
            size=_count(one.get("size")),
            media_type=_text(one.get("mediaType")),
            title=_texts_by_name(one.get("annotations")).get("org.opencontainers.image.title", ""),
        )
        for one in map(_object, entries)
    ]


def _image(
    registry: Registry, repository: str, digest: str
) -> tuple[Configuration | None, tuple[Step, ...]]:
    try:
        found = _object(_decoded(registry.manifests.configuration(repository, digest)))
    except BlobUnknown:
        return None, ()  # its bytes are in quarantine
    inside = _object(found.get("config"))
    words = [_text(found.get(key)) for key in ("os", "architecture", "variant")]
    configuration = Configuration(
        platform=documents.platform_text(*words),
        created=_text(found.get("created")),
        author=_text(found.get("author")),
        user=_text(inside.get("User")),
        entrypoint=_texts(inside.get("Entrypoint")),
        cmd=_texts(inside.get("Cmd")),
        env=_texts(inside.get("Env")),
        working_dir=_text(inside.get("WorkingDir")),
        exposed_ports=tuple(_object(inside.get("ExposedPorts")))[:_MOST],
        volumes=tuple(_object(inside.get("Volumes")))[:_MOST],
        stop_signal=_text(inside.get("StopSignal")),
        labels=_texts_by_name(inside.get("Labels")),
    )
    history, layer = [], 0
    for one in map(_object, _list(found.get("history"))):
        empty = one.get("empty_layer") is True
        history.append(
            Step(
                created=_text(one.get("created")),
                created_by=_text(one.get("created_by")),
                comment=_text(one.get("comment")),
                layer=None if empty else layer,
            )
        )
        layer += not empty
    return configuration, tuple(history)


# -- what refers to it -----------------------------------------------------------------------------


def _referrer(descriptor: dict[str, Any]) -> Referrer:
    return Referrer(
        digest=_text(descriptor.get("digest")),
        artifact_type=_text(descriptor.get("artifactType")),
        media_type=_text(descriptor.get("mediaType")),
        size=_count(descriptor.get("size")),
        annotations=_texts_by_name(descriptor.get("annotations")),
    )


def _signed(place: Place, repository: int, digest: str) -> list[Referrer]:
    """What cosign has put beside it by tags, before there were referrers."""
    base = digest.replace(":", "-")
    names = {f"{base}.{ending}": kind for ending, kind in _COSIGN.items()}
    rows = place.database.rows(
        """SELECT t.name, d.digest, m.artifact_type, m.media_type, length(d.data), m.annotations
            FROM tags t JOIN manifests m ON m.id = t.manifest JOIN documents d ON d.id = m.document
            WHERE t.repository = ? AND t.name IN (?, ?, ?) AND m.subject IS NULL""",
        (repository, *names),
    )
    return [
        Referrer(row[1], row[2], row[3], row[4], names[row[0]], json.loads(row[5])) for row in rows
    ]


# -- JSON of strangers -----------------------------------------------------------------------------


def _decoded(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value[:_MOST] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in _list(value) if isinstance(one, str))


def _texts_by_name(value: object) -> dict[str, str]:
    found = {key: one for key, one in _object(value).items() if isinstance(one, str)}
    return dict(list(found.items())[:_MOST])


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
