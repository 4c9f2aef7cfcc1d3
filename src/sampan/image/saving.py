"""Images to an archive that is both docker save's and an OCI layout, as Docker 25 and later write.

Layers go in uncompressed, named by their diff ID: that is what dockerd of any version wants to
read, and one name fits both tables of contents (``manifest.json`` and ``index.json``). Each layer
is hashed again on its way out, so a damaged store cannot produce a damaged archive unnoticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from sampan.errors import Corrupt
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import reference as references
from sampan.storage.archive import headers
from sampan.storage.archive.compression import Unpacker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.storage.blobs import BlobStore
    from sampan.storage.layers import LayerStore

__all__ = ["Writable", "save"]

_CONTAINERD_NAME = "io.containerd.image.name"
_END = bytes(2 * headers.BLOCK)


class Writable(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes, /) -> object: ...


class _Archive:
    def __init__(self, out: Writable) -> None:
        self._out = out
        self._written: set[str] = set()

    def new(self, name: str) -> bool:
        """Whether this name is still to be written; from now on it is not."""
        fresh = name not in self._written
        self._written.add(name)
        return fresh

    def directory(self, name: str) -> None:
        member = headers.Member(name.encode() + b"/", headers.DIRECTORY, mode=0o755)
        self._out.write(headers.encode(member))

    def begin(self, name: str, size: int) -> None:
        self._out.write(headers.encode(headers.Member(name.encode(), mode=0o644, size=size)))

    def end(self, size: int) -> None:
        self._out.write(bytes(-size % headers.BLOCK))

    def document(self, name: str, data: bytes) -> None:
        if self.new(name):
            self.begin(name, len(data))
            self._out.write(data)
            self.end(len(data))


def _place(digest: str) -> str:
    return f"blobs/sha256/{digests.hexadecimal(digest)}"


def save(
    images: Sequence[tuple[Image, Sequence[str]]],
    out: Writable,
    records: ImageRecords,
    layers: LayerStore,
    blobs: BlobStore,
) -> None:
    """Write an archive of images, each with the familiar names it is to bring along."""
    archive = _Archive(out)
    archive.directory("blobs")
    archive.directory("blobs/sha256")
    entries: list[dict[str, object]] = []
    descriptors: list[oci.Descriptor] = []
    for image, names in images:
        described = []
        for diff_id in image.diff_ids:
            described.append(_layer(archive, out, diff_id, layers, blobs))
        config = records.config(image.id)
        archive.document(_place(image.id), config)
        manifest = oci.Manifest(
            schema_version=2,
            media_type=oci.MANIFEST,
            config=oci.Descriptor(media_type=oci.CONFIG, digest=image.id, size=len(config)),
            layers=tuple(described),
        )
        data = msgspec.json.encode(manifest.to_json())
        descriptor = oci.Descriptor(
            media_type=oci.MANIFEST, digest=digests.of(data), size=len(data)
        )
        archive.document(_place(descriptor.digest), data)
        descriptors += _named(descriptor, names)
        entries.append(
            {
                "Config": _place(image.id),
                "RepoTags": list(names) or None,
                "Layers": [_place(diff_id) for diff_id in image.diff_ids],
            }
        )
    index = oci.Index(schema_version=2, media_type=oci.INDEX, manifests=tuple(descriptors))
    archive.document("index.json", msgspec.json.encode(index.to_json()))
    archive.document("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    archive.document("manifest.json", msgspec.json.encode(entries))
    out.write(_END)


def _named(descriptor: oci.Descriptor, names: Sequence[str]) -> list[oci.Descriptor]:
    if not names:
        return [descriptor]
    described = []
    for name in names:
        reference = references.parse(name)
        annotations = {
            _CONTAINERD_NAME: str(reference),
            oci.REFERENCE_ANNOTATION: reference.tag or "",
        }
        described.append(descriptor.replace(annotations=annotations))
    return described


def _layer(
    archive: _Archive, out: Writable, diff_id: str, layers: LayerStore, blobs: BlobStore
) -> oci.Descriptor:
    blob, _, size = layers.blob_of(diff_id)
    name = _place(diff_id)
    if archive.new(name):
        archive.begin(name, size)
        fd = blobs.open(blob)
        with open(fd, "rb", buffering=0) as file, Unpacker(file) as pieces:
            for piece in pieces:
                out.write(piece)
            if (pieces.digest, pieces.size) != (diff_id, size):
                raise Corrupt(
                    f"layer {diff_id}: blob {blob} unpacks to {pieces.digest}, {pieces.size} bytes"
                )
        archive.end(size)
    return oci.Descriptor(media_type=oci.LAYER, digest=diff_id, size=size)
