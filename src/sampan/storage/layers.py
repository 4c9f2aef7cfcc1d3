"""Layers: blobs unpacked once, by chain ID, and kept as long as something stands on them.

A layer exists when the driver has its directory *and* the database its row; the directory is
renamed into place first. So after a kill there may be a directory without a row (removed when the
store is opened) or, if the last commits were lost with the machine's power, a row without a
directory (dropped).

Unpacked files are not synced one by one, as an image has thousands. A row carries the boot ID of
the machine until a background syncfs(2) has made the layer durable; what carries another boot's ID
when the store is opened may be damaged and is discarded. The blobs, which *are* synced, are still
there: ``ensure`` unpacks them again when the layer is next needed.

What is in use is never counted, it is looked up: layers and blobs are kept for images (table
``image_layers``), for containers (the driver's directory of containers), for operations under
way (``Hold``), and for other programs' sessions (a lock the kernel drops when they end:
``claim_layer``). ``collect`` removes all else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import Corrupt, NotFound, SampanError
from sampan.oci import digest as digests
from sampan.storage import layer_rows
from sampan.storage.archive.compression import Unpacker
from sampan.storage.archive.settling import settle
from sampan.storage.collection import collect_blobs, collect_layers
from sampan.storage.data_root import boot_id
from sampan.storage.durability import Synchroniser
from sampan.storage.failures import explain
from sampan.storage.growing import Growing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from sampan.storage.archive.applied import Applied
    from sampan.storage.blobs import BlobStore, Ingest
    from sampan.storage.database import Database
    from sampan.storage.drivers.base import SnapshotDriver, Staging
    from sampan.storage.unpacking.client import Unpackers

__all__ = ["Hold", "LayerStore", "Unattached"]

log = logging.getLogger(__name__)


class Hold:
    """Keeps blobs and layers from collection while an operation is under way."""

    def __init__(self, store: LayerStore) -> None:
        self._store = store
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.release(self._names)

    def pin(self, name: str) -> None:
        """Keep this digest or chain ID."""
        self._store.pin(name)
        self._names.append(name)

    def commit(self, ingest: Ingest) -> tuple[str, int]:
        """Commit a blob and keep it, with no moment between in which it could be collected."""
        with self._store.mutex:
            digest, size = ingest.commit()
            self.pin(digest)
            return digest, size


class Unattached(NamedTuple):
    """A layer that is unpacked and has no place yet."""

    staging: Staging
    applied: Applied


class LayerStore:
    """Layers of one driver, over one database and one blob store."""

    def __init__(
        self,
        database: Database,
        driver: SnapshotDriver,
        blobs: BlobStore,
        unpackers: Unpackers | None = None,
    ) -> None:
        """``unpackers`` unpack in processes of their own; without them it is done here."""
        self.mutex = threading.RLock()
        self._database = database
        self._driver = driver
        self._blobs = blobs
        self._unpackers = unpackers
        self._boot_id = boot_id()
        self._pins: Counter[str] = Counter()
        self._unpacking: dict[str, tuple[threading.Lock, int]] = {}
        self._sync = Synchroniser(database, driver.name, blobs.root)
        self._recover()

    def close(self) -> None:
        """Stop making layers durable."""
        self._sync.close()

    def hold(self) -> Hold:
        return Hold(self)

    def pin(self, name: str) -> None:
        with self.mutex:
            self._pins[name] += 1

    def release(self, names: Sequence[str]) -> None:
        with self.mutex:
            self._pins.subtract(names)
            for name in names:
                if not self._pins[name]:
                    del self._pins[name]

    # Unpacking

    def has(self, chain_id: str) -> bool:
        return self._driver.has_layer(chain_id)

    def ensure(self, diff_ids: Sequence[str], blobs: Sequence[str], hold: Hold) -> tuple[str, ...]:
        """Have every layer of an image unpacked; its chain IDs, the lowest first.

        ``blobs[i]`` is the digest of the blob whose uncompressed bytes have ``diff_ids[i]``.
        Corrupt where they do not. Any number of threads may ask for the same layers at once: each
        is unpacked by one of them.
        """
        chain = digests.chain_ids(tuple(diff_ids))
        parent: str | None = None
        for chain_id, diff_id, blob in zip(chain, diff_ids, blobs, strict=True):
            hold.pin(chain_id)
            self.ensure_one(chain_id, diff_id, parent, blob)
            parent = chain_id
        return chain

    def ensure_one(self, chain_id: str, diff_id: str, parent: str | None, blob: str) -> None:
        """The same for one layer on a parent that is there; ``chain_id`` is pinned."""
        if self._driver.has_layer(chain_id):
            self._verify(diff_id, blob)
            return
        with self._exclusively(chain_id):
            if not self._driver.has_layer(chain_id):
                self._unpack(chain_id, diff_id, parent, blob)

    def unpack(
        self,
        diff_id: str,
        parent: str | None,
        blob: str,
        hold: Hold,
        growing: Growing | None = None,
    ) -> str:
        """One layer on a parent that is unpacked; its chain ID.

        ``growing`` is the blob where it is not in the store yet. It is read to its end, and by
        then the blob has to be there.
        """
        chain_id = digests.chain_id(parent, diff_id)
        hold.pin(chain_id)
        with self._exclusively(chain_id):
            if not self._driver.has_layer(chain_id):
                self._unpack(chain_id, diff_id, parent, blob, growing)
        return chain_id

    @property
    def loose(self) -> bool:
        """Whether layers can be unpacked in any order: ``begin``, and later ``attach``."""
        return self._driver.loose

    def begin(
        self,
        source: str | Growing,
        diff_id: str | None = None,
        *,
        base: bool = False,
    ) -> Unattached:
        """Unpack a layer whose place is not known yet, from a blob that is here or coming in.

        ``attach`` or ``abandon`` it afterwards. ``base``: a user's root file system, which stands
        on nothing and whose names are relative; other layers only where ``loose`` holds.
        """
        # The layer's name is known when its bytes have been read: a name of our own until then.
        try:
            staging = self._driver.prepare_layer(digests.of(os.urandom(32)), None)
        except OSError as error:
            raise explain(error, "mkdir", "a layer", "while making room for a layer") from error
        try:
            applied = self._apply(staging, source, diff_id, relative_names=base, loose=not base)
        except BaseException:
            self._driver.discard_layer(staging)
            raise
        return Unattached(staging, applied)

    def attach(self, layer: Unattached, parent: str | None, blob: str, hold: Hold) -> str:
        """Make it a layer on an unpacked parent; its chain ID. ``blob`` is in the store."""
        diff_id = layer.applied.diff_id
        chain_id = digests.chain_id(parent, diff_id)
        hold.pin(chain_id)
        with self._exclusively(chain_id):
            if self._driver.has_layer(chain_id):
                self.abandon(layer)
                return chain_id
            staging = layer.staging
            try:
                if self._driver.loose:
                    staging = self._driver.attach_layer(staging, chain_id, parent)
                    if not layer.applied.loose.root_listed:
                        self._driver.seed_root(staging)
                    settle(staging.fd, layer.applied.loose, staging.lower)
                else:
                    staging = staging._replace(chain_id=chain_id)
            except OSError as error:
                self._driver.discard_layer(staging)
                raise explain(error, "settle", chain_id, f"while placing {chain_id}") from error
            except BaseException:
                self._driver.discard_layer(staging)
                raise
            try:
                self._commit(staging, diff_id, blob, layer.applied)
            except OSError as error:
                raise explain(error, "rename", chain_id, f"while placing {chain_id}") from error
        return chain_id

    def abandon(self, layer: Unattached) -> None:
        """Remove what ``begin`` made."""
        self._driver.discard_layer(layer.staging)

    def known_blob(self, diff_id: str) -> str | None:
        """The blob in the store that holds a layer's bytes, packed or not."""
        row = self._database.row("SELECT digest FROM layer_blobs WHERE diff_id = ?", (diff_id,))
        return str(row[0]) if row is not None and self._blobs.has(row[0]) else None

    def restore(self, chain_id: str) -> None:
        """Unpack again, from the blobs kept, whatever is missing of an image's chain.

        NotFound if no image has this chain any more, or a blob is gone.
        """
        if self._driver.has_layer(chain_id):
            return
        found = self._database.row(
            "SELECT image_id, position FROM image_layers WHERE chain_id = ?", (chain_id,)
        )
        if found is None:
            raise NotFound(
                f"layer {chain_id} was lost when the machine went down, and no image holds it now; "
                "load the image again"
            )
        rows = self._database.rows(
            "SELECT l.diff_id, b.digest FROM image_layers l LEFT JOIN layer_blobs b"
            " ON b.diff_id = l.diff_id WHERE l.image_id = ? AND l.position <= ?"
            " ORDER BY l.position",
            found,
        )
        for diff_id, blob in rows:
            if blob is None:
                raise NotFound(f"layer {diff_id} has no blob to be unpacked from")
        with self.hold() as hold:
            self.ensure([row[0] for row in rows], [row[1] for row in rows], hold)

    def restore_containers(self) -> None:
        """The same for what containers stand on; what cannot be had again is logged."""
        for name, chain_id in self._driver.containers().items():
            try:
                self.restore(chain_id)
            except SampanError as error:
                log.warning("container %s cannot be started: %s", name, error)

    def blob_of(self, diff_id: str) -> tuple[str, int, int]:
        """Digest and size of a layer's blob, and its size as an uncompressed tar."""
        row = self._database.row(
            "SELECT digest, size, tar_size FROM layer_blobs WHERE diff_id = ?", (diff_id,)
        )
        if row is None:
            raise NotFound(f"layer {diff_id} has no blob")
        return row[0], row[1], row[2]

    def size(self, chain: Sequence[str]) -> int:
        """Bytes of the files in the layers of a chain."""
        return layer_rows.size(self._database, self._driver.name, chain)

    def size_of(self, top: str) -> int:
        """Bytes of the files in a layer and all that are below it."""
        return layer_rows.size_of(self._database, self._driver.name, top)

    def shared_sizes(self) -> dict[str, int]:
        """For each image the size of its layers that are another's too."""
        return layer_rows.shared_sizes(self._database, self._driver.name)

    def adopt(self, staging: Staging, diff_id: str, size: int) -> None:
        """Make a directory somebody else filled a layer without a blob: it cannot be restored."""
        self._driver.commit_layer(staging)
        self._insert(staging, diff_id, size)
        self._sync.wake()

    def _unpack(
        self,
        chain_id: str,
        diff_id: str,
        parent: str | None,
        blob: str,
        growing: Growing | None = None,
    ) -> None:
        staging = self._driver.prepare_layer(chain_id, parent)
        try:
            result = self._apply(staging, growing or blob, diff_id)
        except BaseException:
            self._driver.discard_layer(staging)
            raise
        self._commit(staging, diff_id, blob, result)

    def _verify(self, diff_id: str, blob: str) -> None:
        """Hold a blob against a layer that is unpacked already, perhaps from another blob."""
        known = self._database.row("SELECT digest FROM layer_blobs WHERE diff_id = ?", (diff_id,))
        if blob == diff_id or known == (blob,):
            return
        fd = self._blobs.open(blob)
        try:
            with Unpacker(fd) as pieces:
                for _ in pieces:
                    pass
                if pieces.digest != diff_id:
                    raise Corrupt(f"expected a layer with diff ID {diff_id}, found {pieces.digest}")
        finally:
            os.close(fd)

    def _apply(
        self,
        staging: Staging,
        source: str | Growing,
        diff_id: str | None = None,
        *,
        relative_names: bool = False,
        loose: bool = False,
    ) -> Applied:
        fd = self._blobs.open(source) if isinstance(source, str) else -1
        try:
            applied = self._applier()(
                source if isinstance(source, Growing) else fd,
                staging.fd,
                style=self._driver.whiteouts,
                diff_id=diff_id,
                lower=staging.lower,
                # With a diff ID the bytes are known to be all there, end marker or not.
                require_end=diff_id is None,
                relative_names=relative_names,
                loose=loose,
            )
        finally:
            if fd >= 0:
                os.close(fd)
        for warning in applied.warnings:
            log.warning("layer %s: %s", applied.diff_id, warning)
        return applied

    def _applier(self) -> Callable[..., Applied]:
        """``apply_layer``, or what does the same elsewhere."""
        if self._unpackers is not None:
            return self._unpackers.apply
        from sampan.storage.archive.apply import apply_layer

        return apply_layer

    def _commit(self, staging: Staging, diff_id: str, blob: str, result: Applied) -> None:
        self._driver.commit_layer(staging)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO layer_blobs VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (diff_id, blob, self._blobs.size(blob), result.archive),
            )
            self._insert(staging, diff_id, result.size)
        self._sync.wake()

    def _insert(self, staging: Staging, diff_id: str, size: int) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?, ?)",
            (self._driver.name, staging.chain_id, diff_id, staging.parent, size, self._boot_id),
        )

    @contextmanager
    def _exclusively(self, chain_id: str) -> Iterator[None]:
        with self.mutex:
            lock, users = self._unpacking.get(chain_id, (threading.Lock(), 0))
            self._unpacking[chain_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self.mutex:
                lock, users = self._unpacking[chain_id]
                if users == 1:
                    del self._unpacking[chain_id]
                else:
                    self._unpacking[chain_id] = (lock, users - 1)

    # Removing

    def collect(self, *, adopted: bool = False) -> list[str]:
        """Remove layers and blobs nothing uses; the chain IDs removed, the topmost first.

        Layers that were not unpacked from a blob go with ``adopted`` only: whoever makes them
        says when it knows which it still wants.
        """
        with self.mutex:
            removed = collect_layers(self._database, self._driver, self._pins, adopted=adopted)
            collect_blobs(self._database, self._blobs, self._pins)
            return removed

    def _recover(self) -> None:
        """Make driver and database agree again, after whatever ended the last owner."""
        name, present = self._driver.name, set(self._driver.layers())
        known, unsynced = layer_rows.drop_lost(self._database, name, present, self._boot_id)
        for chain_id in present - known:
            self._driver.remove_layer(chain_id)
        if unsynced:
            self._sync.wake()
