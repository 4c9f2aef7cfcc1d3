"""Which pages of a file are in memory, so that reading them waits for no disk.

mincore(2) says it of a mapping: the file is mapped (mmap(2)) without the right to touch it, and
never touched. The kernel answers owners of a file, and those who may write to it; to others every
page seems to be there (since 5.2, against CVE-2019-5489). A page may be dropped between the
question and the reading, so the answer is good for a moment, and for what is only slow when it is
wrong.
"""

from __future__ import annotations

import os

from sampan.kernel.syscalls import buffer, syscall

__all__ = ["Pages"]

_PROT_NONE = 0
_MAP_SHARED = 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Pages:
    """Those of ``count`` bytes, which are some, from ``offset`` of a file. Call ``close``.

    The descriptor is not needed any more. Raises KernelError: of a file that cannot be mapped.
    """

    def __init__(self, descriptor: int, offset: int, count: int) -> None:
        self._begin = offset - offset % _PAGE
        self._length = offset + count - self._begin
        self._address = syscall(
            "mmap", None, self._length, _PROT_NONE, _MAP_SHARED, descriptor, self._begin
        )

    def ready(self, offset: int, most: int) -> int:
        """Bytes from ``offset`` on, ``most`` or fewer, that are in memory without a gap."""
        begin = offset - offset % _PAGE - self._begin
        end = min(offset + most - self._begin, self._length)
        if end <= begin:
            return 0
        count = -(-(end - begin) // _PAGE)
        there = buffer(count)
        syscall("mincore", self._address + begin, end - begin, there)
        # The lowest bit says it; the others are not promised to be zero.
        found = there.raw.translate(_LOWEST).find(b"\0")
        if found < 0:
            return end + self._begin - offset
        return max(0, begin + found * _PAGE + self._begin - offset)

    def close(self) -> None:
        syscall("munmap", self._address, self._length)


_LOWEST = bytes(byte & 1 for byte in range(256))
