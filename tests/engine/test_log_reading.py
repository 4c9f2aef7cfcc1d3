"""Reading logs: tails over rotated and compressed files, times, and following what rotates."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from sampan.engine.log_drivers import Place
from sampan.engine.logs import LogQuery, LogReader
from sampan.errors import Corrupt
from sampan.runtime.supervisor.logs.drivers import open_logs, resume_logs
from sampan.runtime.supervisor.logs.files import compress
from sampan.runtime.supervisor.messages import LogOptions

if TYPE_CHECKING:
    from pathlib import Path

    from sampan.runtime.supervisor.logs.drivers import Logs

DRIVERS = ["json-file", "local"]


def place_of(directory: Path, driver: str = "json-file") -> Place:
    return Place(driver, f"{directory}/logs/log")


def writer(place: Place, **fields: Any) -> Logs:
    os.makedirs(os.path.dirname(place.path), exist_ok=True)
    options = LogOptions(driver=place.driver, path=place.path, **fields)
    return resume_logs(options, open_logs(options), 1)


def read(place: Place, **query: Any) -> list[str]:
    async def work() -> list[str]:
        with LogReader(place, LogQuery(**query)) as reader:
            return [text(entry.log) async for batch in reader.read() for entry in batch]

    return asyncio.run(work())


def text(log: str | bytes) -> str:
    return log if isinstance(log, str) else log.decode()


def write_json(path: str, numbers: range, second: int = 20) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for number in numbers:
            stamp = f"2023-11-14T22:13:{second:02d}Z"
            entry = {"log": f"{number}\n", "stream": "stdout", "time": stamp}
            file.write(json.dumps(entry) + "\n")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tail", [0, 1, 9, 10, 11, 29, 30, 31, None])
def test_tails_reach_over_rotated_files(
    tmp_path: Path, driver: str, packed: bool, tail: int | None
) -> None:
    place = place_of(tmp_path, driver)
    log = writer(place, max_size=1, max_file=3, compress=packed)
    for index in range(3):
        numbers = range(index * 10, index * 10 + 10)
        # In two parts: a tail may begin within a block, and does not rotate in between.
        log.write("stdout", b"".join(b"%d\n" % number for number in numbers))
    log.close()
    names = sorted(os.listdir(os.path.dirname(place.path)))
    ending = ".gz" if packed else ""
    if driver == "local":
        assert names == ["log", f"log.1{ending}", f"log.2{ending}"]
        expected = [f"{number}\n" for number in range(30)]
    else:
        # A line a file: three of them are left.
        expected = ["27\n", "28\n", "29\n"]
    lines = read(place, tail=tail)
    assert lines == (expected if tail is None else expected[max(0, len(expected) - tail) :])


def test_tails_reach_over_files_of_many_lines(tmp_path: Path) -> None:
    path = f"{tmp_path}/log"
    for index, suffix in enumerate((".2", ".1", "")):
        write_json(path + suffix, range(index * 10, index * 10 + 10))
    compress(f"{path}.2")
    expected = [f"{number}\n" for number in range(30)]
    for tail in (0, 1, 9, 10, 11, 29, 30, 31):
        assert read(Place("json-file", path), tail=tail) == expected[max(0, 30 - tail) :]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_tail_longer_than_a_block_is_found(tmp_path: Path, driver: str) -> None:
    place = place_of(tmp_path, driver)
    log = writer(place)
    for start in range(0, 20_000, 500):
        log.write("stdout", b"".join(b"%0100d\n" % n for n in range(start, start + 500)))
    log.close()
    assert os.path.getsize(place.path) > 4 * 256 * 1024
    lines = read(place, tail=12_345)
    assert (len(lines), int(lines[0]), int(lines[-1])) == (12_345, 7655, 19999)


@pytest.mark.parametrize("driver", DRIVERS)
def test_times_and_streams_choose(tmp_path: Path, driver: str) -> None:
    place = place_of(tmp_path, driver)
    log = writer(place, max_size=1, max_file=9, compress=True)
    moments = []
    for number in range(4):
        log.write("stdout" if number % 2 else "stderr", b"%d\n" % number)
        with open(place.path, "rb") as file:
            moments.append(os.fstat(file.fileno()).st_mtime_ns)
        os.utime(place.path, ns=(moments[-1], moments[-1]))
    log.close()
    assert read(place) == ["0\n", "1\n", "2\n", "3\n"]
    assert read(place, stderr=False) == ["1\n", "3\n"]
    assert read(place, stdout=False) == ["0\n", "2\n"]


def test_since_and_until_are_bounds_within_and_between_files(tmp_path: Path) -> None:
    path = f"{tmp_path}/log"
    base = 1_700_000_000
    for second, suffix in ((20, ".2"), (21, ".1"), (22, "")):
        write_json(path + suffix, range(second, second + 1), second)
        os.utime(path + suffix, (base + second - 20, base + second - 20))
    place = Place("json-file", path)
    nano = 1_000_000_000
    assert read(place, since=(base + 1) * nano) == ["21\n", "22\n"]
    assert read(place, since=(base + 1) * nano + 1) == ["22\n"]
    assert read(place, until=(base + 1) * nano) == ["20\n", "21\n"]
    assert read(place, until=(base + 1) * nano - 1) == ["20\n"]
    # Not even opened: it ended too early.
    os.truncate(f"{path}.2", 0)
    with open(f"{path}.2", "w", encoding="ascii") as file:
        file.write("no json")
    os.utime(f"{path}.2", (base - 9, base - 9))
    assert read(place, since=(base + 2) * nano) == ["22\n"]


def test_a_line_that_is_none_hides_no_other(tmp_path: Path) -> None:
    path = f"{tmp_path}/log"
    write_json(path, range(2))
    with open(path, "ab") as file:
        file.write(b'{"log":"torn' + b"\0" * 100 + b"\n")
        file.write(b'{"log":"2\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n')
    assert read(Place("json-file", path)) == ["0\n", "1\n", "2\n"]
    assert read(Place("json-file", f"{tmp_path}/absent")) == []


def test_a_local_log_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\0\0\0\1\7" + bytes(11) + b"x\0\0\0\1")
    with pytest.raises(Corrupt, match="kind of block"):
        read(Place("local", f"{tmp_path}/log"))


class Following:
    """A reader that follows, on a loop of the test's."""

    def __init__(self, place: Place, **query: Any) -> None:
        self.lines: list[str] = []
        self.ended = asyncio.Event()
        self.paused = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._reader = LogReader(place, LogQuery(**query), follow=True)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with self._reader as reader:
            async for batch in reader.follow(self.ended):  # to its end
                self.lines += [text(entry.log) for entry in batch]
                if not batch:
                    self.paused.set()
                await self.gate.wait()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.lines) < count:
                await asyncio.sleep(0.005)

    async def end(self) -> list[str]:
        self.ended.set()
        async with asyncio.timeout(60):
            await self.task
        return self.lines


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("files", [2, 9])
def test_whoever_follows_misses_nothing_when_files_rotate(
    tmp_path: Path, driver: str, compressed: bool, files: int
) -> None:
    async def work() -> None:
        place = place_of(tmp_path, driver)
        log = writer(place, max_size=50, max_file=files, compress=compressed)
        log.write("stdout", b"0\n")
        following = Following(place)
        await following.until(1)
        for number in range(1, 40):
            log.write("stdout", b"%d\n" % number)
            if files == 2:
                await following.until(number)
        log.close()
        lines = await following.end()
        expected = [f"{number}\n" for number in range(40)]
        if files == 2:
            assert lines == expected
        else:
            # What was rotated away before it was read is gone; all else came once, in order.
            numbers = [int(line) for line in lines]
            assert numbers == sorted(set(numbers))
            assert numbers[0] == 0
            assert numbers[-9:] == list(range(31, 40))

    asyncio.run(work())


