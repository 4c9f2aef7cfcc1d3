"""Bytes between the event loop and a thread: in order, bounded, and with an end on either side."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator

import pytest

from sampan.engine import handover
from sampan.engine.handover import Inlet, Outlet
from sampan.engine.threads import in_thread
from sampan.errors import SampanError

DATA = os.urandom(3_000_000)


async def pieces(size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(DATA), size):
        yield DATA[start : start + size]
        await asyncio.sleep(0)


@pytest.mark.parametrize(("coming", "taken"), [(100_000, 7), (1_000, 1 << 20), (1 << 20, 65_536)])
def test_what_goes_in_comes_out(coming: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_HIGH", 200_000)
    size = len(DATA) if taken > 100 else 50_000

    async def main() -> bytes:
        inlet = Inlet()

        def read() -> bytes:
            got = bytearray()
            while len(got) < size and (data := inlet.read(taken)):
                assert len(data) <= taken
                got += data
            inlet.close()
            return bytes(got)

        reading = asyncio.create_task(in_thread(read, "read"))
        await inlet.fill(pieces(coming))
        return await reading

    found = asyncio.run(main())
    assert found[:size] == DATA[:size]


def test_who_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_HIGH", 10_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1_000
            yield bytes(1_000)

    async def main() -> None:
        inlet = Inlet()
        filling = asyncio.create_task(inlet.fill(endless()))
        await asyncio.sleep(0.05)
        assert sent <= 12_000
        await asyncio.to_thread(inlet.read, 5_000)
        async with asyncio.timeout(60):
            while sent < 14_000:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert sent <= 18_000
        inlet.close()
        await asyncio.wait_for(filling, 60)

    asyncio.run(main())


def test_what_a_client_broke_off_is_not_all_there_is() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ConnectionResetError

    async def main() -> None:
        inlet = Inlet()
        with pytest.raises(ConnectionResetError):
            await inlet.fill(broken())
        for _ in range(2):
            with pytest.raises(SampanError, match="cut short"):
                inlet.read(10)

    asyncio.run(main())


def test_what_a_thread_writes_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_HIGH", 200_000)

    async def main() -> bytes:
        outlet = Outlet()

        def write() -> None:
            for start in range(0, len(DATA), 70_000):
                outlet.write(DATA[start : start + 70_000])
                outlet.write(b"")
            outlet.end()

        thread = threading.Thread(target=write)
        thread.start()
        got = b"".join([chunk async for chunk in outlet.chunks()])
        thread.join(60)
        return got

    assert asyncio.run(main()) == DATA


def test_a_writer_waits_for_its_reader_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_HIGH", 10_000)
    written = 0

    async def main() -> None:
        outlet = Outlet()
        ended = threading.Event()

        def write() -> None:
            nonlocal written
            try:
                while True:
                    written += outlet.write(bytes(1_000))
            except BrokenPipeError:
                ended.set()

        threading.Thread(target=write, daemon=True).start()
        await asyncio.sleep(0.05)
        assert written <= 12_000
        outlet.close()
        deadline = time.monotonic() + 60
        while not ended.is_set():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(main())
