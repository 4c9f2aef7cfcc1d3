"""Reading json-file logs: the last lines first found from the end, then followed as they grow.

The monitor writes (``sampan.runtime.supervisor.logfile``); this side only reads, so logs work
whether or not the container, or an earlier daemon, lives. A log is ``path`` and, when rotation is
on, ``path.1`` (younger) to ``path.N`` (older). Following waits in inotify(7) and survives rotation:
the renamed file is read to its end before the new one is opened.
"""

from __future__ import annotations

import asyncio
import calendar
import os
import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Corrupt, InvalidArgument
from sampan.kernel.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Inotify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["Entry", "LogQuery", "LogReader", "parse_moment", "parse_tail"]

_BLOCK = 256 * 1024


class Entry(msgspec.Struct):
    """One line: ``log`` with its line feed, if the program wrote one."""

    log: str
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


_decoder = msgspec.json.Decoder(Entry)


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


def parse_moment(text: str) -> int:
    """A query's time, ``seconds[.fraction]`` since the epoch or RFC 3339, in nanoseconds.

    Raises InvalidArgument.
    """
    if not text:
        return 0
    seconds, _, fraction = text.partition(".")
    if seconds.lstrip("-").isdecimal() and (not fraction or fraction.isdecimal()):
        return int(seconds) * 1_000_000_000 + int((fraction + "000000000")[:9])
    try:
        return _nanoseconds(text)
    except ValueError as error:
        raise InvalidArgument(
            f"invalid time {text!r}: give seconds since 1970 or RFC 3339"
        ) from error


def _nanoseconds(text: str) -> int:
    whole = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
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

    def __init__(self, path: str, query: LogQuery) -> None:
        self._path = path
        self._query = query
        self._rest = b""
        self._fds: list[int] = []
        number = 0
        while True:
            try:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fds.append(os.open(f"{path}.{number}" if number else path, flags))
            except FileNotFoundError:
                break
            number += 1
        self._fds.reverse()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def read(self) -> Iterator[list[Entry]]:
        """Batches of entries up to what is written now; only the youngest file stays open.

        Raises Corrupt for a line that is not a log's.
        """
        self._seek()
        while self._fds:
            yield from self._drain()
            if len(self._fds) == 1:
                return
            os.close(self._fds.pop(0))

    async def follow(self, ended: asyncio.Event) -> AsyncIterator[list[Entry]]:
        """As ``read``, then what is written until ``ended`` is set; an empty batch is a pause."""
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        watch = Inotify()

        def changed() -> None:
            watch.read()
            wake.set()

        with watch:
            watch.add(os.path.dirname(self._path), IN_MODIFY | IN_CREATE | IN_MOVED_TO)
            loop.add_reader(watch.fileno(), changed)
            waiter = asyncio.ensure_future(ended.wait())
            waiter.add_done_callback(lambda _: wake.set())
            try:
                for batch in self.read():
                    yield batch
                while True:
                    # The order counts: what was written before the end is read after it is known.
                    over = ended.is_set()
                    wake.clear()
                    for batch in self._grown():
                        yield batch
                    if over:
                        return
                    yield []
                    await wake.wait()
            finally:
                waiter.cancel()
                loop.remove_reader(watch.fileno())

    def _grown(self) -> Iterator[list[Entry]]:
        yield from self._drain()
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return
        if self._fds:
            mine = os.fstat(self._fds[-1])
            if (mine.st_dev, mine.st_ino) == (current.st_dev, current.st_ino):
                if mine.st_size < os.lseek(self._fds[-1], 0, os.SEEK_CUR):
                    # Rotation to a single file truncates it.
                    os.lseek(self._fds[-1], 0, os.SEEK_SET)
                    self._rest = b""
                    yield from self._drain()
                return
            yield from self._drain()
            os.close(self._fds.pop())
        self._fds.append(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        yield from self._drain()

    def _drain(self) -> Iterator[list[Entry]]:
        """The first file's entries from its position to its end."""
        while self._fds:
            block = os.read(self._fds[0], _BLOCK)
            if not block:
                return
            cut = block.rfind(b"\n") + 1
            if not cut:
                self._rest += block
                continue
            whole, self._rest = self._rest + block[:cut], block[cut:]
            try:
                entries = _decoder.decode_lines(whole)
            except msgspec.DecodeError as error:
                raise Corrupt(f"log {self._path}: {error}") from error
            chosen = self._choose(entries)
            if chosen:
                yield chosen

    def _choose(self, entries: list[Entry]) -> list[Entry]:
        query = self._query
        if not (query.stdout and query.stderr):
            wanted = "stdout" if query.stdout else "stderr"
            entries = [entry for entry in entries if entry.stream == wanted]
        if query.since or query.until:
            entries = [entry for entry in entries if self._inside(entry)]
        return entries

    def _inside(self, entry: Entry) -> bool:
        moment = _nanoseconds(entry.time)
        return moment >= self._query.since and not 0 < self._query.until < moment

    def _seek(self) -> None:
        """Position the files so that ``tail`` lines are left; drop those that are not needed."""
        wanted = self._query.tail
        if wanted is None or not self._fds:
            return
        for index in range(len(self._fds) - 1, -1, -1):
            fd = self._fds[index]
            found, offset = _last_lines(fd, wanted)
            os.lseek(fd, offset, os.SEEK_SET)
            wanted -= found
            if wanted <= 0:
                for unneeded in self._fds[:index]:
                    os.close(unneeded)
                del self._fds[:index]
                return


def _last_lines(fd: int, wanted: int) -> tuple[int, int]:
    """How many of the last ``wanted`` lines the file has, and where the first of them begins."""
    end = os.lseek(fd, 0, os.SEEK_END)
    if wanted <= 0:
        return 0, end
    found = 0
    position = end
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        block = os.pread(fd, size, position)
        count = block.count(b"\n")
        # The line feed that ends the file ends the last line and begins none.
        if position + size == end and block.endswith(b"\n"):
            count -= 1
        if found + count < wanted:
            found += count
            continue
        cut = len(block)
        if position + size == end and block.endswith(b"\n"):
            cut -= 1
        for _ in range(wanted - found):
            cut = block.rfind(b"\n", 0, cut)
        return wanted, position + cut + 1
    return found + (1 if end else 0), 0
