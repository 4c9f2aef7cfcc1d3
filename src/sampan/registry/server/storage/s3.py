"""Blobs in a bucket (docs/registry-servers.md, "An upload, in a bucket").

``data/<upload>.<random>`` is an object that holds a whole upload, or what of one stands behind its
last part; its name is never used again. What belongs to an upload is its state (``parts``).
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

from sampan.errors import Corrupt, InvalidArgument, NotFound
from sampan.registry.server.errors import Unreachable
from sampan.registry.server.storage.base import Finished, Stored
from sampan.registry.server.storage.bucket import Bucket
from sampan.registry.server.storage.parts import Appender, Part, Spool, State
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from sampan.registry.server.storage.bucket import Address, Download

__all__ = ["PART", "S3Storage"]

PART = 8 << 20
_GROW = 1000
"""After so many parts they become larger by one ``PART``: 440 GB in all."""
_WARM = 64
_SENDERS = 32
"""Parts that are sent at once, of all uploads."""
_is_upload = re.compile(r"[0-9a-f]{32}").fullmatch
_is_key = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}").fullmatch


class _Reader:
    """One stream, and another where somebody reads elsewhere, or where it broke off."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._download: Download | None = bucket.get(_name(key))
        self._position = 0
        self.size = self._download.size

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        try:
            return self._read(offset, count)
        except Unreachable:
            self.close()
            return self._read(offset, count)

    def _read(self, offset: int, count: int) -> bytes:
        if self._download is None or self._position != offset:
            self.close()
            self._download = self._bucket.get(_name(self._key), offset)
            self._position = offset
        found = bytearray()
        while len(found) < count:
            data = self._bucket.read(self._download, count - len(found))
            if not data:
                self.close()
                raise Unreachable(f"{self._bucket.address}: blob {self._key} broke off")
            found += data
            self._position += len(data)
        return bytes(found)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        if self._download is not None:
            self._download.stream.close()
            self._download = None


