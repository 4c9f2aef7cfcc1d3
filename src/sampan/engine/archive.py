"""Looking into containers and copying files in and out: ``docker cp`` and ``docker export``.

A container's files are reached by one descriptor of its root (``runtime.view``), running or not;
what happens from there is ``storage.archive``'s, by descriptor too. Every copy runs on a thread of
its own, which reads or writes a socket; the event loop moves the bytes at its client's pace.

    running      its own root, and its mount namespace held, so that what is mounted there stays
    not running  a view: the storage driver's mounts, volumes and binds made for us, shared by the
                 copies of one container and gone with the last

A writable layer must not be mounted twice, so a start waits for the copies of a container that has
ended, and after ``GRACE`` cuts them off; a removal cuts them off at once. What is cut off fails.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

from sampan.engine.sources import check_sources
from sampan.engine.spec import own_mounts
from sampan.engine.threads import on_thread
from sampan.errors import (
    Conflict,
    InvalidArgument,
    KernelError,
    NotFound,
    PermissionDenied,
    SampanError,
)
from sampan.kernel.mounts import KERNEL_FILE_SYSTEMS, filesystem_magic
from sampan.kernel.paths import O_PATH, open_in_root, open_regular_in_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.storage.archive.copying import Found

__all__ = ["GRACE", "Archives", "PathStat"]

GRACE = 3.0
"""Seconds a start waits for those who copy from the container."""
_CUT = 5.0
"""Seconds from being cut off to a copy's end."""
_CHUNK = 256 * 1024


class PathStat(NamedTuple):
    """What is at a path; ``mode`` as stat(2) has it, ``mtime`` in nanoseconds, ``target``: where a
    link leads."""

    name: str
    size: int
    mode: int
    mtime: int
    target: str


class _Root:
    """A container's root, opened for one or more copies; ``release`` is called after the last."""

    def __init__(self, fd: int, release: Callable[[], None]) -> None:
        self.fd = fd
        self.users = 0
        self._release = release

    def leave(self) -> None:
        self.users -= 1
        if not self.users:
            self._release()


class _Copy:
    """One client's copy. ``result`` is done when its thread has ended and has let go of the root;
    ``socket`` is our end of its stream."""

    def __init__(self, live: Live, reference: str, root: _Root, sock: socket.socket) -> None:
        self.live = live
        self.reference = reference
        self.root = root
        self.socket = sock
        self.error: SampanError | None = None
        self.result: asyncio.Future[None]

    def cut(self, error: SampanError) -> None:
        """End it from outside: its thread finds nobody at the other end."""
        self.error = self.error or error
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # its client was faster

    def problem(self, path: str) -> Exception | None:
        """What went wrong, in the API's words."""
        if self.error is not None:
            return self.error
        error = self.result.exception()
        if isinstance(error, KernelError):
            if error.errno in (ENOENT, ENOTDIR):
                where = f"in container {self.reference}"
                return NotFound(f"Could not find the file {path} {where}")
            if error.errno == ELOOP:
                return InvalidArgument(f"{path}: too many links")
        return error if isinstance(error, Exception) else None


