"""What layers and archives are packed with: found by magic, unpacked on a thread of its own.

gzip (RFC 1952; several members are one stream, zero bytes may follow the last, anything else is
corrupt) by ISA-L where it has a wheel, else by zlib; zstd (RFC 8878); bzip2 and xz as Docker takes
them for ``import`` and ``load``; or nothing. Inflating and hashing release the interpreter lock, so
``Unpacker`` does both beside the thread that writes files: two cores are busy, not one.

A stream that ends early is ``Corrupt``, as is one whose own checksum disagrees.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from sampan.errors import Corrupt, InvalidArgument
from sampan.oci.digest import new_hash

try:
    from isal import isal_zlib as _deflate

    _LEVEL = 2  # ISA-L's levels end at 3: about zlib's 4 in size, at many times its speed
except ImportError:  # no wheel of ISA-L for this machine
    import zlib as _deflate  # type: ignore[no-redef]  # the same interface

    _LEVEL = 6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = [
    "BZIP2",
    "GZIP",
    "KINDS",
    "NONE",
    "XZ",
    "ZSTD",
    "Compressor",
    "Readable",
    "Unpacker",
    "detect",
    "preload",
]

NONE = "none"
GZIP = "gzip"
ZSTD = "zstd"
BZIP2 = "bzip2"
XZ = "xz"
KINDS = (NONE, GZIP, ZSTD, BZIP2, XZ)

_MAGIC = (
    (b"\x1f\x8b", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", XZ),
)
_HEAD = 6
_PIECE = 1 << 20
_INPUT = 1 << 18
_AHEAD = 8
_GZIP_WINDOW = 31  # 15 bits of window, 16 more: a gzip header and trailer
_ZSTD_WINDOW = 27  # 128 MiB, what zstd itself refuses to exceed unless told
_RATIO_AFTER = 1 << 28
_CORRUPT: type[Exception] = _deflate.error  # type: ignore[assignment]  # isal's stub says instance


class Decoder(Protocol):
    """The shape of the decompressor objects of zlib, isal, bz2, lzma and zstd, made alike."""

    @property
    def eof(self) -> bool:
        """Whether a member ended."""

    @property
    def unused(self) -> bytes:
        """What came after it."""

    def decode(self, data: bytes) -> bytes:
        """Up to a piece of output; ``data`` is empty to get more of what was given before."""

    @property
    def wants(self) -> bool:
        """Whether it can do nothing without more input."""


def detect(head: bytes) -> str:
    """The kind of compression of a stream that begins with these bytes (six are enough)."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    # A skippable frame may come before a zstd frame (RFC 8878, 3.1.2).
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return ZSTD
    return NONE


class _Inflate:
    """gzip by zlib's interface, which ISA-L shares: what was not consumed is handed back."""

    def __init__(self) -> None:
        self._object = _deflate.decompressobj(wbits=_GZIP_WINDOW)
        self._starved = True

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._object.unused_data)

    @property
    def wants(self) -> bool:
        return self._starved

    def decode(self, data: bytes) -> bytes:
        pending = self._object.unconsumed_tail
        try:
            out: bytes = self._object.decompress(pending + data if pending else data, _PIECE)
        except _CORRUPT as error:
            raise Corrupt(f"gzip data is corrupt: {error}") from error
        # A full piece may be followed by more that the library holds inside.
        self._starved = len(out) < _PIECE and not self._object.unconsumed_tail
        return out


