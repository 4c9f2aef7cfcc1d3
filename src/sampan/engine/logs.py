"""Reading logs: the last lines first found from the end, then followed as they grow.

The monitor writes (``sampan.runtime.supervisor.logs``); this side only reads, so logs work whether
or not the container, or an earlier daemon, lives. Which files there are is ``log_files``' matter,
and what is in them ``log_formats``'. A compressed file is unpacked when its turn comes, by a
thread.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import rfc3339
from sampan.engine.log_files import Watch, close_all, open_from
from sampan.engine.log_formats import format_of
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from sampan.engine.log_drivers import Place
    from sampan.engine.log_files import LogFile
    from sampan.engine.log_formats import Entry

__all__ = ["LogQuery", "LogReader", "parse_moment", "parse_tail"]

_BLOCK = 256 * 1024
_SECOND = 1_000_000_000


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``tail`` lines from the end (None: all); times in nanoseconds, 0 for unbounded."""

    stdout: bool = True
    stderr: bool = True
    tail: int | None = None
    since: int = 0
    until: int = 0


def parse_tail(text: str) -> int | None:
    """``all``, empty or anything that is no number means all, as in Docker."""
    return int(text) if text.isdecimal() else None


_SECONDS = re.compile(r"(-?[0-9]{1,20})(?:\.([0-9]*))?", re.ASCII)
_FARTHEST = 1 << 62
"""Nanoseconds: the year 2116."""


def parse_moment(text: str) -> int:
    """A query's time, ``seconds[.fraction]`` since the epoch or RFC 3339, in nanoseconds.

    Raises InvalidArgument.
    """
    if not text:
        return 0
    match = _SECONDS.fullmatch(text)
    try:
        if match is not None:
            moment = int(match[1]) * 1_000_000_000 + int(((match[2] or "") + "000000000")[:9])
        else:
            moment = _nanoseconds(text)
    except (ValueError, IndexError) as error:
        raise InvalidArgument(
            f"invalid time {text[:40]!r}: give seconds since 1970 or RFC 3339"
        ) from error
    if not -_FARTHEST < moment < _FARTHEST:
        raise InvalidArgument(f"invalid time {text[:40]!r}: it is centuries away")
    return moment


def _nanoseconds(text: str) -> int:
    if text[10] != "T":
        raise ValueError(text)
    whole = int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())
    rest = text[19:]
    fraction = ""
    if rest.startswith("."):
        end = next((i for i, c in enumerate(rest[1:], 1) if not c.isdigit()), len(rest))
        fraction, rest = rest[1:end], rest[end:]
    if rest not in ("Z", ""):
        sign = {"+": 1, "-": -1}[rest[0]] if rest[0] in "+-" else 0
        if not sign:
            raise ValueError(text)
        whole -= sign * (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60)
    return whole * 1_000_000_000 + int((fraction + "000000000")[:9])


