"""The json-file log: one JSON object per line of output, byte for byte as dockerd writes it.

    {"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}

* A line longer than 16 KiB becomes several entries; all but the last lack the ``\\n``. So does a
  last line that the program never ended.
* Quotes, backslashes, control characters, ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped as
  dockerd does; each byte that is not UTF-8 becomes ``\\ufffd``.
* Time is RFC 3339 with nanoseconds, without trailing zeros (Go's RFC3339Nano). Lines that were
  read together share one time: the moment they were read.
* A file that has reached ``max_size`` is rotated before the next entry: ``path`` becomes
  ``path.1`` and so on up to ``max_file`` files; with one file it is truncated.

Text is worked on in batches: a read of 64 KiB is escaped with a handful of passes over the whole
and written with one system call, because a call per line would cost ten times as much.

A disk that is full, or fails, must not stop the container: entries that cannot be written are
dropped whole, never torn, counted in ``dropped``, and the next batch is tried again.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time

from sampan.errors import InvalidArgument, KernelError, NotSupported

__all__ = ["ENTRY_LIMIT", "JsonFile", "Lines", "Log", "escape", "open_log", "timestamp"]

ENTRY_LIMIT = 16 * 1024

_MODE = 0o640
_START = b'{"log":"'
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_SPECIAL = bytes(byte for byte in range(0x20) if byte != 0x0A) + b'"\\<>&'
# The backslash comes first: the others are replaced by text that contains it.
_SHORT = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\t", b"\\u0009"),
    (b"\x1b", b"\\u001b"),
)
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def _control(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % match[0][0]


def escape(text: bytes) -> bytes:
    """The inside of a JSON string for ``text``, but that its line feeds are left as they are."""
    if len(text.translate(None, _SPECIAL)) != len(text):
        for plain, escaped in _SHORT:
            text = text.replace(plain, escaped)
        text = _CONTROL.sub(_control, text)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            # One \ufffd for each bad byte, as Go counts them; errors="replace" would merge some.
            marked = text.decode("utf-8", "surrogateescape")
            text = _NOT_UTF8.sub("\\\\ufffd", marked).encode()
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def timestamp(nanoseconds: int) -> bytes:
    """RFC 3339 with nanoseconds, UTC, trailing zeros cut, for a count since the epoch."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{whole}{digits}Z".encode("ascii")


class Lines:
    """Turns one stream of bytes into log entries; holds what has no line feed yet (< 16 KiB)."""

    __slots__ = ("_fields", "_tail")

    def __init__(self, stream: str, attributes: dict[str, str] | None = None) -> None:
        attrs = ""
        if attributes:
            pairs = {name: attributes[name] for name in sorted(attributes)}
            text = json.dumps(pairs, separators=(",", ":"), ensure_ascii=False)
            for plain in "<>&":
                text = text.replace(plain, f"\\u{ord(plain):04x}")
            attrs = f',"attrs":{text}'
        self._fields = f'","stream":"{stream}"{attrs},"time":"'.encode()
        self._tail = b""

    def feed(self, data: bytes, stamp: bytes) -> bytes:
        """The entries that ``data`` completes."""
        text = self._tail + data if self._tail else data
        cut = text.rfind(b"\n") + 1
        whole, tail = text[:cut], text[cut:]
        end = self._fields + stamp + b'"}\n'
        entries: list[bytes] = []
        if whole:
            self._whole(whole, end, entries)
        while len(tail) >= ENTRY_LIMIT:
            entries.append(_START + escape(tail[:ENTRY_LIMIT]) + end)
            tail = tail[ENTRY_LIMIT:]
        self._tail = tail
        return b"".join(entries)

    def finish(self, stamp: bytes) -> bytes:
        """The entry of what was never ended by a line feed, if there is any."""
        tail, self._tail = self._tail, b""
        return _START + escape(tail) + self._fields + stamp + b'"}\n' if tail else b""

    @staticmethod
    def _whole(text: bytes, end: bytes, entries: list[bytes]) -> None:
        if _longest_fits(text):
            body = escape(text)[:-1]
            end = b"\\n" + end
            entries.append(_START + body.replace(b"\n", end + _START) + end)
            return
        for line in text[:-1].split(b"\n"):
            start = 0
            while len(line) - start >= ENTRY_LIMIT:
                entries.append(_START + escape(line[start : start + ENTRY_LIMIT]) + end)
                start += ENTRY_LIMIT
            entries.append(_START + escape(line[start:]) + b"\\n" + end)


