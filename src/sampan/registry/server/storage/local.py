"""A directory of files: ``uploads/<id>``, ``blobs/<algorithm>/<two digits>/<hex>.<id>``.

An upload's file grows under its own name, is synced, made read-only and renamed to its key, and
both ends of the rename are synced: a blob is there whole or not at all, and never rewritten.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, NotFound
from sampan.oci import digest as digests
from sampan.registry.server.storage.base import Finished, Stored
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LocalStorage"]

_is_upload = re.compile(r"[0-9a-f]{32}").fullmatch
_is_key = re.compile(r"(sha256|sha512)/([0-9a-f]{2})/\2[0-9a-f]{62,126}\.[0-9a-f]{32}").fullmatch


class _Appender:
    state = ""

    def __init__(self, descriptor: int, upload: str) -> None:
        self._descriptor = descriptor
        self._upload = upload
        self.offset = os.fstat(descriptor).st_size

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self.offset += written
                view = view[written:]
        except OSError as error:
            what = f"upload {self._upload}"
            raise explain(error, "write", what, f"while storing {what}") from error

    def settle(self) -> None:
        return

    def close(self) -> None:
        os.close(self._descriptor)

    finish = abandon = close


class _Reader:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


class LocalStorage:
    """The storage below ``root``, whose directories are made when they are missing.

    A state is empty, or the key of an upload that was sealed before somebody died.
    """

    stateful = False

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._uploads = os.path.join(self.root, "uploads")
        self._blobs = os.path.join(self.root, "blobs")
        self._aside = os.path.join(self.root, "quarantine")
        for directory in (self._uploads, self._blobs, self._aside):
            try:
                os.makedirs(directory, 0o700, exist_ok=True)
            except OSError as error:
                raise explain(error, "mkdir", directory, "while making the storage") from error
        self._durable: set[str] = set()
        """Directories whose names are synced, as far as this process knows."""

    # -- names -------------------------------------------------------------------------------------

    def _upload(self, upload: str) -> str:
        if not _is_upload(upload):
            raise InvalidArgument(f'"{upload}" is not an upload\'s identifier')
        return os.path.join(self._uploads, upload)

    def _blob(self, key: str) -> str:
        if not _is_key(key):
            raise InvalidArgument(f'"{key}" is not a blob\'s key')
        return os.path.join(self._blobs, key)

    # -- uploads -----------------------------------------------------------------------------------

    def append(self, upload: str, state: str, tell: Callable[[], None] | None = None) -> _Appender:
        path = self._upload(upload)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return _Appender(os.open(path, flags, 0o600), upload)
        except OSError as error:
            raise explain(error, "open", path, "while beginning an upload") from error

    def size(self, upload: str, state: str) -> int:
        path = self._blob(state) if state else self._upload(upload)
        return next((stored.size for stored in _stored(path, upload)), 0)

    def finish(self, upload: str, digest: str, state: str) -> Finished:
        key = _key(upload, digest)
        if os.path.exists(self._upload(upload)):
            return Finished("", True)
        if os.path.exists(self._blob(key)):
            return Finished(key, False)
        self.append(upload, "").close()  # an empty blob has a file, too
        return Finished("", True)

    def read_upload(self, upload: str, state: str) -> _Reader:
        if state:
            return self.open(state)
        return _Reader(_open(self._upload(upload), f"upload {upload}"))

    def seal(self, upload: str, digest: str, state: str) -> str:
        key = _key(upload, digest)
        source, target = self._upload(upload), self._blob(key)
        directory = os.path.dirname(target)
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if not os.path.exists(target):
                raise NotFound(f"upload {upload} is not there any more") from None
            # Somebody died behind the rename: whether it was synced is not known.
            self._sync_directories(directory)
            return key
        except OSError as error:
            raise explain(error, "open", source, "while storing a blob") from error
        try:
            self._make_directory(directory)
            os.fchmod(descriptor, 0o400)
            os.fsync(descriptor)
            os.rename(source, target)
            self._sync_directories(directory)
        except OSError as error:
            raise explain(error, "rename", target, f"while storing blob {digest}") from error
        finally:
            os.close(descriptor)
        return key

    def _make_directory(self, directory: str) -> None:
        """With its parents, each durable in its own: whoever made one may have died before that."""
        if directory in self._durable:
            return
        parent = os.path.dirname(directory)
        if directory != self._blobs:
            self._make_directory(parent)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        _sync(parent)
        self._durable.add(directory)

    def _sync_directories(self, directory: str) -> None:
        _sync(directory)
        _sync(self._uploads)

    def drop(self, upload: str, state: str) -> bool:
        return _unlink(self._upload(upload))

    def replaced(self, before: str, after: str) -> None:
        return

    # -- blobs -------------------------------------------------------------------------------------

    def open(self, key: str) -> _Reader:
        return _Reader(_open(self._blob(key), f"blob {key}"))

    def url(self, key: str, seconds: float) -> str | None:
        return None

    def delete(self, key: str) -> bool:
        return _unlink(self._blob(key))

    def set_aside(self, key: str) -> str:
        source = self._blob(key)
        target = os.path.join(self._aside, key.replace("/", "-"))
        try:
            os.rename(source, target)
            self._sync_directories(os.path.dirname(source))
            _sync(self._aside)
        except FileNotFoundError:
            if not os.path.exists(target):
                raise NotFound(f"blob {key} is not in the storage") from None
        except OSError as error:
            raise explain(error, "rename", target, "while setting a blob aside") from error
        return target

    # -- lists -------------------------------------------------------------------------------------

    def uploads(self) -> Iterator[Stored]:
        for name in sorted(os.listdir(self._uploads)):
            if _is_upload(name):
                yield from _stored(os.path.join(self._uploads, name), name)

    def blobs(self) -> Iterator[Stored]:
        for algorithm in sorted(os.listdir(self._blobs)):
            for prefix in sorted(os.listdir(os.path.join(self._blobs, algorithm))):
                directory = os.path.join(self._blobs, algorithm, prefix)
                for name in sorted(os.listdir(directory)):
                    key = f"{algorithm}/{prefix}/{name}"
                    if _is_key(key):
                        yield from _stored(os.path.join(directory, name), key)

    def upload_of(self, key: str) -> str:
        return key.rpartition(".")[2]

    def check(self) -> None:
        return

    def close(self) -> None:
        return


def _key(upload: str, digest: str) -> str:
    algorithm, encoded = digests.parse(digest)
    return f"{algorithm}/{encoded[:2]}/{encoded}.{upload}"


def _stored(path: str, name: str) -> Iterator[Stored]:
    try:
        yield Stored(name, os.stat(path, follow_symlinks=False).st_size)
    except FileNotFoundError:
        return  # gone while we looked


def _open(path: str, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise NotFound(f"{what} is not in the storage") from error
    except OSError as error:
        raise explain(error, "open", path, f"while opening {what}") from error


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explain(error, "unlink", path, "while deleting") from error
    return True


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync a directory
            raise
    finally:
        os.close(descriptor)
