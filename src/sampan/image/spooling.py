"""Blobs on their way into the store, unpacked while they come.

In an archive the layers come before the documents that say what they are, so what looks like a
layer is unpacked at once, with no place yet; when the image is known it takes its place, or is
thrown away. An unpack that fails here is forgotten: whoever needs the layer unpacks it again, and
says what is wrong with it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.storage.archive import compression
from sampan.storage.growing import Growing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.storage.blobs import BlobStore, Ingest
    from sampan.storage.layers import Hold, LayerStore, Unattached

__all__ = ["Spool"]

_LEAST = 1 << 20
"""Bytes below which a layer is unpacked faster than a process is asked to."""
_AT_ONCE = 3


class _Unpacking:
    """One blob that is followed by an unpacker, on a thread that waits for it."""

    def __init__(self, layers: LayerStore, growing: Growing, *, base: bool) -> None:
        self.growing = growing
        self.layer: Unattached | None = None
        self.error: SampanError | None = None
        self._layers = layers
        self._base = base
        self._thread = threading.Thread(target=self._work, name="unpack", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self.layer = self._layers.begin(self.growing, base=self._base)
        except SampanError as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> Unattached | None:
        """Wait for its end."""
        self._thread.join()
        self.growing.close()
        return self.layer


class Spool:
    """Blobs of one archive. ``close`` it when what is to be had from it was taken."""

    def __init__(self, blobs: BlobStore, layers: LayerStore, hold: Hold) -> None:
        self._blobs = blobs
        self._layers = layers
        self._hold = hold
        self._begun: dict[str, _Unpacking] = {}

    def store(
        self, ingest: Ingest, content: Iterable[bytes | memoryview], size: int
    ) -> tuple[str, int]:
        """Write a blob of ``size`` bytes; its digest and size. Raises Corrupt, SampanError."""
        unpacking: _Unpacking | None = None
        try:
            for piece in content:
                ingest.write(piece)
                if unpacking is not None:
                    unpacking.growing.grow(ingest.offset)
                elif ingest.offset == len(piece) and size >= _LEAST and self._is_layer(piece):
                    unpacking = self._follow(ingest, base=False)
            digest, size = self._hold.commit(ingest)
        except BaseException:
            if unpacking is not None:
                self._stop(unpacking)
            raise
        if unpacking is not None:
            unpacking.growing.finish()
            if digest in self._begun:
                self._stop(unpacking)  # the same blob twice
            else:
                self._begun[digest] = unpacking
        return digest, size

    def store_base(self, ingest: Ingest, content: Iterable[bytes]) -> tuple[str, Unattached]:
        """Write the blob that is a user's root file system, and unpack it.

        Raises what unpacking raises.
        """
        unpacking = self._follow(ingest, base=True)
        try:
            for piece in content:
                ingest.write(piece)
                unpacking.growing.grow(ingest.offset)
                if unpacking.error is not None:
                    raise unpacking.error
            digest, _ = self._hold.commit(ingest)
        except BaseException:
            self._stop(unpacking)
            raise
        unpacking.growing.finish()
        layer = unpacking.join()
        if layer is None:
            raise unpacking.error or SampanError("a layer was not unpacked")
        return digest, layer

    def take(self, digest: str) -> Unattached | None:
        """The layer unpacked from a blob, once; None if there is none, or it failed."""
        unpacking = self._begun.pop(digest, None)
        return None if unpacking is None else unpacking.join()

    def close(self) -> None:
        """Throw away what nobody took."""
        for unpacking in self._begun.values():
            self._stop(unpacking)
        self._begun.clear()

    def _is_layer(self, head: bytes | memoryview) -> bool:
        if not self._layers.loose:
            return False
        if sum(unpacking.running for unpacking in self._begun.values()) >= _AT_ONCE:
            return False
        magic = bytes(head[:6])
        return compression.detect(magic) != compression.NONE or bytes(head[257:262]) == b"ustar"

    def _follow(self, ingest: Ingest, *, base: bool) -> _Unpacking:
        growing = Growing(self._blobs, "")
        growing.begin(ingest.path, ingest.offset)
        return _Unpacking(self._layers, growing, base=base)

    def _stop(self, unpacking: _Unpacking) -> None:
        unpacking.growing.fail(SampanError("the archive ended early"))
        layer = unpacking.join()
        if layer is not None:
            self._layers.abandon(layer)
