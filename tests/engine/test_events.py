"""Events on disk and in the ears of listeners: order, bounds, and nothing lost in between."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from sampan.engine import events as module
from sampan.engine.eventlog import KEPT, Event, EventLog
from sampan.engine.events import Events, Subscription

if TYPE_CHECKING:
    from pathlib import Path


def event(number: int, action: str = "start", **fields: int) -> Event:
    time = fields.pop("time", number * 1000)
    return Event(
        number=number, type="container", action=action, id="c", attributes={"n": "x"}, time=time,
        **fields,
    )  # fmt: skip


def numbers(log: EventLog, after: int = 0, since: int = 0) -> list[int]:
    return [one.number for batch in log.read(after, since) for one in batch]


def test_what_was_written_is_read_by_the_next(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "events"))
    for number in range(1, 6):
        log.append(event(number, mark=number))
    log.close()
    again = EventLog(str(tmp_path / "events"))
    assert again.last == 5
    assert numbers(again) == [1, 2, 3, 4, 5]
    assert numbers(again, after=3) == [4, 5]
    assert numbers(again, since=3000) == [3, 4, 5]
    marks = again.marks()
    assert not marks.lack("c", "start", 4)
    assert marks.lack("c", "die", 4)
    assert marks.lack("c", "start", 6)
    assert os.stat(tmp_path / "events").st_mode & 0o777 == 0o700
    again.close()


def test_what_was_told_is_known_though_it_is_far_from_the_end(tmp_path: Path) -> None:
    """A daemon that is started again does not tell it twice."""
    log = EventLog(str(tmp_path), largest=400_000)
    number = 0

    def fill(size: int) -> None:
        nonlocal number
        end = number + size // 90
        while number < end:
            number += 1
            log.append(event(number, "exec_create"))

    fill(450_000)
    number += 1
    log.append(event(number, mark=number * 1000))
    fill(200_000)
    assert sorted(os.listdir(tmp_path)) == ["events.1.jsonl", "events.jsonl"]
    assert not log.marks().lack("c", "start", (number - 200_000 // 90) * 1000)
    log.close()


def test_the_files_are_bounded_and_the_order_goes_through_them(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), largest=1000)
    for number in range(1, 201):
        log.append(event(number))
    names = sorted(os.listdir(tmp_path))
    assert names == ["events.1.jsonl", "events.2.jsonl", "events.3.jsonl", "events.jsonl"]
    assert len(names) == KEPT + 1
    assert all(os.stat(tmp_path / name).st_size <= 1000 for name in names)
    found = numbers(log)
    assert found == list(range(found[0], 201))
    assert 20 < len(found) < 200
    log.close()
    assert EventLog(str(tmp_path), largest=1000).last == 200


def test_what_was_told_before_the_files_begin_is_not_missed(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), largest=1000)
    for number in range(1, 201):
        log.append(event(number, mark=number * 1000))
    marks = log.marks()
    assert not marks.lack("c", "start", 1000)
    assert not marks.lack("c", "start", 200_000)
    assert marks.lack("c", "start", 200_001)
    log.close()


def test_a_line_that_a_stopped_machine_left_torn_is_cut_off(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append(event(1))
    log.append(event(2))
    log.close()
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    again = EventLog(str(tmp_path))
    assert again.last == 1
    again.append(event(2))
    assert numbers(again) == [1, 2]
    again.close()


def test_a_file_of_rubbish_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'\0\xff{"x":1}\n[]\n')
    log = EventLog(str(tmp_path))
    log.append(event(1))
    assert numbers(log) == [1]
    log.close()


def test_a_full_disk_loses_the_event_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_FSIZE stands for the disk: the write that crosses it is short, the next one fails."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)  # pytest's own is a file, and has the limit too
    log = EventLog(str(tmp_path))
    log.append(event(1))
    size = os.stat(tmp_path / "events.jsonl").st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, old[1]))
        log.append(event(2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        log.append(event(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    log.append(event(4))
    assert numbers(log) == [1, 4]
    assert said.getvalue().count("an event cannot be written") == 2
    log.close()


def publish(events: Events, *actions: str) -> None:
    for action in actions:
        events.publish("container", action, "c", {})


async def hear(subscription: Subscription, count: int) -> list[str]:
    heard: list[str] = []
    async with asyncio.timeout(60):
        async for batch in subscription:
            heard += [one.action for one in batch]
            if len(heard) >= count:
                break
    return heard


def test_a_listener_hears_the_past_and_the_present_each_once(tmp_path: Path) -> None:
    async def listen() -> None:
        events = Events(str(tmp_path))
        publish(events, "a", "b")
        past, present = events.subscribe(since=1), events.subscribe()
        publish(events, "c")
        assert await hear(past, 3) == ["a", "b", "c"]
        assert await hear(present, 1) == ["c"]
        past.close()
        assert list(events) == [present]
        events.close()

    asyncio.run(listen())


def test_a_listener_that_fell_behind_goes_on_from_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKLOG", 8)

    async def listen() -> None:
        events = Events(str(tmp_path))
        slow = events.subscribe()
        publish(events, *(str(n) for n in range(3)))
        batches = aiter(slow)
        first = [one.action for one in await anext(batches)]
        publish(events, *(str(n) for n in range(3, 100)))
        heard = first
        while len(heard) < 100:
            heard += [one.action for one in await anext(batches)]
            if 90 < len(heard) < 100:
                publish(events)
        assert heard == [str(n) for n in range(100)]
        publish(events, "more")
        assert [one.action for one in await anext(batches)] in (["more"], [])
        events.close()

    asyncio.run(listen())


def test_numbers_go_on_after_a_restart_whatever_the_clock_says(tmp_path: Path) -> None:
    events = Events(str(tmp_path))
    publish(events, "a")
    events.close()
    again = Events(str(tmp_path))
    publish(again, "b")
    assert [(one.number, one.action) for batch in again.log.read() for one in batch] == [
        (1, "a"),
        (2, "b"),
    ]
    again.close()
