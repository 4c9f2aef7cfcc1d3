"""Descriptors that are closed as others are opened: whoever opens one hears of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from sampan.api.docker.hijack import _pump
from sampan.engine.beside import beside

TURNS = 20


async def unheard(work: Callable[[Callable[[], None]], Awaitable[None]]) -> list[int]:
    """Descriptors of which the loop does not tell though there is something to read. They are
    opened and watched one in each turn of the loop, from when ``work`` calls its argument on."""
    loop = asyncio.get_running_loop()
    pairs: list[tuple[socket.socket, socket.socket]] = []
    heard: set[int] = set()
    all_heard = asyncio.Event()

    def open_one() -> None:
        # Behind all tasks of this turn: events come last.
        ours, theirs = socket.socketpair()
        pairs.append((ours, theirs))
        loop.add_reader(ours, hear, ours)
        theirs.send(b"x")
        if len(pairs) == TURNS:
            loop.remove_reader(clock[0])

    def hear(ours: socket.socket) -> None:
        ours.recv(1)
        heard.add(ours.fileno())
        if len(heard) == TURNS:
            all_heard.set()

    clock = os.pipe()
    os.write(clock[1], b"x")
    try:
        await work(lambda: loop.add_reader(clock[0], open_one))
        async with asyncio.timeout(5):
            await all_heard.wait()
    except TimeoutError:
        pass
    numbers = {ours.fileno() for ours, _ in pairs}
    for ours, theirs in pairs:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
    for fd in clock:
        os.close(fd)
    return sorted(numbers - heard)


def test_what_a_task_waits_for_is_closed_when_that_has_ended() -> None:
    async def work(begin: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            async with beside(loop.sock_recv(ours, 1)):
                begin()
                await asyncio.sleep(0)

    assert asyncio.run(unheard(work)) == []


def test_a_stream_that_ends_takes_nobody_elses_events() -> None:
    async def work(begin: Callable[[], None]) -> None:
        client, client_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        with client_end:
            pump = asyncio.ensure_future(_pump(client, monitor, b"early"))
            for _ in range(5):
                await asyncio.sleep(0)  # both ways wait for somebody
            begin()
            monitor_end.close()
            await pump

    assert asyncio.run(unheard(work)) == []