class Archives:
    """Copies of one engine's containers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._views: dict[str, _Root] = {}
        self._copies: dict[str, set[_Copy]] = {}

    # -- the API's operations --------------------------------------------------------------------

    async def stat(self, reference: str, path: str) -> PathStat:
        """What is at a path. NotFound, InvalidArgument."""
        from sampan.storage.archive.copying import find

        found: list[PathStat] = []

        def work(root: int, _: socket.socket) -> None:
            one = find(root, path)
            try:
                found.append(_stat(one))
            finally:
                one.close()

        copy = await self._begin(reference, work)
        copy.socket.close()
        await asyncio.wait((copy.result,))
        if problem := copy.problem(path):
            raise problem
        return found[0]

    @asynccontextmanager
    async def reading(
        self, reference: str, path: str
    ) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        """What is at a path, and a tar of it. NotFound, InvalidArgument; an error after the first
        byte is raised by the iterator."""
        from sampan.storage.archive.copying import find, write_found

        loop = asyncio.get_running_loop()
        told: asyncio.Future[PathStat] = loop.create_future()

        def work(root: int, stream: socket.socket) -> None:
            found = find(root, path)
            try:
                loop.call_soon_threadsafe(told.set_result, _stat(found))
                with open(stream.fileno(), "wb", buffering=_CHUNK, closefd=False) as out:
                    write_found(found, out)
            finally:
                found.close()

        copy = await self._begin(reference, work)
        with copy.socket:
            waits: tuple[asyncio.Future[PathStat] | asyncio.Future[None], ...] = (told, copy.result)
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not told.done() and (problem := copy.problem(path)):
                raise problem
            self._engine.publish(copy.live.record, "archive-path")
            yield await told, _chunks(copy, path)

    @asynccontextmanager
    async def exporting(self, reference: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """A container's own file system as a tar, without what is mounted into it. NotFound."""
        from sampan.storage.archive.copying import write_root

        def work(root: int, stream: socket.socket) -> None:
            with open(stream.fileno(), "wb", buffering=_CHUNK, closefd=False) as out:
                write_root(root, inner, out)

        record = self._engine.registry.find(reference).record
        covered = tuple(f"{mount.destination}/" for mount in record.mounts)
        inner = [
            os.fsencode(mount.destination[1:])
            for mount in self._engine.driver.mounts(record.id)[1:]
            if not f"{mount.destination}/".startswith(covered)
        ]
        copy = await self._begin(reference, work)
        with copy.socket:
            self._engine.publish(record, "export")
            yield _chunks(copy, "/")

    async def write(
        self,
        reference: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        keep_kinds: bool = False,
        as_user: bool = False,
    ) -> None:
        """Unpack a tar into the directory ``path``. ``keep_kinds``: no directory is replaced by a
        file or the other way round; ``as_user``: all that is made belongs to the container's user.

        NotFound, InvalidArgument, PermissionDenied (read-only), Conflict, SampanError (full disk).
        """
        from sampan.runtime import users
        from sampan.storage.archive.copying import clean
        from sampan.storage.archive.placing import put

        user = self._engine.registry.find(reference).record.config.user if as_user else ""

        def work(root: int, stream: socket.socket) -> None:
            full, _ = clean(path)
            _check_destination(root, full)
            owner = None
            if user:
                identity = users.resolve(root, user, open_regular_in_root)
                owner = identity.uid, identity.gid
            put(
                stream.fileno(),
                root,
                full,
                keep_kinds=keep_kinds,
                owner=owner,
                # A client that sends no more must not hold up the news that it is in vain.
                interrupt=lambda: stream.shutdown(socket.SHUT_RD),
            )

        copy = await self._begin(reference, work)
        with copy.socket:
            await _send(copy, chunks)
            await asyncio.wait((copy.result,))
        if problem := copy.problem(path):
            raise problem
        self._engine.publish(copy.live.record, "extract-to-dir")

    # -- order -----------------------------------------------------------------------------------

    async def vacate(self, container_id: str) -> None:
        """Before a start: nobody has the container's root of before mounted. Conflict."""
        for error in (None, Conflict(f"container {container_id} was started meanwhile")):
            copies = self._copies.get(container_id)
            if not copies:
                return
            if error is not None:
                for copy in copies:
                    copy.cut(error)
            seconds = GRACE if error is None else _CUT
            await asyncio.wait([copy.result for copy in copies], timeout=seconds)
        if self._copies.get(container_id):
            raise Conflict(
                f"container {container_id} cannot be started: files are being copied from or to a "
                "file system of it that does not answer"
            )

    def cut_off(self, container_id: str) -> None:
        """A container is removed: who copies from it is told."""
        for copy in self._copies.get(container_id, ()):
            copy.cut(NotFound(f"No such container: {container_id}: it was removed meanwhile"))

    async def _begin(self, reference: str, work: Callable[[int, socket.socket], None]) -> _Copy:
        """Run ``work(root, stream)`` for a container; the caller closes the copy's socket."""
        live = self._engine.registry.find(reference)
        async with live.lock:
            if live.id not in self._engine.registry:
                raise NotFound(f"No such container: {reference}")
            root = await self._open(live)
            root.users += 1
            try:
                ours, theirs = socket.socketpair()
            except OSError:
                root.leave()  # else it is kept for ever, beside the next start's
                raise
            ours.setblocking(False)
            copy = _Copy(live, reference, root, ours)
            self._copies.setdefault(live.id, set()).add(copy)

        def run() -> None:
            with theirs:
                work(root.fd, theirs)

        copy.result = on_thread(run, "sampan-copy")
        copy.result.add_done_callback(lambda _: self._ended(copy))
        return copy

    def _ended(self, copy: _Copy) -> None:
        copy.result.exception()  # whoever asked may be gone
        copies = self._copies[copy.live.id]
        copies.discard(copy)
        if not copies:
            del self._copies[copy.live.id]
        copy.root.leave()

    async def _open(self, live: Live) -> _Root:
        from sampan.runtime.view import open_running

        record = live.record
        if record.state.running:
            fd, namespace = open_running(record.state.pid, record.state.start_time)
            return _Root(fd, lambda: _close(fd, namespace))
        root = self._views.get(live.id)
        if root is None:
            root = self._views[live.id] = await self._view(record)
        return root

    async def _view(self, record: ContainerRecord) -> _Root:
        from sampan.runtime.view import open_view

        engine, holder = self._engine, f"copy:{record.id}"
        check_sources(record, engine.settings.data_root)
        await engine.volumes.hold(record, holder)
        try:
            recipe = engine.driver.mounts(record.id)
            names = engine.names_directory(record)
            own = own_mounts(record, names, engine.driver.image_mount)
            # A tmpfs lives as long as its container: what would be put there is for nobody.
            mounts = [mount for mount in own if mount.type != "tmpfs"]
            place = engine.settings.mount_point
            readonly = record.host_config.readonly_rootfs
            fd = await on_thread(
                lambda: open_view(recipe, mounts, place, readonly=readonly), "sampan-copy"
            )
        except BaseException:
            engine.volumes.let_go(record, holder)
            raise

        def release() -> None:
            del self._views[record.id]
            os.close(fd)
            engine.volumes.let_go(record, holder)

        return _Root(fd, release)


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        os.close(fd)


