"""The same with asyncio: awaited, many at a time, cancelled at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import sampan
from sampan import aio
from tests.sdk.conftest import left, sessions

pytestmark = pytest.mark.root

T = TypeVar("T")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def within(data_root: Path, work: Callable[[aio.Session], Awaitable[T]]) -> T:
    """Run ``work`` with a session; afterwards nothing is left."""

    async def main() -> T:
        async with aio.Session(data_root) as session:
            result = await work(session)
            assert await asyncio.to_thread(left, data_root) == []
        return result

    before = len(os.listdir("/proc/self/fd"))
    result = asyncio.run(main())
    assert sessions(data_root) == []
    for thread in threading.enumerate():
        if thread.name == "sampan-syncfs":
            thread.join(60)  # nobody waits for a busy disk but who counts descriptors
    assert len(os.listdir("/proc/self/fd")) <= before  # an earlier test may have left garbage
    return result


def test_a_run_is_awaited(data_root: Path) -> None:
    async def work(session: aio.Session) -> sampan.Result:
        return await session.run("host", ["cat"], input="x" * 200_000, memory="64m", timeout=60)

    result = within(data_root, work)
    assert (result.ok, len(result.stdout)) == (True, 200_000)
    assert result.usage.peak_memory > 0


def test_many_run_at_a_time(data_root: Path) -> None:
    async def work(session: aio.Session) -> list[sampan.Result]:
        line = "date +%s%N; sleep 0.5; date +%s%N"
        return await asyncio.gather(*(session.run("host", ["sh", "-c", line]) for _ in range(16)))

    spans = [tuple(map(int, result.text.split())) for result in within(data_root, work)]
    together = [sum(begin <= at < end for begin, end in spans) for at, _ in spans]
    assert max(together) >= 3


def test_a_process_is_followed(data_root: Path) -> None:
    async def work(session: aio.Session) -> list[bytes]:
        line = "echo up; while read x; do echo got $x; done; printf end"
        found = []
        async with session.start("host", ["sh", "-c", line], stdin=True) as process:
            assert await process.read() == sampan.Chunk("stdout", b"up\n")
            await process.write(b"a\nb\n")
            assert (await process.usage()).peak_memory > 0
            process.close_stdin()
            async for chunk in process.lines():
                found.append(chunk.data)
            assert (await process.wait()).ok
        process = await session.start("host", ["sleep", "600"])
        await process.close()
        return found

    assert within(data_root, work) == [b"got a\n", b"got b\n", b"end"]


def test_chunks(data_root: Path) -> None:
    async def work(session: aio.Session) -> int:
        async with session.start("host", ["head", "-c", "1000000", "/dev/zero"]) as process:
            return sum([len(chunk.data) async for chunk in process])

    assert within(data_root, work) == 1_000_000


def test_of_two_who_wait_at_one_process_the_second_is_told(data_root: Path) -> None:
    async def work(session: aio.Session) -> bytes:
        async with session.start("host", ["cat"], stdin=True) as process:
            first = asyncio.ensure_future(process.read())
            while not process._execution._is_waited_for:
                await asyncio.sleep(0)
            with pytest.raises(sampan.errors.Conflict, match="one at a time may"):
                await process.usage()
            process.kill()
            assert await first is None
            assert (await process.wait()).outcome is sampan.Outcome.KILLED
        return b""

    within(data_root, work)


def test_the_end_of_its_time(data_root: Path) -> None:
    async def work(session: aio.Session) -> sampan.Outcome:
        return (await session.run("host", ["sleep", "600"], timeout=0.3)).outcome

    assert within(data_root, work) is sampan.Outcome.TIMED_OUT


def test_errors_are_the_same(data_root: Path) -> None:
    async def work(session: aio.Session) -> None:
        with pytest.raises(sampan.CommandNotFound):
            await session.run("host", ["no-such-command"])
        with pytest.raises(sampan.NotFound):
            async with session.start("no-such-image"):
                pass
        with pytest.raises(sampan.InvalidArgument, match="memory"):
            await session.run("host", ["true"], memory="x")
        with pytest.raises(sampan.RunFailed):
            await session.run("host", ["false"], check=True)
        with pytest.raises(KeyError):
            async with session.start("host", ["sleep", "600"]):
                raise KeyError

    within(data_root, work)


def test_a_run_that_is_cancelled_is_gone_when_that_is_told(data_root: Path) -> None:
    async def work(session: aio.Session) -> float:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await session.run("host", ["sh", "-c", "sleep 600 & sleep 600"])
        assert await asyncio.to_thread(left, data_root) == []
        return time.monotonic() - begin

    assert within(data_root, work) < 10


def test_cancelled_at_any_moment(data_root: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    moments = random.Random(seed)

    async def one(session: aio.Session) -> int:
        try:
            async with asyncio.timeout(moments.uniform(0.0, 0.1)):
                await session.run("host", ["true"], files={"/a": "x"}, collect=["/a"])
        except TimeoutError:
            return 1
        return 0

    async def work(session: aio.Session) -> int:
        await session.run("host", ["true"])
        counts = 0
        for _ in range(12):
            counts += sum(await asyncio.gather(*(one(session) for _ in range(4))))
        return counts

    assert within(data_root, work) > 5


def test_the_default_session_is_shared_with_the_blocking_form(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sampan.sdk import session as sessions_module

    monkeypatch.setenv("SAMPAN_DATA_ROOT", str(data_root))
    monkeypatch.setattr(sessions_module, "_default", [])

    async def main() -> str:
        text = (await aio.run("host", ["echo", "one"])).text
        async with aio.start("host", ["echo", "two"]) as process:
            async for chunk in process:
                text += chunk.text
        return text + (await asyncio.to_thread(sampan.run, "host", ["echo", "three"])).text

    assert asyncio.run(main()) == "one\ntwo\nthree\n"
    assert len(sessions(data_root)) == 1
    sessions_module.default_session().close()
    assert sessions(data_root) == []
