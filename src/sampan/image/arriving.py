"""Images that arrive from a registry, layer by layer: what is missing, and the moment it is ours.

Documents are held against each other before a byte of a layer is asked for: the manifest's layers
and the configuration's diff IDs go in pairs. What a layer unpacks to is held against its diff ID
by the layer store. The image exists from one transaction: its row, its manifests, its names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Corrupt, NotSupported
from sampan.image.loading import parse_document
from sampan.oci import digest as digests
from sampan.oci import image as oci

if TYPE_CHECKING:
    from sampan.image.store import ImageStore
    from sampan.image.types import Image
    from sampan.oci.reference import Reference
    from sampan.registry.types import Document
    from sampan.storage.growing import Growing
    from sampan.storage.layers import Hold, Unattached

__all__ = ["Arrival", "Layer", "expect"]


class Layer(msgspec.Struct, frozen=True):
    """A layer to come: its blob, where else than in the repository it may be had, what it is."""

    digest: str
    size: int
    urls: tuple[str, ...]
    diff_id: str
    chain_id: str
    parent: str | None


class Arrival(msgspec.Struct, frozen=True):
    """An image whose documents are here; ``layers`` from the lowest up."""

    config: bytes
    document: oci.Image
    manifest: Document
    top: Document
    layers: tuple[Layer, ...]

    @property
    def id(self) -> str:
        return digests.of(self.config)

    def present(self, store: ImageStore) -> Image | None:
        """The image, if it is here already."""
        return store.records.get(self.id)

    def receive(self, store: ImageStore, layer: Layer, hold: Hold, growing: Growing | None) -> None:
        """Unpack a layer on its parent, from what comes or from the blob that is here. Blocks."""
        blob = layer.digest if growing is not None else self._blob(store, layer)
        store.layers.unpack(layer.diff_id, layer.parent, blob, hold, growing)

    def begin(self, store: ImageStore, layer: Layer, growing: Growing | None) -> Unattached:
        """Unpack a layer before its parent may be there; ``attach`` or ``abandon`` it. Blocks."""
        source = growing if growing is not None else self._blob(store, layer)
        return store.layers.begin(source, layer.diff_id)

    def attach(self, store: ImageStore, layer: Layer, unpacked: Unattached, hold: Hold) -> None:
        """Put it in its place."""
        blob = layer.digest if store.blobs.has(layer.digest) else self._blob(store, layer)
        store.layers.attach(unpacked, layer.parent, blob, hold)

    @staticmethod
    def _blob(store: ImageStore, layer: Layer) -> str:
        return store.layers.known_blob(layer.diff_id) or layer.digest

    def admit(
        self, store: ImageStore, names: tuple[Reference, ...], repository: str, hold: Hold
    ) -> str:
        """Make it an image of ours, under these names; its ID. Every layer is unpacked by now."""
        with store.blobs.ingest() as ingest:
            ingest.write(self.config)
            hold.commit(ingest)
        chain = [layer.chain_id for layer in self.layers]
        records = store.records
        with store.database.transaction(durable=True):
            image_id = records.insert(self.config, self.document, store.layers.size(chain))
            for document in {
                self.manifest.digest: self.manifest,
                self.top.digest: self.top,
            }.values():
                records.keep_manifest(image_id, document)
            for layer in self.layers:
                if not layer.urls:
                    records.add_origin(layer.diff_id, layer.digest, layer.size, repository)
            records.tag(image_id, names)
        return image_id


def expect(top: Document, manifest: Document, config: bytes) -> Arrival:
    """From documents that are what their digests say. Raises Corrupt, NotSupported."""
    place = f"manifest {manifest.digest}"
    try:
        decoded = oci.Manifest.from_json(msgspec.json.decode(manifest.data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{place}: {error}") from error
    if decoded.config.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
        kind = decoded.artifact_type or decoded.config.media_type
        raise NotSupported(f"{place}: an artifact of type {kind} is no image to run")
    document = parse_document(config, f"configuration {decoded.config.digest}")
    for item in decoded.layers:
        if not oci.is_layer(item.media_type):
            raise NotSupported(f"{place}: layer of media type {item.media_type}")
        if item.size < 0:
            raise Corrupt(f"{place}: layer {item.digest} of {item.size} bytes")
        digests.parse(item.digest)
    diff_ids = document.rootfs.diff_ids
    if len(decoded.layers) != len(diff_ids):
        raise Corrupt(
            f"{place}: {len(decoded.layers)} layers, where the configuration has "
            f"{len(diff_ids)} diff IDs"
        )
    chain = digests.chain_ids(diff_ids)
    layers = tuple(
        Layer(
            digest=item.digest,
            size=item.size,
            urls=item.urls,
            diff_id=diff_id,
            chain_id=chain[position],
            parent=chain[position - 1] if position else None,
        )
        for position, (item, diff_id) in enumerate(zip(decoded.layers, diff_ids, strict=True))
    )
    return Arrival(config, document, manifest, top, layers)