def _longest_fits(text: bytes) -> bool:
    """Whether every line of ``text`` is shorter than an entry may be; few searches, no split."""
    start = 0
    while len(text) - start > ENTRY_LIMIT:
        found = text.rfind(b"\n", start, start + ENTRY_LIMIT)
        if found < 0:
            return False
        start = found + 1
    return True


class JsonFile:
    """An open log and its rotation."""

    __slots__ = ("_fd", "_max_file", "_max_size", "_path", "_size", "dropped")

    def __init__(
        self, path: str, max_size: int | None = None, max_file: int = 1, fd: int = -1
    ) -> None:
        """Open or make ``path``, to append; ``max_size`` in bytes, ``None`` for no limit.

        ``fd``: the descriptor of an earlier opening, to be used and owned instead.

        Raises KernelError when it cannot be opened, InvalidArgument when it is no regular file.
        """
        if max_size is not None and max_size <= 0:
            raise InvalidArgument(f"log max_size {max_size}: must be positive")
        if max_file < 1:
            raise InvalidArgument(f"log max_file {max_file}: must be at least 1")
        self._path = path
        self._max_size = max_size
        self._max_file = max_file
        self.dropped = 0
        if fd >= 0:
            self._fd, self._size = fd, os.fstat(fd).st_size
        else:
            self._fd, self._size = _open(path, _FLAGS)

    def fileno(self) -> int:
        """The descriptor of the file that is written now."""
        return self._fd

    def write(self, entries: bytes) -> None:
        """Append whole entries, rotating between entries where the limit of size is reached."""
        while entries:
            part = entries
            if self._max_size is not None:
                room = self._max_size - self._size
                if room <= 0 and self._rotate():
                    room = self._max_size
                if 0 < room < len(entries):
                    part = entries[: entries.index(b"\n", room - 1) + 1]
            self._append(part)
            entries = entries[len(part) :]

    def _append(self, part: bytes) -> None:
        try:
            written = os.write(self._fd, part)
        except OSError:
            written = 0
        if written == len(part):
            self._size += written
            return
        kept = part.rfind(b"\n", 0, written) + 1
        if kept != written:
            os.ftruncate(self._fd, self._size + kept)
        self._size += kept
        self.dropped += part.count(b"\n", kept)

    def _rotate(self) -> bool:
        """Begin a new file; False when none can be made, and the old one goes on."""
        if self._max_file == 1:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return True
        for number in range(self._max_file - 1, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            try:
                os.rename(newer, older)
            except OSError:
                continue  # It is not there yet, or cannot be moved: then the older one stays.
        try:
            fd, size = _open(self._path, _FLAGS)
        except (KernelError, InvalidArgument):
            return False
        os.close(self._fd)
        self._fd, self._size = fd, size
        return True

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str, flags: int) -> tuple[int, int]:
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise InvalidArgument(f"log {path}: not a regular file")
    return fd, status.st_size


class Log:
    """A container's log: its streams, their line buffers, and the file they go to."""

    __slots__ = ("_file", "_streams")

    def __init__(self, file: JsonFile, attributes: dict[str, str]) -> None:
        self._file = file
        self._streams = {name: Lines(name, attributes) for name in ("stdout", "stderr")}

    @property
    def dropped(self) -> int:
        """Entries lost so far because the disk was full."""
        return self._file.dropped

    def fileno(self) -> int:
        """The descriptor of the file that is written now."""
        return self._file.fileno()

    def write(self, stream: str, data: bytes) -> None:
        """Log output as it was read from ``stream`` (``stdout`` or ``stderr``)."""
        entries = self._streams[stream].feed(data, timestamp(time.time_ns()))
        if entries:
            self._file.write(entries)

    def finish(self, stream: str) -> None:
        """The stream ended: log what has no line feed."""
        entries = self._streams[stream].finish(timestamp(time.time_ns()))
        if entries:
            self._file.write(entries)

    def close(self) -> None:
        for stream in self._streams:
            self.finish(stream)
        self._file.close()


def open_log(
    driver: str, path: str | None, max_size: int | None, max_file: int, attrs: dict[str, str]
) -> Log | None:
    """The log for a driver's name: ``json-file``, or ``none`` for no log.

    Raises NotSupported for another driver, InvalidArgument without a path.
    """
    if driver == "none":
        return None
    if driver != "json-file":
        raise NotSupported(f"log driver {driver!r}: not supported; use json-file or none")
    if path is None:
        raise InvalidArgument("log.path: required by the json-file driver, and missing")
    return Log(JsonFile(path, max_size, max_file), attrs)
