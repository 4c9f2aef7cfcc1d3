"""Images that leave for a registry: which blobs their layers go as, and the manifest that says so.

A manifest that came with the image goes out again as it is, byte for byte, as long as the blobs it
names are here: the image keeps its digest. Otherwise one is made when every layer has been sent
and its blob is known: of Docker's schema 2, which every registry takes, or OCI's where a layer is
zstd, which only that has a name for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import NotSupported
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.registry.types import Document
from sampan.storage.archive import compression

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.image.store import ImageStore
    from sampan.image.types import Image
    from sampan.oci.reference import Reference

__all__ = ["Departure", "Parcel", "depart"]


class Parcel(msgspec.Struct, frozen=True):
    """A layer to send: its blob here, whether that is to be packed first, and the blobs the
    registry may know it by (digest, size, repositories there that have it)."""

    diff_id: str
    blob: str
    size: int
    pack: bool
    known: tuple[tuple[str, int, tuple[str, ...]], ...]


class Departure(msgspec.Struct, frozen=True):
    """``manifest`` None: still to be made. ``parcels`` from the lowest layer up, each once."""

    image: Image
    config_size: int
    manifest: Document | None
    parcels: tuple[Parcel, ...]

    def document(self, store: ImageStore, sent: Mapping[str, tuple[str, int]]) -> Document:
        """The manifest to put; ``sent`` has digest and size of what each diff ID went as."""
        if self.manifest is not None:
            return self.manifest
        zstd = any(
            _kind(store, parcel.blob) == compression.ZSTD and not parcel.pack
            for parcel in self.parcels
        )
        kinds = {parcel.diff_id: _kind(store, parcel.blob) for parcel in self.parcels}
        layers = []
        for diff_id in self.image.diff_ids:
            digest, size = sent[diff_id]
            if not zstd:
                media = oci.DOCKER_LAYER_GZIP
            else:
                media = oci.LAYER_ZSTD if kinds[diff_id] == compression.ZSTD else oci.LAYER_GZIP
            layers.append(oci.Descriptor(media_type=media, size=size, digest=digest))
        manifest = oci.Manifest(
            schema_version=2,
            media_type=oci.MANIFEST if zstd else oci.DOCKER_MANIFEST,
            config=oci.Descriptor(
                media_type=oci.CONFIG if zstd else oci.DOCKER_CONFIG,
                size=self.config_size,
                digest=self.image.id,
            ),
            layers=tuple(layers),
        )
        data = msgspec.json.encode(manifest.to_json())
        return Document(str(manifest.media_type), digests.of(data), data)

    def arrived(
        self,
        store: ImageStore,
        name: Reference,
        document: Document,
        sent: Mapping[str, tuple[str, int]],
    ) -> None:
        """Remember what the registry has now, and the image's new digest there."""
        records = store.records
        with store.database.transaction():
            for diff_id, (digest, size) in sent.items():
                records.add_origin(diff_id, digest, size, name.name)
            records.keep_manifest(self.image.id, document)
            records.tag(self.image.id, (name.replace(tag=None, digest=document.digest),))


def depart(store: ImageStore, image: Image, target: Reference) -> Departure:
    """What there is to send. Raises NotSupported, NotFound (a blob)."""
    if image.system:
        raise NotSupported(
            "the host image is this machine itself and has no bytes of its own: it cannot be pushed"
        )
    config_size = len(store.records.config(image.id))
    kept = _kept(store, image)
    parcels: dict[str, Parcel] = {}
    if kept is not None:
        manifest, layers = kept
        for diff_id, layer in zip(image.diff_ids, layers, strict=True):
            if not layer.urls:  # a foreign layer stays where it is
                known = _known(store, diff_id, target, layer.digest, layer.size)
                parcels[diff_id] = Parcel(diff_id, layer.digest, layer.size, False, known)
        return Departure(image, config_size, manifest, tuple(parcels.values()))
    for diff_id in image.diff_ids:
        blob, size, _ = store.layers.blob_of(diff_id)
        pack = _kind(store, blob) not in (compression.GZIP, compression.ZSTD)
        known = _known(store, diff_id, target, "" if pack else blob, size)
        parcels[diff_id] = Parcel(diff_id, blob, size, pack, known)
    return Departure(image, config_size, None, tuple(parcels.values()))


def _kept(store: ImageStore, image: Image) -> tuple[Document, Sequence[oci.Descriptor]] | None:
    """A manifest of the image whose layers' blobs are all here, and its layers."""
    for document in store.records.manifests(image.id):
        if not oci.is_manifest(document.media_type):
            continue
        layers = oci.Manifest.from_json(msgspec.json.decode(document.data)).layers
        if all(layer.urls or store.blobs.has(layer.digest) for layer in layers):
            return document, layers
    return None


def _known(
    store: ImageStore, diff_id: str, target: Reference, blob: str, size: int
) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    """Blobs of a layer that the target's registry is known to have, ``blob`` first.

    With a ``blob`` that will do as it is, no other is of use: the manifest names it.
    """
    found: dict[tuple[str, int], list[str]] = {(blob, size): []} if blob else {}
    prefix = f"{target.domain}/"
    for digest, length, repository in store.records.origins(diff_id):
        if repository.startswith(prefix) and (not blob or digest == blob):
            places = found.setdefault((digest, length), [])
            if repository != target.name:
                places.append(repository.removeprefix(prefix))
    return tuple((digest, length, tuple(places)) for (digest, length), places in found.items())


def _kind(store: ImageStore, blob: str) -> str:
    """How a blob is packed, by its first bytes."""
    fd = store.blobs.open(blob)
    try:
        return compression.detect(os.pread(fd, 6, 0))
    finally:
        os.close(fd)