def test_a_reader_that_was_slow_reads_every_file_that_is_left(tmp_path: Path) -> None:
    async def work() -> None:
        place = place_of(tmp_path, "local")
        log = writer(place, max_size=1, max_file=9)
        log.write("stdout", b"0\n")
        following = Following(place)
        await following.until(1)
        following.gate.clear()
        for number in range(1, 8):
            log.write("stdout", b"%d\n" % number)
        following.gate.set()
        await following.until(8)
        log.close()
        assert await following.end() == [f"{number}\n" for number in range(8)]

    asyncio.run(work())


def test_a_log_of_one_file_is_followed_over_its_replacement(tmp_path: Path) -> None:
    async def work() -> None:
        place = place_of(tmp_path)
        log = writer(place, max_size=100, max_file=1)
        following = Following(place)
        for number in range(20):
            log.write("stdout", b"%d\n" % number)
            await following.until(number + 1)
        log.close()
        assert await following.end() == [f"{number}\n" for number in range(20)]

    asyncio.run(work())


def test_a_log_that_somebody_emptied_is_followed_from_its_new_beginning(tmp_path: Path) -> None:
    async def work() -> None:
        place = place_of(tmp_path)
        log = writer(place)
        log.write("stdout", b"before\n" * 10)
        following = Following(place)
        await following.until(10)
        os.truncate(place.path, 0)
        await asyncio.wait_for(following.paused.wait(), 60)
        log.write("stdout", b"after\n")
        await following.until(11)
        log.close()
        assert (await following.end())[10:] == ["after\n"]

    asyncio.run(work())


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        place = place_of(tmp_path)
        os.makedirs(os.path.dirname(place.path))
        following = Following(place)
        await asyncio.wait_for(following.paused.wait(), 60)
        log = writer(place)
        log.write("stdout", b"now\n")
        await following.until(1)
        log.close()
        assert await following.end() == ["now\n"]

    asyncio.run(work())


def test_following_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async def work() -> None:
        import time

        place = place_of(tmp_path)
        log = writer(place)
        log.write("stdout", b"now\n")
        following = Following(place, until=time.time_ns() + 300_000_000)
        async with asyncio.timeout(60):
            await following.task
        assert following.lines == ["now\n"]
        log.close()

    asyncio.run(work())