def _stat(found: Found) -> PathStat:
    status = found.status
    return PathStat(found.name, status.st_size, status.st_mode, status.st_mtime_ns, found.target)


def _check_destination(root: int, path: str) -> None:
    """That files can be put there. InvalidArgument, PermissionDenied, KernelError (``ENOENT``)."""
    fd = open_in_root(root, path, O_PATH)
    try:
        try:
            directory = os.open(f"/proc/self/fd/{fd}", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise InvalidArgument("extraction point is not a directory") from None
        os.close(directory)
        if filesystem_magic(fd) in KERNEL_FILE_SYSTEMS:
            raise PermissionDenied(f"{path} is the kernel's own: no files can be put there")
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            own = os.fstat(fd).st_dev == os.fstat(root).st_dev
            what = "container rootfs" if own else "mounted volume"
            raise PermissionDenied(f"{what} is marked read-only")
    finally:
        os.close(fd)


async def _chunks(copy: _Copy, path: str) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(copy.socket, _CHUNK):
        yield data
    await asyncio.wait((copy.result,))
    if problem := copy.problem(path):
        raise problem


async def _send(copy: _Copy, chunks: AsyncIterator[bytes]) -> None:
    """Give a copy's thread what the client sends, until either has enough."""
    loop = asyncio.get_running_loop()
    while not copy.result.done():
        coming = asyncio.ensure_future(anext(chunks, b""))
        waits: tuple[asyncio.Future[bytes] | asyncio.Future[None], ...] = (coming, copy.result)
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            return
        chunk = coming.result()
        if not chunk:
            copy.socket.shutdown(socket.SHUT_WR)
            return
        try:
            await loop.sock_sendall(copy.socket, chunk)
        except (BrokenPipeError, ConnectionResetError):
            return
