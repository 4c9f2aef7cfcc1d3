"""A file on a disk that is as slow as a test wants it: FUSE, spoken by hand (fuse(4)).

The file system is mounted on a file and consists of that one file. What is read of it, beyond what
the kernel has in memory, waits until the disk ``flows``. Only other processes may touch the file:
who serves it must not wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import threading
from pathlib import Path
from types import TracebackType

from sampan.kernel.mounts import MNT_DETACH, mount, umount

__all__ = ["SlowDisk"]

_GETATTR, _OPEN, _READ, _RELEASE, _FLUSH, _INIT, _DESTROY = 3, 14, 15, 18, 25, 26, 38
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_UNANSWERED = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QII QQQQQQIIIIIIIIII")
_INITIAL = struct.Struct("<IIIIHHIIHHI28x")
_MOST = 1 << 20
_FOR_EVER = 1 << 30


class SlowDisk:
    """``path``, which is a file, reads as ``data`` while this is entered."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.asked = threading.Event()
        """Somebody waits for it."""
        self._flows = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, int]] = []
        self._device = -1
        # Mounts follow one another under one device number: each file is another.
        self._inode = int.from_bytes(os.urandom(6), "big")

    def __enter__(self) -> SlowDisk:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=100400,user_id=0,group_id=0,allow_other"
        mount("slow-disk", str(self.path), "fuse", 0, options)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flow()
        umount(str(self.path), MNT_DETACH)
        os.close(self._device)  # whoever waits still gets an error

    def flow(self) -> None:
        """Give what is asked for, from now on."""
        with self._lock:
            self._flows.set()
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._give(*one)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # unmounted
            while True:
                request = os.read(self._device, _MOST + 4096)
                _, operation, unique, *_ = _IN.unpack_from(request)
                if operation not in _UNANSWERED:
                    self._answer(operation, unique, request[_IN.size :])

    def _answer(self, operation: int, unique: int, body: bytes) -> None:
        if operation == _INIT:
            reply = _INITIAL.pack(7, 31, 128 << 10, 0, 64, 48, 4096, 1, 0, 0, 0)
        elif operation == _GETATTR:
            reply = self._attributes()
        elif operation == _OPEN:
            reply = struct.pack("<QIi", 0, 0, 0)
        elif operation == _READ:
            _, offset, count = struct.unpack_from("<QQI", body)
            self.asked.set()
            with self._lock:
                if not self._flows.is_set():
                    self._waiting.append((unique, offset, count))
                    return
            self._give(unique, offset, count)
            return
        elif operation in (_RELEASE, _FLUSH, _DESTROY):
            reply = b""
        else:
            os.write(self._device, _OUT.pack(_OUT.size, -errno.ENOSYS, unique))
            return
        self._say(unique, reply)

    def _give(self, unique: int, offset: int, count: int) -> None:
        self._say(unique, self.data[offset : offset + count])

    def _say(self, unique: int, reply: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # whoever asked was interrupted
            os.writev(self._device, [_OUT.pack(_OUT.size + len(reply), 0, unique), reply])

    def _attributes(self) -> bytes:
        size, blocks = len(self.data), -(-len(self.data) // 512)
        mode = stat.S_IFREG | 0o400
        times = (0, 0, 0, 0, 0, 0)
        return _ATTRIBUTES.pack(
            _FOR_EVER, 0, 0, self._inode, size, blocks, *times, mode, 1, 0, 0, 0, 4096, 0
        )
