"""Images to an archive that is both docker save's and an OCI layout, as Docker 25 and later write.

Layers go in as the blobs they are here, plain or in gzip, which every reader takes; other kinds are
unpacked first, as older ones do not. One name (the digest of what is written) fits both tables of
contents, ``manifest.json`` and ``index.json``. Each layer is hashed again on its way out, so a
damaged store cannot produce a damaged archive unnoticed. A manifest that came with the image goes
along where it names these very layers (``provenance``); else one is made.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Protocol

import msgspec

from sampan.errors import Corrupt
from sampan.image.provenance import origin_of, place
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import reference as references
from sampan.storage.archive import compression, headers
from sampan.storage.archive.compression import Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.storage.blobs import BlobStore
    from sampan.storage.layers import LayerStore

__all__ = ["Writable", "save"]

_CONTAINERD_NAME = "io.containerd.image.name"
_END = bytes(2 * headers.BLOCK)
_PIECE = 1 << 20


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


def save(
    images: Sequence[tuple[Image, Sequence[str]]],
    out: Writable,
    records: ImageRecords,
    layers: LayerStore,
    blobs: BlobStore,
) -> None:
    """Write an archive of images, each with the familiar names it is to bring along; their layers'
    blobs are held. NotFound before the first byte: one was removed since it was found."""
    configs = [records.config(image.id) for image, _ in images]
    archive = _Archive(out)
    archive.directory("blobs")
    archive.directory("blobs/sha256")
    entries: list[dict[str, object]] = []
    descriptors: list[oci.Descriptor] = []
    for (image, names), config in zip(images, configs, strict=True):
        described = []
        for diff_id in image.diff_ids:
            described.append(_layer(archive, out, diff_id, layers, blobs))
        archive.document(place(image.id), config)
        origin = origin_of(records, image, [layer.digest for layer in described])
        if origin is not None:
            for document in origin.documents:
                archive.document(place(document.digest), document.data)
            descriptor = origin.descriptor
        else:
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
            archive.document(place(descriptor.digest), data)
        descriptors += _named(descriptor, names)
        entries.append(
            {
                "Config": place(image.id),
                "RepoTags": list(names) or None,
                "Layers": [place(layer.digest) for layer in described],
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
            **descriptor.annotations,
            _CONTAINERD_NAME: str(reference),
            oci.REFERENCE_ANNOTATION: reference.tag or "",
        }
        described.append(descriptor.replace(annotations=annotations))
    return described


def _layer(
    archive: _Archive, out: Writable, diff_id: str, layers: LayerStore, blobs: BlobStore
) -> oci.Descriptor:
    blob, packed, plain = layers.blob_of(diff_id)
    fd = blobs.open(blob)
    with open(fd, "rb", buffering=0) as file:
        kind = compression.detect(os.pread(fd, 6, 0))
        asis = kind in (compression.NONE, compression.GZIP)
        digest, size = (blob, packed) if asis else (diff_id, plain)
        media = oci.LAYER_GZIP if kind == compression.GZIP else oci.LAYER
        if archive.new(place(digest)):
            archive.begin(place(digest), size)
            running = digests.new_hash()
            written = 0
            for piece in _raw(file) if asis else _unpacked(file):
                running.update(piece)
                written += len(piece)
                out.write(piece)
            found = f"sha256:{running.hexdigest()}"
            if (found, written) != (digest, size):
                raise Corrupt(f"layer {diff_id}: blob {blob} gives {found}, {written} bytes")
            archive.end(size)
    return oci.Descriptor(media_type=media, digest=digest, size=size)


def _raw(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(_PIECE):
        yield data


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    with Unpacker(file, hashed=False) as pieces:
        yield from pieces
