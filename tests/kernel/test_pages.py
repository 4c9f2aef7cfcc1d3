"""Which pages of a file are in memory: the kernel's word, held against reads that wait or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ENODEV
from pathlib import Path

import pytest

from sampan.errors import KernelError
from sampan.kernel.pages import Pages

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 600 * PAGE + 100


@pytest.fixture
def file() -> Iterator[int]:
    """A file on a real disk, or on whatever /var/tmp is."""
    path = Path("/var/tmp") / f"pages-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    os.write(descriptor, os.urandom(SIZE))
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("offset", "count"), [(0, SIZE), (1, 10), (PAGE, PAGE), (3 * PAGE + 7, SIZE - 3 * PAGE - 7)]
)
def test_what_was_just_written_is_there(file: int, offset: int, count: int) -> None:
    pages = Pages(file, offset, count)
    try:
        assert pages.ready(offset, count) == count
        assert pages.ready(offset, 1 << 40) == count
        assert pages.ready(offset + 5, 2) == 2
        assert pages.ready(offset + count, 10) == 0
    finally:
        pages.close()


def test_what_the_kernel_let_go_of_is_not(file: int) -> None:
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    pages = Pages(file, 10, SIZE - 10)
    try:
        if pages.ready(10, SIZE):
            pytest.skip("/var/tmp is a file system in memory")
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # so that nothing is read ahead
        for page in (0, 1, 3, 600):
            os.pread(file, 1, page * PAGE)
        assert pages.ready(10, SIZE) == 2 * PAGE - 10
        assert pages.ready(PAGE + 5, 100) == 100
        assert pages.ready(2 * PAGE, SIZE) == 0
        assert pages.ready(3 * PAGE + 1, SIZE) == PAGE - 1
        assert pages.ready(600 * PAGE + 40, SIZE) == 60
    finally:
        pages.close()


def test_what_cannot_be_mapped_is_refused() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(KernelError) as raised:
            Pages(read, 0, 10)
        assert raised.value.errno == ENODEV
    finally:
        os.close(read)
        os.close(write)
