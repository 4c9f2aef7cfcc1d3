"""A file as an answer, from the server alone: what is in memory goes out without a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api.http import resident
from sampan.api.http.files import send_file
from sampan.api.http.messages import Request
from sampan.api.http.stream import Answer
from sampan.errors import KernelError
from tests.api.serving import GET, looped, site

DATA = os.urandom(10_000_000)


class Stored:
    """A file as ``send_file`` wants it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self.fileno(), count, offset)

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def stored(quick: Path) -> Iterator[Stored]:
    path = quick / "answer"
    path.write_bytes(DATA)
    one = Stored(path)
    yield one
    one.close()
    path.unlink()


@pytest.mark.parametrize(
    ("offset", "count"), [(0, len(DATA)), (12_345, 9_000_000), (len(DATA) - 1, 1), (4096, 4096)]
)
def test_what_is_in_memory_goes_out_without_a_thread(
    stored: Stored, offset: int, count: int
) -> None:
    @looped
    async def run() -> None:
        async def handle(request: Request) -> Answer:
            return await send_file(request, 200, {}, stored, offset=offset, count=count)

        before = set(threading.enumerate())
        async with site(handle) as one:
            peer = await one.peer()
            for _ in range(2):
                await peer.send(GET % b"/")
                assert await peer.answer() == (200, DATA[offset : offset + count])
        assert set(threading.enumerate()) == before
        assert not one.reports

    run()


def test_of_what_cannot_be_mapped_every_byte_goes_by_a_thread(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KernelError("mmap", 19, "as some file systems do")

    monkeypatch.setattr(resident, "Pages", refuse)

    @looped
    async def run() -> None:
        async def handle(request: Request) -> Answer:
            return await send_file(request, 200, {}, stored, offset=1, count=len(DATA) - 1)

        async with site(handle) as one:
            peer = await one.peer()
            for _ in range(2):
                await peer.send(GET % b"/")
                assert await peer.answer() == (200, DATA[1:])

    run()


def test_a_file_that_is_shorter_than_its_answer_ends_the_connection(stored: Stored) -> None:
    @looped
    async def run() -> None:
        async def handle(request: Request) -> Answer:
            return await send_file(request, 200, {}, stored, offset=0, count=len(DATA) + 1)

        async with site(handle) as one:
            peer = await one.peer()
            await peer.send(GET % b"/")
            assert (await peer.rest()).partition(b"\r\n\r\n")[2] == DATA

    run()