class _Standard:
    """bz2, lzma and zstd: one interface, with what was not consumed kept inside."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._object, self._error = _standard(kind)

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._object.unused_data)

    @property
    def wants(self) -> bool:
        return bool(self._object.needs_input)

    def decode(self, data: bytes) -> bytes:
        try:
            return self._object.decompress(data, _PIECE)
        except self._error as error:
            raise Corrupt(f"{self._kind} data is corrupt: {error}") from error


class _Held(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _standard(kind: str) -> tuple[_Held, type[Exception] | tuple[type[Exception], ...]]:
    if kind == BZIP2:
        import bz2

        return bz2.BZ2Decompressor(), (OSError, ValueError)
    if kind == XZ:
        import lzma

        return lzma.LZMADecompressor(memlimit=1 << 28), lzma.LZMAError
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    limit = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW}
    return zstd.ZstdDecompressor(options=limit), zstd.ZstdError


def preload() -> None:
    """Import what streams may need, for a process that forks others to read them."""
    import bz2
    import lzma

    _standard(ZSTD)
    del bz2, lzma
    new_hash()


def _decode(kind: str, read: Callable[[int], bytes], head: bytes) -> Iterator[bytes]:
    """The pieces of a compressed stream, all its members one after another."""
    data = head
    while True:
        decoder: Decoder = _Inflate() if kind == GZIP else _Standard(kind)
        while not decoder.eof:
            if not data and decoder.wants:
                data = read(_INPUT)
                if not data:
                    raise Corrupt(f"{kind} data is truncated")
            piece = decoder.decode(data)
            data = b""
            if piece:
                yield piece
        data = decoder.unused
        while True:  # padding between here and the next member, or the end
            data = data.lstrip(b"\0")
            if len(data) >= _HEAD:
                break
            more = read(_INPUT)
            if not more:
                break
            data += more
        if not data:
            return
        if detect(data[:_HEAD]) != kind:
            raise Corrupt(f"{kind} data is followed by bytes that are not {kind}")


class Readable(Protocol):
    """Where packed bytes come from."""

    def read(self, count: int, /) -> bytes:
        """Up to ``count`` bytes, nothing at the end."""


class Unpacker:
    """The unpacked bytes of a stream, as an iterator of pieces of about 1 MiB.

    ``stream`` is a descriptor, which stays open, or an object with ``read(n)``. A thread reads,
    unpacks and hashes ahead of the consumer; ``close`` (or leaving the context) ends and joins it,
    so ``stream`` is never touched afterwards. Its errors are raised where the pieces are taken.

    After the last piece ``digest`` is the sha256 of the unpacked bytes (an OCI diff ID), ``size``
    their number and ``packed`` the number of bytes read. ``ratio`` caps ``size / packed`` once
    256 MiB came out: what a few kilobytes can claim to be is otherwise bounded by the disk alone.
    Without ``hashed`` there is no digest, and no time spent on it.
    """

    def __init__(
        self, stream: int | Readable, *, ratio: float | None = None, hashed: bool = True
    ) -> None:
        if isinstance(stream, int):
            descriptor = stream
            self._read: Callable[[int], bytes] = lambda n: os.read(descriptor, n)
        else:
            self._read = stream.read
        self._ratio = ratio
        self._hash = new_hash() if hashed else None
        self.kind = NONE
        self.size = 0
        self.packed = 0
        self._ready: deque[bytes] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._closed = False
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="unpack", daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        """``sha256:…`` of all that came out; only meaningful after the last piece."""
        assert self._hash is not None
        return "sha256:" + self._hash.hexdigest()

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._state:
            while not self._ready:
                if self._over:
                    if self._error is not None:
                        raise self._error
                    raise StopIteration
                self._state.wait()
            self._state.notify()
            return self._ready.popleft()

    def close(self) -> None:
        """End the thread. It returns when the read the thread may be in returns."""
        with self._state:
            self._closed = True
            self._ready.clear()
            self._state.notify()
        self._thread.join()

    def _counted(self, count: int) -> bytes:
        data = self._read(count)
        self.packed += len(data)
        return data

    def _pieces(self) -> Iterator[bytes]:
        head = b""
        while len(head) < _HEAD and (more := self._counted(_INPUT)):
            head += more
        self.kind = detect(head[:_HEAD])
        if self.kind != NONE:
            yield from _decode(self.kind, self._counted, head)
            return
        if head:
            yield head
        while data := self._counted(_PIECE):
            yield data

    def _work(self) -> None:
        try:
            for piece in self._pieces():
                if self._hash is not None:
                    self._hash.update(piece)
                self.size += len(piece)
                if (
                    self._ratio is not None
                    and self.size > _RATIO_AFTER
                    and self.size > self._ratio * self.packed
                ):
                    raise InvalidArgument(
                        f"{self.kind} data unpacks to more than {self._ratio:g} times its size"
                    )
                with self._state:
                    while len(self._ready) >= _AHEAD and not self._closed:
                        self._state.wait()
                    if self._closed:
                        return
                    self._ready.append(piece)
                    self._state.notify()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that takes the pieces
            self._error = error
        finally:
            with self._state:
                self._over = True
                self._state.notify()


class Compressor:
    """Pack what is written and pass it on to ``write``; ``close`` ends the stream.

    The same bytes give the same output: a gzip header of ours carries no name and no time.
    ``digest`` and ``size`` are of the bytes written (for a layer: its diff ID), ``packed`` the
    number that came out.
    """

    def __init__(
        self, write: Callable[[bytes], object], kind: str = GZIP, level: int | None = None
    ) -> None:
        self._out = write
        self._hash = new_hash()
        self.size = 0
        self.packed = 0
        self._compress, self._finish = _packer(kind, level)

    @property
    def digest(self) -> str:
        """``sha256:…`` of the bytes written so far."""
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Pack some bytes."""
        self._hash.update(data)
        self.size += len(data)
        self._pass_on(self._compress(data))

    def close(self) -> None:
        """Write what is left. The receiver stays open."""
        self._pass_on(self._finish())

    def _pass_on(self, data: bytes) -> None:
        if data:
            self.packed += len(data)
            self._out(data)


def _packer(
    kind: str, level: int | None
) -> tuple[Callable[[bytes | memoryview], bytes], Callable[[], bytes]]:
    if kind == NONE:
        return bytes, bytes
    if kind == GZIP:
        deflate = _deflate.compressobj(_LEVEL if level is None else level, wbits=_GZIP_WINDOW)
        return deflate.compress, deflate.flush
    if kind == ZSTD:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        frame = zstd.ZstdCompressor(level=3 if level is None else level)
        return frame.compress, frame.flush
    raise InvalidArgument(f'compression "{kind}": layers are written with gzip, zstd or none')
