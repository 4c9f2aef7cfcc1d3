"""The image store: what images there are, what they are called, and how they come and go.

Blobs go to ``<data root>/content``, their layers are unpacked by the storage driver, and what they
mean is in ``<data root>/sampan.db``. An image exists from the commit of its row, which comes after
all its layers; what an interrupted load left behind is collected when the store is opened.

Names and messages are Docker's, as its clients go by them: ``run`` pulls when it reads
"No such image". The ``host`` image (``sampan.image.host``) is always there and has no row.
"""

from __future__ import annotations

import functools
import os
import re
import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, Corrupt, InvalidArgument, NotFound, NotSupported
from sampan.image import filters as image_filters
from sampan.image import saving
from sampan.image.bundle import Bundle, DirectoryBundle, TarBundle
from sampan.image.host import HostImage, is_host
from sampan.image.instructions import apply_changes
from sampan.image.loading import Found, find_images
from sampan.image.records import ImageRecords
from sampan.image.removing import remove
from sampan.image.spooling import Spool
from sampan.image.types import Image, Loaded, Removal, check_platform, timestamp
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import platform as platforms
from sampan.oci import reference as references
from sampan.storage.blobs import BlobStore
from sampan.storage.data_root import lock_data_root
from sampan.storage.database import Database
from sampan.storage.drivers import open_driver
from sampan.storage.layers import Hold, LayerStore
from sampan.storage.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sampan.image.bundle import Advance
    from sampan.image.removing import User
    from sampan.oci.platform import Platform
    from sampan.oci.reference import Reference
    from sampan.storage.archive.compression import Readable
    from sampan.storage.unpacking.client import Unpackers

__all__ = ["ImageStore"]

_is_prefix = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})").fullmatch


