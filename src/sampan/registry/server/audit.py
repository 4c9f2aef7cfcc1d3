"""The audit log: who did what to what, from where, and how it ended; one JSON object a line.

Lines are only ever appended, each by one write(2) of a descriptor with O_APPEND, so that several
processes may share a file. ``reopen`` follows a file that was renamed (logrotate(8)). What cannot
be written is counted: the first line that can be written again says how many are missing, and
until then whoever asks ``is_good`` is told to change nothing. A line that was written in part (a
disk that filled) is ended, so no other one is lost with it. Nobody waits for fsync: a machine that
loses its power may lose the last seconds.
"""

from __future__ import annotations

import os
import stat
import time

import msgspec

from sampan.errors import InvalidArgument

__all__ = ["AuditLog"]

_LONGEST = 512
"""Characters of a value that strangers choose."""


class AuditLog:
    """The file at ``path``, made where it is missing. Raises InvalidArgument."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lost = 0
        self._torn = False
        self._descriptor = _open(path)

    def record(self, **fields: object) -> bool:
        """Write a line; whether that went well. Empty fields are left out."""
        said: dict[str, object] = {"time": _time()}
        for key, value in fields.items():
            if value not in ("", None):
                said[key] = value[:_LONGEST] if isinstance(value, str) else value
        if self._write_lost() and self._write(said):
            return True
        self.lost += 1
        return False

    def is_good(self) -> bool:
        """Everything so far was written, or is told to be missing."""
        return not self.lost or self._write_lost()

    def _write_lost(self) -> bool:
        if self.lost and not self._write({"time": _time(), "action": "lost", "records": self.lost}):
            return False
        self.lost = 0
        return True

    def _write(self, value: dict[str, object]) -> bool:
        line = (b"\n" if self._torn else b"") + msgspec.json.encode(value) + b"\n"
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            return False
        self._torn = written < len(line)
        return not self._torn

    def reopen(self) -> None:
        """Where the file is now. Raises InvalidArgument, and goes on with the one it has."""
        fresh = _open(self.path)
        os.close(self._descriptor)
        self._descriptor = fresh
        self._torn = False

    def close(self) -> None:
        os.close(self._descriptor)


def _open(path: str) -> int:
    # O_NONBLOCK: a FIFO without a reader is an error and no wait; files do not mind.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise InvalidArgument(f"--audit-log {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgument(f"--audit-log {path}: not a regular file")
    return descriptor


def _time() -> str:
    moment = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))}.{int(moment % 1 * 1e6):06d}Z"