class LogReader:
    """One reading of a log. Close it, or use it as a context manager."""

    def __init__(self, place: Place, query: LogQuery, *, follow: bool = False) -> None:
        """``follow``: ``follow`` will be called, not ``read``."""
        self._place = place
        self._query = query
        self._since = _bound(query.since)
        self._until = _bound(query.until)
        self._rest = b""
        self._over = False
        self._end: tuple[int, int, int] | None = None
        self._format = format_of(place.driver)
        self._files: deque[LogFile]
        self._watch = Watch(place.path) if follow else None
        if self._watch is not None:
            self._files = deque(self._watch.open(place.path, query.since))
        else:
            self._files = deque(open_from(place.path, query.since))

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        close_all(self._files)
        self._files.clear()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def read(self) -> AsyncIterator[list[Entry]]:
        """Batches of entries up to what is written now; only the youngest file stays open."""
        await self._seek()
        async for batch in self._drain_all():
            yield batch

    async def follow(self, ended: asyncio.Event) -> AsyncGenerator[list[Entry]]:
        """As ``read``, then what is written until ``ended`` is set; an empty batch is a pause.

        To be closed (``contextlib.aclosing``) before this reader is.
        """
        watch = self._watch
        assert watch is not None
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()

        def changed() -> None:
            watch.read()
            wake.set()

        loop.add_reader(watch.fileno(), changed)
        waiter = asyncio.ensure_future(ended.wait())
        waiter.add_done_callback(lambda _: wake.set())
        timer: asyncio.TimerHandle | None = None
        if self._query.until:
            left = (self._query.until - time.time_ns()) / _SECOND
            timer = loop.call_later(max(0.0, left), wake.set)
        try:
            async for batch in self.read():
                yield batch
            while not self._over:
                # The order counts: what was written before the end is read after it is known.
                over = ended.is_set() or 0 < self._query.until <= time.time_ns()
                wake.clear()
                async for batch in self._grown(watch):
                    yield batch
                if over:
                    return
                yield []
                await wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            waiter.cancel()
            loop.remove_reader(watch.fileno())

    async def until(self, end: tuple[int, int, int] | None) -> AsyncIterator[list[Entry]]:
        """After ``read``: what was written since, up to ``end`` (the device and inode of a file,
        and its size then), or to where it ends now. For a reader that may ``follow``."""
        assert self._watch is not None
        self._end, self._over = end, False
        async for batch in self._grown(self._watch):
            yield batch

    async def _grown(self, watch: Watch) -> AsyncIterator[list[Entry]]:
        for batch in self._drain():
            yield batch
        watch.read()
        while not self._over and (watch.rotations or not self._files):
            # What had been written to the one we have before that is in it by now.
            for batch in self._drain():
                yield batch
            if not self._files:
                watch.rotations = max(watch.rotations, 1)
            newer = watch.newer(self._place.path)
            if not newer:
                return
            close_all(self._files)
            self._files = deque(newer)
            self._begin_file()
            async for batch in self._drain_all():
                yield batch
            watch.read()
        fd = self._files[0].fd
        if not self._over and os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):
            # Somebody emptied it.
            os.lseek(fd, 0, os.SEEK_SET)
            self._begin_file()
            for batch in self._drain():
                yield batch

    def _begin_file(self) -> None:
        self._rest = b""
        self._format = format_of(self._place.driver)

    async def _drain_all(self) -> AsyncIterator[list[Entry]]:
        """Every file's entries, from its position on."""
        while self._files and not self._over:
            if self._files[0].packed:
                await asyncio.to_thread(self._files[0].unpack)
            for batch in self._drain():
                yield batch
            if len(self._files) == 1:
                return
            self._files.popleft().close()
            self._begin_file()

    def _drain(self) -> Iterator[list[Entry]]:
        """The first file's entries from its position to its end."""
        while self._files and not self._over:
            block = os.read(self._files[0].fd, self._room())
            if not block:
                return
            entries, self._rest = self._format.decode(self._rest + block if self._rest else block)
            chosen = self._choose(entries)
            if chosen:
                yield chosen

    def _room(self) -> int:
        """How much is to be read of the first file at once; 0 where that is the end."""
        end, file = self._end, self._files[0]
        if end is None or file.identity != end[:2]:
            return _BLOCK
        left = end[2] - os.lseek(file.fd, 0, os.SEEK_CUR)
        self._over = left <= 0
        return min(_BLOCK, left)

    def _choose(self, entries: list[Entry]) -> list[Entry]:
        query = self._query
        if self._until and entries and _key(entries[-1].time) > self._until:
            # What follows is younger still.
            self._over = True
            entries = [entry for entry in entries if _key(entry.time) <= self._until]
        if self._since:
            entries = [entry for entry in entries if _key(entry.time) >= self._since]
        if not (query.stdout and query.stderr):
            wanted = "stdout" if query.stdout else "stderr"
            entries = [entry for entry in entries if entry.stream == wanted]
        return entries

    async def _seek(self) -> None:
        """Position the files so that ``tail`` entries are left; drop those that are not needed."""
        wanted = self._query.tail
        if wanted is None:
            return
        for index in range(len(self._files) - 1, -1, -1):
            file = self._files[index]
            if file.packed:
                await asyncio.to_thread(file.unpack)
            reader = format_of(self._place.driver)
            found, offset = reader.last(file.fd, wanted)
            os.lseek(file.fd, offset, os.SEEK_SET)
            wanted -= found
            if wanted <= 0:
                for _ in range(index):
                    self._files.popleft().close()
                self._format = reader
                return


def _bound(nanoseconds: int) -> str:
    return _key(rfc3339(nanoseconds)) if nanoseconds > 0 else ""


def _key(moment: str) -> str:
    """A time that sorts as text: in UTC, as logs have it, without its Z."""
    return moment[:-1]
