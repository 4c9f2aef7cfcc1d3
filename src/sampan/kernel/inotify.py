"""inotify(7): being told of changes instead of looking again and again."""

from __future__ import annotations

import os
import struct
from errno import EAGAIN

from sampan.errors import KernelError
from sampan.kernel.syscalls import c_string, syscall

IN_ACCESS = 0x1
IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_CLOSE_NOWRITE = 0x10
IN_OPEN = 0x20
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_ISDIR = 0x40000000

_HEADER = struct.Struct("iIII")


class Event:
    """One event: watch descriptor, mask, cookie of a rename, name in a watched directory."""

    __slots__ = ("cookie", "mask", "name", "watch")

    def __init__(self, watch: int, mask: int, cookie: int, name: str) -> None:
        self.watch = watch
        self.mask = mask
        self.cookie = cookie
        self.name = name

    def __repr__(self) -> str:
        return f"<Event watch={self.watch} mask={self.mask:#x} name={self.name!r}>"


class Inotify:
    """An inotify instance; ``fileno()`` to poll, ``read()`` for what happened, never blocking."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = syscall("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str | bytes, mask: int) -> int:
        """Watch ``path`` for the ``IN_*`` of ``mask``; the watch descriptor."""
        return syscall(
            "inotify_add_watch", self._fd, c_string(path), mask, target=os.fsdecode(path)
        )

    def remove(self, watch: int) -> None:
        """Stop a watch; an ``IN_IGNORED`` event follows."""
        syscall("inotify_rm_watch", self._fd, watch, target=f"watch {watch}")

    def read(self) -> list[Event]:
        """The events since the last call, none if there are none. ``IN_Q_OVERFLOW`` among them:
        some were lost."""
        try:
            data = os.read(self._fd, 65536)
        except OSError as error:
            if error.errno == EAGAIN:
                return []
            raise KernelError("read", error.errno or 0, "inotify") from None
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            events.append(Event(watch, mask, cookie, name))
        return events

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
