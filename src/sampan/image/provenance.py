"""Where an archive's image came from: its manifest as it was, and the repositories that have it.

An image keeps its digest on the way through an archive only if the very bytes that the digest is of
go along. They do where they are known and name the layers that the archive holds. That a
repository has them is said by containerd's annotation ``containerd.io/distribution.source.DOMAIN:
PATH,…`` on the descriptor that leads to them. A manifest that was made for an archive has none, and
is nobody's when it is read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Corrupt, InvalidArgument
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import platform as platforms
from sampan.oci import reference as references
from sampan.oci.selection import select
from sampan.registry.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.image.bundle import Bundle
    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.oci.reference import Reference

__all__ = ["Origin", "origin_of", "origins_in", "place"]

_SOURCE = "containerd.io/distribution.source."


class Origin(msgspec.Struct, frozen=True):
    """A manifest of an image, as it was; ``top`` led to it, and is what ``names`` have by digest.

    ``config`` and ``layers`` are what the manifest names, by digest.
    """

    manifest: Document
    top: Document
    names: tuple[Reference, ...]
    config: str
    layers: tuple[str, ...]

    @property
    def documents(self) -> tuple[Document, ...]:
        """Both, each once, what is led to first."""
        return (self.manifest,) if self.manifest == self.top else (self.manifest, self.top)

    @property
    def descriptor(self) -> oci.Descriptor:
        """Of ``top``, with where it is."""
        paths: dict[str, list[str]] = {}
        for name in self.names:
            paths.setdefault(name.domain, []).append(name.path)
        return oci.Descriptor(
            media_type=self.top.media_type,
            digest=self.top.digest,
            size=len(self.top.data),
            annotations={_SOURCE + domain: ",".join(found) for domain, found in paths.items()},
        )


def place(digest: str) -> str:
    """Where an OCI layout has a blob."""
    algorithm, encoded = digests.parse(digest)
    return f"blobs/{algorithm}/{encoded}"


def origin_of(records: ImageRecords, image: Image, layers: Sequence[str]) -> Origin | None:
    """What is to go along with an image whose layers leave as these blobs, if there is any.

    The index that led to it only where it leads to it for this machine: who reads the archive
    follows it, and finds one of its platforms.
    """
    kept = records.manifests(image.id)
    named = [references.parse(name) for name in image.digests]
    for document in kept:
        if not oci.is_manifest(document.media_type):
            continue
        manifest = oci.Manifest.from_json(msgspec.json.decode(document.data))
        if tuple(layer.digest for layer in manifest.layers) != tuple(layers):
            continue
        for top in (*filter(_is_index, kept), document):
            names = tuple(name for name in named if name.digest == top.digest)
            if names and (top is document or _leads(top, document)):
                return Origin(document, top, names, image.id, tuple(layers))
    return None


def _is_index(document: Document) -> bool:
    return oci.is_index(document.media_type)


def _leads(index: Document, manifest: Document) -> bool:
    items = oci.Index.from_json(msgspec.json.decode(index.data)).manifests
    chosen = select(items, platforms.machine())
    return chosen is not None and chosen.digest == manifest.digest


def origins_in(bundle: Bundle) -> list[Origin]:
    """What an archive says of where its images came from. Raises Corrupt, InvalidArgument."""
    if not bundle.has("index.json"):
        return []
    index = _index(bundle.document("index.json"), "index.json")
    return [origin for item in index.manifests for origin in _origins(bundle, item)]


def _origins(bundle: Bundle, item: oci.Descriptor) -> Iterator[Origin]:
    sources = {key: value for key, value in item.annotations.items() if key.startswith(_SOURCE)}
    if not sources or not bundle.has(place(item.digest)):
        return
    names = tuple(
        references.parse(f"{key.removeprefix(_SOURCE)}/{path}@{item.digest}")
        for key, paths in sources.items()
        for path in paths.split(",")
    )
    top = Document(item.media_type, item.digest, bundle.document(place(item.digest)))
    inner = [item]
    if _is_index(top):
        inner = list(_index(top.data, item.digest).manifests)
    for one in inner:
        where = place(one.digest)
        if not oci.is_manifest(one.media_type) or not bundle.has(where):
            continue
        data = bundle.document(where)
        try:
            manifest = oci.Manifest.from_json(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidArgument) as error:
            raise Corrupt(f"{where}: {error}") from error
        yield Origin(
            Document(one.media_type, one.digest, data),
            top,
            names,
            manifest.config.digest,
            tuple(layer.digest for layer in manifest.layers),
        )


def _index(data: bytes, where: str) -> oci.Index:
    try:
        return oci.Index.from_json(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidArgument) as error:
        raise Corrupt(f"{where}: {error}") from error
