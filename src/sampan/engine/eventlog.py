"""Events on disk: one JSON object a line, appended as they happen, in a few files of bounded size.

``events.jsonl`` is written to; ``events.1.jsonl`` to ``events.3.jsonl`` are older. An event is one
write(2) to a file opened for appending, so that a daemon that is killed leaves a whole line or
none; a machine that stops may leave a part of the last one, which is cut off at the next start. A
write that fails (a full disk) is undone and said in the daemon's log: events tell of changes, they
do not make them fail.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.log import log
from sampan.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Event", "EventLog", "Marks"]

LARGEST = 4 * 1024 * 1024
"""Bytes of a file when the next is begun."""
KEPT = 3
"""Older files that are kept."""
_BLOCK = 128 * 1024


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``number`` orders events whatever the clock does; ``time`` in nanoseconds since the epoch;
    ``attributes`` of the actor at that moment; ``mark`` is for whoever must not tell twice."""

    number: int
    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int
    mark: int = 0


class Marks:
    """The marked events since ``since`` (nanoseconds; 0: all there ever were)."""

    def __init__(self, since: int, known: set[tuple[str, str, int]]) -> None:
        self._since = since
        self._known = known

    def lack(self, actor: str, action: str, mark: int) -> bool:
        """Whether an event whose mark is its change's moment is not among them, and should be."""
        return mark > self._since and (actor, action, mark) not in self._known


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event)


class EventLog:
    """The files in ``directory``, which is made when it is not there."""

    def __init__(self, directory: str, largest: int = LARGEST) -> None:
        self._directory = directory
        self._largest = largest
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._fd = self._open()
            self._size = _cut_torn_line(self._fd)
        except OSError as error:
            raise Unavailable(f"events in {directory}: {error.strerror}") from error
        self.last = self._last_number()

    def _path(self, age: int) -> str:
        return f"{self._directory}/events{f'.{age}' if age else ''}.jsonl"

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path(0), flags, 0o600)

    def _last_number(self) -> int:
        for age in range(KEPT + 1):
            for event in reversed(list(self._tail(age))):
                return event.number
        return 0

    def _tail(self, age: int) -> list[Event]:
        """The last events of one file; none where there is no such file."""
        try:
            fd = os.open(self._path(age), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        try:
            size = os.fstat(fd).st_size
            begin = max(0, size - _BLOCK)
            data = os.pread(fd, size - begin, begin)
        finally:
            os.close(fd)
        if begin:
            data = data[data.find(b"\n") + 1 :]
        return _read_lines(data, self._path(age))

    def append(self, event: Event) -> None:
        """Write one event, whose ``number`` follows ``last``."""
        self.last = event.number
        line = _encode(event) + b"\n"
        try:
            if self._size and self._size + len(line) > self._largest:
                self._rotate()
            written = os.write(self._fd, line)
            if written != len(line):
                os.ftruncate(self._fd, self._size)
                raise OSError(28, "No space left on device")
        except OSError as error:
            log.error("an event cannot be written", action=event.action, error=error.strerror)
            return
        self._size += len(line)

    def _rotate(self) -> None:
        for age in range(KEPT - 1, -1, -1):
            try:
                os.rename(self._path(age), self._path(age + 1))
            except FileNotFoundError:
                continue
        os.close(self._fd)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def read(self, after: int = 0, since: int = 0) -> Iterator[list[Event]]:
        """Events with a number above ``after`` and a time from ``since`` on, oldest first.

        What is appended meanwhile may be among them or not.
        """
        fds: list[tuple[int, str]] = []
        try:
            for age in range(KEPT, -1, -1):
                path = self._path(age)
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                except FileNotFoundError:
                    continue
                # A file that was last written to before that moment has nothing from after it.
                if os.fstat(fd).st_mtime_ns < since:
                    os.close(fd)
                else:
                    fds.append((fd, path))
            while fds:
                fd, path = fds[0]
                for events in _read_file(fd, path):
                    chosen = [e for e in events if e.number > after and e.time >= since]
                    if chosen:
                        yield chosen
                os.close(fds.pop(0)[0])
        finally:
            for fd, _ in fds:
                os.close(fd)

    def marks(self) -> Marks:
        """What was told lately, for a daemon that goes on where another died."""
        # One stretch without a gap: the older file's end only with the whole of the younger.
        ages = (1, 0) if self._size <= _BLOCK else (0,)
        events = [event for age in ages for event in self._tail(age)]
        return Marks(
            events[0].time if events and self.last > len(events) else 0,
            {(event.id, event.action, event.mark) for event in events if event.mark},
        )

    def close(self) -> None:
        os.close(self._fd)


def _cut_torn_line(fd: int) -> int:
    """The file's size, without the beginning of a line that a stopped machine left."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        begin = max(0, size - _BLOCK)
        size = begin + os.pread(fd, size - begin, begin).rfind(b"\n") + 1
        os.ftruncate(fd, size)
    return size


def _read_file(fd: int, path: str) -> Iterator[list[Event]]:
    rest = b""
    while block := os.read(fd, _BLOCK):
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            continue
        whole, rest = rest + block[:cut], block[cut:]
        yield _read_lines(whole, path)


def _read_lines(data: bytes, path: str) -> list[Event]:
    try:
        return _decode.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    found = []
    for line in data.splitlines():
        try:
            found.append(_decode.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warn("an event cannot be read", file=path, error=str(error))
    return found