class ImageStore:
    """Images of one data root. Every method may be called from any thread."""

    def __init__(
        self, data_root: str, driver_name: str = "overlay2", unpackers: Unpackers | None = None
    ) -> None:
        """Conflict if another process has the data root; Corrupt if its database cannot be read.

        ``unpackers`` unpack layers in processes of their own; without them it is done here.
        """
        self.data_root = os.path.abspath(data_root)
        os.makedirs(self.data_root, 0o711, exist_ok=True)
        self._lock_fd = lock_data_root(self.data_root)
        try:
            self.driver = open_driver(driver_name, self.data_root)
            self._reserve = Reserve(f"{self.data_root}/reserve")
            self.database = Database(f"{self.data_root}/sampan.db", reserve=self._reserve)
            self.blobs = BlobStore(f"{self.data_root}/content")
            self.layers = LayerStore(self.database, self.driver, self.blobs, unpackers)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.records = ImageRecords(self.database)
        self._host = HostImage(self.driver, self.layers)
        self.blobs.sweep()
        if any(not self.driver.has_layer(top) for top in self.driver.containers().values()):
            self._host.image()
            self.layers.restore_containers()
        self.layers.collect()

    def close(self) -> None:
        """Stop background work and give up the data root."""
        self.layers.close()
        self.driver.close()
        self.database.close()
        self._reserve.close()
        os.close(self._lock_fd)

    # Coming in

    def load(
        self,
        stream: int | Readable,
        platform: Platform | None = None,
        advance: Advance | None = None,
    ) -> list[Loaded]:
        """Take in an archive: docker save's, or an OCI layout as tar; compressed or not.

        With a ``platform`` only its images. ``advance`` hears how far each large layer has come.
        Corrupt, InvalidArgument or NotFound names the member that is wrong; nothing of it stays.
        """
        return self._take_in(
            lambda hold, spool: TarBundle(stream, self.blobs, hold, spool, advance),
            None,
            platform,
        )

    def load_layout(self, directory: str, name: str | None = None) -> list[Loaded]:
        """Take in an OCI image layout (skopeo's ``oci:``, umoci).

        An image called only by a tag there becomes ``<name>:<tag>``; ``name`` is the directory's
        own unless given.
        """
        base = name or os.path.basename(os.path.abspath(directory)).lower()
        try:
            references.parse(base)
        except InvalidArgument:
            if name:
                raise
            base = ""
        return self._take_in(
            lambda hold, _: DirectoryBundle(directory, self.blobs, hold), base or None
        )

    def import_archive(
        self,
        stream: int | Readable,
        reference: str | None = None,
        changes: Iterable[str] = (),
        message: str = "",
        platform: str | None = None,
    ) -> str:
        """Make an image of one layer from the tar of a root file system; the image's ID.

        ``changes`` are Dockerfile instructions (CMD, ENV and so on).
        """
        name = None if reference is None else self.taggable(reference)
        config = apply_changes(oci.ImageConfig(), changes)
        wanted = platforms.parse(platform) if platform else platforms.machine()
        try:
            with self.layers.hold() as hold:
                blob, diff_id = self._take_base(stream, hold)
                now = timestamp(time.time())
                document = oci.Image(
                    architecture=wanted.architecture,
                    os=wanted.os,
                    variant=wanted.variant,
                    created=now,
                    config=config,
                    rootfs=oci.RootFS(diff_ids=(diff_id,)),
                    history=(oci.History(created=now, comment=message or "Imported from -"),),
                )
                data = msgspec.json.encode(document.to_json())
                found = Found(data, document, (blob,), () if name is None else (name,))
                return self._add(found, (diff_id,), hold).id
        except BaseException:
            self.layers.collect()
            raise

    def _take_in(
        self,
        opening: Callable[[Hold, Spool], Bundle],
        base_name: str | None,
        platform: Platform | None = None,
    ) -> list[Loaded]:
        try:
            with self.layers.hold() as hold:
                spool = Spool(self.blobs, self.layers, hold)
                try:
                    found = find_images(opening(hold, spool), base_name, platform)
                    for image in found:
                        origin = () if image.origin is None else image.origin.names
                        for name in (*image.references, *origin):
                            self._refuse_reserved(name)
                    ready = [(image, self._unpack(image, spool, hold)) for image in found]
                finally:
                    spool.close()
                return [self._add(image, chain, hold) for image, chain in ready]
        finally:
            # Blobs of layers we had in another form, or all of it after an error.
            self.layers.collect()

    def _unpack(self, image: Found, spool: Spool, hold: Hold) -> tuple[str, ...]:
        """Have an image's layers in their places; its chain. Corrupt where they are others."""
        chain: list[str] = []
        for diff_id, blob in zip(image.document.rootfs.diff_ids, image.blobs, strict=True):
            parent = chain[-1] if chain else None
            chain_id = digests.chain_id(parent, diff_id)
            hold.pin(chain_id)
            layer = spool.take(blob)
            if layer is None:
                self.layers.ensure_one(chain_id, diff_id, parent, blob)
            elif layer.applied.diff_id != diff_id:
                self.layers.abandon(layer)
                raise Corrupt(
                    f"expected a layer with diff ID {diff_id}, found {layer.applied.diff_id}"
                )
            else:
                self.layers.attach(layer, parent, blob, hold)
            chain.append(chain_id)
        return tuple(chain)

    def _take_base(self, stream: int | Readable, hold: Hold) -> tuple[str, str]:
        """A root file system, unpacked while it comes in; its blob and diff ID.

        Unlike in a builder's layer, no name in it may be absolute: such an archive was not made
        from inside the root file system, and its author meant other places.
        """
        spool = Spool(self.blobs, self.layers, hold)
        with self.blobs.ingest() as ingest:
            blob, layer = spool.store_base(ingest, _pieces(stream))
        self.layers.attach(layer, None, blob, hold)
        return blob, layer.applied.diff_id

    def _add(self, found: Found, chain: Sequence[str], hold: Hold) -> Loaded:
        with self.blobs.ingest() as ingest:
            ingest.write(found.config)
            hold.commit(ingest)
        with self.database.transaction(durable=True):
            image_id = self.records.insert(found.config, found.document, self.layers.size(chain))
            self.records.tag(image_id, found.references)
            if found.origin is not None:
                self.records.tag(image_id, found.origin.names)
                for document in found.origin.documents:
                    self.records.keep_manifest(image_id, document)
        return Loaded(image_id, tuple(name.familiar for name in found.references))

    # Names

    def resolve(self, name: str) -> Image:
        """The image a name, an ID or the beginning of one stands for.

        NotFound ("No such image: …"), InvalidArgument (malformed, or an ambiguous beginning).
        """
        image = self._complete(self._find(name)[0])
        if image.chain and not self.driver.has_layer(image.chain[-1]):
            # Lost with the machine's power, or never unpacked by this storage driver.
            self.layers.restore(image.chain[-1])
        return image

    def _find(self, name: str) -> tuple[Image, Reference | None]:
        """An image, and the reference that led to it where it was not the ID."""
        match = _is_prefix(name)
        if match is None or len(match[1]) < 64:
            reference = None
            if not name.startswith("sha256:"):
                reference = references.parse(name)
                if is_host(reference):
                    return self._host.image(), reference
                image_id = self.records.by_reference(reference)
                image = None if image_id is None else self.records.get(image_id)
                if image is not None:
                    return image, reference
            shown = name if reference is None else reference.tagged().familiar
        else:
            shown = name
        if match is None:
            raise NotFound(f"No such image: {shown}")
        found = self.records.by_prefix(match[1])
        host = self._host.known()
        if host is not None and host.id.startswith(f"sha256:{match[1]}"):
            found.append(host.id)
        if not found:
            raise NotFound(f"No such image: {shown}")
        if len(found) > 1:
            raise InvalidArgument(
                f"Multiple IDs found with provided prefix: {name}; give more of its digits"
            )
        if host is not None and found[0] == host.id:
            return host, None
        image = self.records.get(found[0])
        if image is None:
            raise NotFound(f"No such image: {shown}")
        return image, None

    def id_of(self, name: Reference) -> str | None:
        """The ID of the image a name stands for right now."""
        return self.records.by_reference(name)

    def tags_of(self, repository: Reference) -> list[Reference]:
        """Every tagged name of a repository, sorted."""
        return self.records.tags_of(repository)

    def tag(self, source: str, target: str) -> None:
        """Give an image one more name; the name leaves the image it stood for."""
        name = self.taggable(target)
        image, _ = self._find(source)
        if image.system:
            raise NotSupported(
                "the host image is this machine itself and has no bytes of its own: it cannot be "
                "tagged, saved or pushed"
            )
        with self.database.transaction(durable=True):
            self.records.tag(image.id, (name,))

    def remove(
        self,
        name: str,
        *,
        force: bool = False,
        prune: bool = True,
        used_by: Callable[[str], Sequence[User]],
    ) -> list[Removal]:
        """Take a name away; with its last name, the image and the layers nothing else needs.

        ``prune``: its nameless parents too. ``used_by`` gives the containers made from an image's
        ID. Conflict as Docker words it.
        """
        image, reference = self._find(name)
        if image.system:
            raise Conflict("the host image is this machine itself: it cannot be removed")
        done, delete = remove(
            self.records, image, reference, force=force, prune=prune, used_by=used_by
        )
        if delete:
            done += [Removal(deleted=chain_id) for chain_id in self.layers.collect()]
        return done

    def taggable(self, text: str) -> Reference:
        """A name an image may be given, with its tag. Raises InvalidArgument."""
        name = references.parse(text)
        if name.digest:
            raise InvalidArgument(f'refusing to create a tag with a digest reference: "{text}"')
        if name.familiar_name == "sha256":
            raise InvalidArgument(
                f'refusing to create an ambiguous tag using digest algorithm as name: "{text}"'
            )
        self._refuse_reserved(name)
        return name.tagged()

    def _refuse_reserved(self, name: Reference) -> None:
        if is_host(name):
            raise InvalidArgument(
                f"the name {name.tagged().familiar} is reserved: it stands for this machine's own "
                "system; choose another name"
            )

    def _complete(self, image: Image) -> Image:
        return msgspec.structs.replace(
            image, driver=self.driver.name, graph=self.driver.layer_graph(image.chain)
        )

    # Going out

    def save(
        self, names: Sequence[str], out: saving.Writable, platform: Platform | None = None
    ) -> None:
        """Write images as an archive dockerd, podman, skopeo and ``load`` take.

        A name without a tag brings every tag of its repository; an ID brings none. NotFound for an
        image that is not for ``platform``.
        """
        chosen: dict[str, tuple[Image, list[str]]] = {}
        for name in names:
            for image, familiar in self._chosen(name):
                if image.system:
                    raise NotSupported(
                        "the host image is this machine itself and has no bytes of its own: it "
                        "cannot be saved"
                    )
                if platform is not None:
                    check_platform(image.document, platform, name)
                known = chosen.setdefault(image.id, (image, []))[1]
                if familiar is not None and familiar not in known:
                    known.append(familiar)
        if not chosen:
            raise InvalidArgument("save: no image is named")
        with self.layers.hold() as hold:
            for image, _ in chosen.values():
                for diff_id in image.diff_ids:
                    hold.pin(self.layers.blob_of(diff_id)[0])
            saving.save(list(chosen.values()), out, self.records, self.layers, self.blobs)

    def _chosen(self, name: str) -> list[tuple[Image, str | None]]:
        if not name.startswith("sha256:") and not (_is_prefix(name) and len(name) == 64):
            reference = references.parse(name)
            if reference.tag is None and reference.digest is None and not is_host(reference):
                tags = self.records.tags_of(reference)
                if tags:
                    return [(self._find(tag.familiar)[0], tag.familiar) for tag in tags]
        image, found = self._find(name)
        named = found is not None and found.digest is None
        return [(image, found.tagged().familiar if named and found is not None else None)]

    def shared_sizes(self) -> dict[str, int]:
        """For each image, by ID, bytes of files in layers that another image has too."""
        return self.layers.shared_sizes()

    # The last of the methods: in what follows in this class, list would not be the type any more.

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        """Every image, the newest first, the host image last; see ``sampan.image.filters``."""
        images = self.records.all()
        images.append(self._host.image())
        selected = image_filters.select(images, filters or {}, self.resolve)
        return [self._complete(image) for image in selected]


def _pieces(stream: int | Readable) -> Iterator[bytes]:
    """What a stream has. InvalidArgument if that is nothing."""
    read = functools.partial(os.read, stream) if isinstance(stream, int) else stream.read
    empty = True
    while data := read(1 << 20):
        empty = False
        yield data
    if empty:
        raise InvalidArgument("import: the archive is empty")