class S3Storage:
    """The bucket at ``address``. Parts are spooled in ``directory``."""

    stateful = True

    def __init__(self, address: Address, directory: str, part: int = PART) -> None:
        self.bucket = Bucket(address)
        self._directory = directory
        self._part = part
        self._lock = threading.Lock()
        self._spools: dict[tuple[str, str], Spool] = {}
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="parts")
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
        except OSError as error:
            raise explain(error, "mkdir", directory, "while making the storage") from error
        self.bucket.check()

    def belong(self, name: str) -> str:
        """The name of the registry whose bucket this is: ``name``, if it had none."""
        try:
            found = self._registry()
        except NotFound:
            data = name.encode()
            self.bucket.put("registry", data, hashlib.md5(data, usedforsecurity=False).digest())
            found = self._registry()
        return found

    def _registry(self) -> str:
        download = self.bucket.get("registry")
        try:
            return self.bucket.read(download, 100).decode("utf-8", "replace")
        finally:
            download.stream.close()

    # -- for appenders -----------------------------------------------------------------------------

    def part_size(self, number: int) -> int:
        return self._part * (1 + number // _GROW)

    def new_key(self, upload: str) -> str:
        return f"{upload}.{os.urandom(8).hex()}"

    def new_spool(self) -> Spool:
        return Spool(self._directory)

    def put(self, key: str, body: IO[bytes], md5: bytes) -> None:
        self.bucket.put(_name(key), body, md5)

    def send_part(self, upload: str, state: State, spool: Spool) -> Future[State]:
        """``add_part``, while the caller does something else."""
        return self._senders.submit(self.add_part, upload, state, spool)

    def abort(self, state: State) -> None:
        """Its parts are not wanted. Raises Unreachable."""
        self.bucket.abort(_name(state.target), state.multipart)

    def add_part(self, upload: str, state: State, spool: Spool) -> State:
        """``state`` with one part more, and without a rest."""
        target, multipart = state.target, state.multipart
        if not multipart:
            target = self.new_key(upload)
            multipart = self.bucket.begin(_name(target))
        number = len(state.parts) + 1
        etag = self.bucket.part(_name(target), multipart, number, *spool.body())
        return State((*state.parts, Part(spool.size, etag)), target, multipart)

    def warm(self, upload: str, state: str, spool: Spool) -> None:
        """Keep what is in the spool, for whoever goes on from this state soon."""
        old: list[Spool] = []
        with self._lock:
            self._spools[upload, state] = spool
            while len(self._spools) > _WARM:
                old.append(self._spools.pop(next(iter(self._spools))))
        for one in old:
            one.close()

    def _spool(self, upload: str, state: State) -> Spool:
        """With the bytes of the state's rest. Raises NotFound."""
        with self._lock:
            found = self._spools.pop((upload, state.text()), None)
        if found is not None:
            found.to_end()
            return found
        spool = self.new_spool()
        if not state.rest:
            return spool
        try:
            reader = self.open(state.rest)
            try:
                while data := reader.read(spool.size, 1 << 20):
                    spool.write(memoryview(data))
            finally:
                reader.close()
            if spool.size != state.rest_size:
                raise Corrupt(f"{state.rest} has {spool.size} bytes, not {state.rest_size}")
        except BaseException:
            spool.close()
            raise
        return spool

    # -- uploads -----------------------------------------------------------------------------------

    def append(self, upload: str, state: str, tell: Callable[[], None] | None = None) -> Appender:
        if not _is_upload(upload):
            raise InvalidArgument(f'"{upload}" is not an upload\'s identifier')
        found = State.read(state)
        return Appender(self, upload, found, self._spool(upload, found), tell)

    def size(self, upload: str, state: str) -> int:
        return State.read(state).size

    def finish(self, upload: str, digest: str, state: str) -> Finished:
        found = State.read(state)
        if not found.parts:
            if not found.rest:
                appender = self.append(upload, "")
                appender.keep_rest()
                appender.abandon()
                return Finished(appender.state, True)
            return Finished(state, True)
        try:
            done = found
            if found.rest:
                spool = self._spool(upload, found)
                try:
                    done = self.add_part(upload, found, spool)
                finally:
                    spool.close()
            self.bucket.complete(_name(done.target), done.multipart, done.parts)
        except NotFound:
            # Completed before, by us or by another. If not, it is gone.
            size = self.bucket.size(_name(found.target))
            return Finished(State(rest=found.target, rest_size=size).text(), False)
        if found.rest:
            self._discard(found.rest)
        return Finished(State(rest=done.target, rest_size=done.size).text(), True)

    def read_upload(self, upload: str, state: str) -> _Reader:
        return self.open(_whole(upload, state))

    def seal(self, upload: str, digest: str, state: str) -> str:
        key = _whole(upload, state)
        size = self.bucket.size(_name(key))
        if size != State.read(state).rest_size:
            raise Corrupt(f"{key} has {size} bytes, not {State.read(state).rest_size}")
        self._forget(upload, state)
        return key

    def drop(self, upload: str, state: str) -> bool:
        if not _is_upload(upload):
            raise InvalidArgument(f'"{upload}" is not an upload\'s identifier')
        self._forget(upload, state)
        found, there = State.read(state), False
        if found.rest:
            there = self._is_there(_name(found.rest))
            self.bucket.delete(_name(found.rest))
        if found.multipart:
            there |= self.bucket.abort(_name(found.target), found.multipart)
        if not state:
            for one in list(self.bucket.multiparts(_name(f"{upload}."))):
                there |= self.bucket.abort(one.name, one.identifier)
        return there

    def replaced(self, before: str, after: str) -> None:
        rest = State.read(before).rest
        if rest and rest != State.read(after).rest:
            self._discard(rest)

    def _discard(self, key: str) -> None:
        try:
            self.bucket.delete(_name(key))
        except Unreachable:
            pass  # a collection finds it when its upload is over

    def _forget(self, upload: str, state: str) -> None:
        with self._lock:
            spools = [key for key in self._spools if key[0] == upload]
            found = [self._spools.pop(key) for key in spools]
        for one in found:
            one.close()

    # -- blobs -------------------------------------------------------------------------------------

    def open(self, key: str) -> _Reader:
        return _Reader(self.bucket, _checked(key))

    def url(self, key: str, seconds: float) -> str | None:
        return self.bucket.url(_name(_checked(key)), seconds)

    def delete(self, key: str) -> bool:
        name = _name(_checked(key))
        if not self._is_there(name) or self._is_there(_marker(key)):
            return False
        self.bucket.delete(name)
        return True

    def set_aside(self, key: str) -> str:
        self.bucket.size(_name(_checked(key)))
        self.bucket.put(_marker(key), b"", hashlib.md5(usedforsecurity=False).digest())
        return f"{self.bucket.address}{_name(key)} ({_marker(key)} says so)"

    def _is_there(self, name: str) -> bool:
        try:
            self.bucket.size(name)
        except NotFound:
            return False
        return True

    # -- all of them -------------------------------------------------------------------------------

    def uploads(self) -> Iterator[Stored]:
        for one in self.bucket.multiparts("data/"):
            upload = self.upload_of(one.name.removeprefix("data/"))
            try:
                yield Stored(upload, self.bucket.parts_size(one.name, one.identifier))
            except NotFound:
                continue  # ended while we looked

    def blobs(self) -> Iterator[Stored]:
        aside = {one.name.removeprefix("quarantine/") for one in self.bucket.list("quarantine/")}
        for one in self.bucket.list("data/"):
            key = one.name.removeprefix("data/")
            if _is_key(key) and key not in aside:
                yield Stored(key, one.size)

    def upload_of(self, key: str) -> str:
        return key.partition(".")[0]

    def check(self) -> None:
        self.bucket.check()

    def close(self) -> None:
        self._senders.shutdown()
        with self._lock:
            spools, self._spools = list(self._spools.values()), {}
        for one in spools:
            one.close()
        self.bucket.close()


def _name(key: str) -> str:
    return f"data/{key}"


def _marker(key: str) -> str:
    return f"quarantine/{key}"


def _checked(key: str) -> str:
    if not _is_key(key):
        raise InvalidArgument(f'"{key}" is not a blob\'s key')
    return key


def _whole(upload: str, state: str) -> str:
    """The key of the object that is all of an upload. Raises NotFound."""
    found = State.read(state)
    if not found.rest or found.parts:
        raise NotFound(f"upload {upload} is not there any more")
    return found.rest
