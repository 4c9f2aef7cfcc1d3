"""Where tests keep what only has to be quick: in memory, where there is enough of it.

A daemon that tests merely use makes and deletes thousands of small files, and its database waits
for the disk at each change. What is about the disk (storage, crashes, a disk that is full) asks for
pytest's ``tmp_path``, which is on one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.kernel.mounts import filesystem_magic, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["memory_of", "quick_directory"]

_MEMORY = Path("/dev/shm")
_ENOUGH = 4 << 30
_TMPFS_MAGIC = 0x01021994


def memory_of(base: Path) -> Path:
    """The place in memory that belongs to a run whose temporary directory is ``base``."""
    return _MEMORY / base.parent.name / base.name


@contextmanager
def quick_directory(base: Path) -> Iterator[Path]:
    """A directory of a run's own, in memory or below ``base``."""
    if not _is_good():
        yield base
        return
    place = memory_of(base)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    for other in place.parent.iterdir():
        _sweep(other)
    place.mkdir()
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place
    finally:
        os.close(lock)
        _sweep(place)


def _is_good() -> bool:
    """Whether containers' layers may lie there: user's attributes came to tmpfs with Linux 6.6."""
    probe = _MEMORY / f"sampan-test-{os.getpid()}"
    try:
        fd = os.open(_MEMORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if filesystem_magic(fd) != _TMPFS_MAGIC:
            return False
        free = os.fstatvfs(fd)
        if min(free.f_bavail * free.f_frsize, _available()) < _ENOUGH:
            return False
        probe.touch()
        os.setxattr(probe, "user.sampan", b"x")
    except OSError:
        return False
    finally:
        os.close(fd)
        probe.unlink(missing_ok=True)
    return True


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _sweep(place: Path) -> None:
    """Remove a run's place, unless that run lives, or something is mounted in it."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not any(row.mount_point.startswith(f"{place}/") for row in mountinfo()):
            shutil.rmtree(place, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
