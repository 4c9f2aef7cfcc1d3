"""What a process that stays for months keeps in memory, and what it gives back.

malloc(3) keeps pages that were freed (malloc_trim(3)), and an arena for every few threads
(mallopt(3)). The kernel keeps pages of the program and its libraries mapped that were used once, at
the start or for a load; read-only private mappings without a page of our own are the file's
content, so they can be let go (madvise(2), MADV_DONTNEED) and come back with the next use. On a C
library that lacks these calls nothing is given back.
"""

from __future__ import annotations

import ctypes
import re

from sampan.kernel.syscalls import libc

__all__ = ["give_back", "use_one_heap"]

_M_ARENA_MAX = -8
_MADV_DONTNEED = 4
_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-.p \S+ \S+ ([1-9]\d*) ")


def use_one_heap() -> None:
    """Keep one arena for all threads: as Python's take turns, more only hold free pages apart."""
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give back the heap's free pages and the files' mapped ones. For moments of rest: what is used
    again costs a page fault."""
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
    advise = getattr(libc, "madvise", None)
    if advise is not None:
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for begin, size in _clean_areas():
            advise(begin, size, _MADV_DONTNEED)


def _clean_areas() -> list[tuple[int, int]]:
    """Address and size of each area that holds nothing but a file's pages (proc(5), smaps)."""
    areas: list[tuple[int, int]] = []
    area: tuple[int, int] | None = None
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            found = _AREA.match(line)
            if found:
                begin = int(found[1], 16)
                area = (begin, int(found[2], 16) - begin)
            elif area is not None and line.startswith("Anonymous:"):
                if line.split()[1] == "0":
                    areas.append(area)
                area = None
    return areas
