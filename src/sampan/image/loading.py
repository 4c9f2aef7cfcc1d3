"""From a bundle's documents to images: docker save's ``manifest.json``, and OCI image layouts.

docker save: ``manifest.json`` lists images by the member names of their configuration and layers
(Docker image specification 1.2). An OCI layout (image-layout.md): ``index.json`` leads to
manifests, perhaps through further indexes with one manifest per platform. Archives of Docker 25 and
later are both at once; the former is preferred, as only it has all names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sampan.errors import Corrupt, InvalidArgument, NotFound, NotSupported, SampanError
from sampan.image.provenance import origins_in, place
from sampan.image.types import is_for
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import platform as platforms
from sampan.oci import reference as references
from sampan.oci.record import Record
from sampan.oci.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.image.bundle import Bundle
    from sampan.image.provenance import Origin
    from sampan.oci.platform import Platform
    from sampan.oci.reference import Reference

__all__ = ["Found", "find_images", "parse_document"]

_CONTAINERD_NAME = "io.containerd.image.name"
_INDEX_DEPTH = 4

R = TypeVar("R", bound=Record)


class Found(msgspec.Struct, frozen=True):
    """An image in a bundle: its configuration as bytes, and its layers' blobs, the lowest first;
    with ``origin``, its manifest as a registry has it."""

    config: bytes
    document: oci.Image
    blobs: tuple[str, ...]
    references: tuple[Reference, ...]
    origin: Origin | None = None


class _Entry(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    layers: list[str] | None = msgspec.field(name="Layers", default=None)


def find_images(
    bundle: Bundle, base_name: str | None = None, platform: Platform | None = None
) -> list[Found]:
    """Every image of a bundle, checked as far as its documents go.

    ``base_name`` is the repository for names in an OCI layout that are only a tag. With a
    ``platform`` only images for it are taken, NotFound if there is none; without one an index gives
    the image for this machine.
    """
    several = bundle.has("index.json") and platform is not None
    if bundle.has("manifest.json") and not several:
        found = list(_docker_images(bundle))
    elif bundle.has("index.json"):
        found = list(_layout_images(bundle, base_name, platform))
    elif bundle.has("repositories"):
        raise NotSupported(
            "archive: it has no manifest.json: it is of Docker before 1.10; load it with a Docker "
            "of 1.10 to 25 and save it again"
        )
    else:
        raise InvalidArgument(
            "archive: it has neither manifest.json (docker save) nor index.json (OCI layout); "
            "a root file system is taken in with import"
        )
    if not found:
        raise InvalidArgument("archive: it has no image in it")
    if platform is not None:
        found = [image for image in found if is_for(image.document, platform)]
        if not found:
            raise NotFound(f"archive: it has no image for {platform}")
    origins = {(origin.config, origin.layers): origin for origin in origins_in(bundle)}
    if not origins:
        return found
    return [
        msgspec.structs.replace(image, origin=origins.get((digests.of(image.config), image.blobs)))
        for image in found
    ]


def parse_document(data: bytes, name: str) -> oci.Image:
    """A configuration document, checked."""
    document = _record(oci.Image, data, name)
    try:
        document.check()
    except SampanError as error:
        raise Corrupt(f"{name}: {error}") from error
    if document.os != "linux":
        raise NotSupported(f"{name}: an image for {document.os} cannot be used on linux")
    return document


def _json(data: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{name}: not a JSON document: {error}") from error


def _record(kind: type[R], data: bytes, name: str) -> R:
    try:
        return kind.from_json(_json(data, name))
    except InvalidArgument as error:
        raise Corrupt(f"{name}: {error}") from error


def _docker_images(bundle: Bundle) -> Iterator[Found]:
    try:
        entries = msgspec.json.decode(bundle.document("manifest.json"), type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"archive: manifest.json: {error}") from error
    for entry in entries:
        config = bundle.document(entry.config)
        document = parse_document(config, f"archive: {entry.config}")
        # Docker names the member after the digest of its bytes; where it is so, it must be true.
        claimed = "sha256:" + entry.config.rpartition("/")[2].removesuffix(".json")
        if digests.is_digest(claimed) and digests.of(config) != claimed:
            raise Corrupt(
                f"archive: {entry.config}: expected digest {claimed}, found {digests.of(config)}"
            )
        names = entry.layers or []
        _same_count(len(names), document, f"archive: manifest.json: {entry.config}")
        yield Found(
            config,
            document,
            tuple(bundle.blob(name)[0] for name in names),
            tuple(references.parse(tag).tagged() for tag in entry.tags or ()),
        )


def _same_count(count: int, document: oci.Image, where: str) -> None:
    wanted = len(document.rootfs.diff_ids)
    if count != wanted:
        raise Corrupt(f"{where}: {count} layers, where the configuration has {wanted} diff IDs")


def _layout_images(
    bundle: Bundle, base_name: str | None, platform: Platform | None
) -> Iterator[Found]:
    index = _record(oci.Index, bundle.document("index.json"), "index.json")
    images: dict[str, Found] = {}
    for descriptor in index.manifests:
        name = _reference(descriptor, base_name)
        names = () if name is None else (name,)
        for found in _descend(bundle, descriptor, platform, 0):
            identity = digests.of(found.config)
            known = images.get(identity, found).references
            images[identity] = msgspec.structs.replace(found, references=(*known, *names))
    yield from images.values()


def _descend(
    bundle: Bundle, descriptor: oci.Descriptor, platform: Platform | None, depth: int
) -> Iterator[Found]:
    place = _place(descriptor)
    if oci.is_manifest(descriptor.media_type):
        yield from _manifest(bundle, descriptor)
        return
    if not oci.is_index(descriptor.media_type):
        raise NotSupported(f"{place}: media type {descriptor.media_type} is not an image")
    if depth == _INDEX_DEPTH:
        raise InvalidArgument(f"{place}: more than {_INDEX_DEPTH} indexes deep")
    index = _record(oci.Index, bundle.document(place), place)
    # An archive often lists platforms whose bytes it leaves out: only what is present counts.
    present = [item for item in index.manifests if bundle.has(_place(item)) and _is_image(item)]
    chosen = select(present, platform or platforms.machine())
    if chosen is None:
        offered = ", ".join(str(item.platform) for item in present) or "nothing"
        wanted = platform or platforms.machine()
        raise NotFound(f"{place}: no image for {wanted} in it, it has {offered}")
    yield from _descend(bundle, chosen, platform, depth + 1)


def _is_image(item: oci.Descriptor) -> bool:
    """Not an attestation, which stands in an index as ``unknown/unknown``."""
    return item.platform is None or item.platform.os != "unknown"


def _manifest(bundle: Bundle, descriptor: oci.Descriptor) -> Iterator[Found]:
    place = _place(descriptor)
    manifest = _record(oci.Manifest, bundle.document(place), place)
    config_place = _place(manifest.config)
    config = bundle.document(config_place)
    document = parse_document(config, config_place)
    for layer in manifest.layers:
        if not oci.is_layer(layer.media_type):
            raise NotSupported(f"{place}: layer of media type {layer.media_type}")
    _same_count(len(manifest.layers), document, place)
    blobs = []
    for layer in manifest.layers:
        digest, size = bundle.blob(_place(layer), layer.digest)
        if size != layer.size:
            raise Corrupt(f"{place}: layer {digest} has {size} bytes, not {layer.size}")
        blobs.append(digest)
    yield Found(config, document, tuple(blobs), ())


def _place(descriptor: oci.Descriptor) -> str:
    return place(descriptor.digest)


def _reference(descriptor: oci.Descriptor, base_name: str | None) -> Reference | None:
    full = descriptor.annotations.get(_CONTAINERD_NAME)
    name = full or descriptor.annotations.get(oci.REFERENCE_ANNOTATION)
    if not name:
        return None
    if full or "/" in name or ":" in name:
        return references.parse(name).tagged()
    if base_name is None or not references.is_tag(name):
        return None
    return references.parse(f"{base_name}:{name}")
