"""A monitor's connection as the daemon holds it: nothing that was said before the end is lost."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sampan.engine.monitors import Monitor
from sampan.errors import Conflict, Unavailable
from sampan.runtime.supervisor import protocol


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize("asked", ["before it closed", "after it closed", "never"])
def test_last_words_are_heard_whoever_spoke_last(asked: str) -> None:
    """A monitor that closes with a request unread leaves ECONNRESET before its own last words."""
    heard: list[Any] = []

    async def talk() -> None:
        ours, theirs = pair()
        lost = asyncio.Event()

        def on_event(event: dict[str, Any]) -> None:
            heard.append(event)

        monitor = Monitor(ours, on_event, lost.set)
        reply = None
        if asked == "before it closed":
            reply = monitor.request("kill", signal=9)
        protocol.send(theirs, {"event": "exit", "code": 3})
        theirs.close()
        if asked == "after it closed":
            reply = monitor.request("kill", signal=9)
        async with asyncio.timeout(60):
            await lost.wait()
        if reply is not None:
            with pytest.raises(Unavailable, match="gone"):
                await reply

    asyncio.run(talk())
    assert heard == [{"event": "exit", "code": 3}]


def test_a_request_that_the_end_overtook_fails_with_its_reason() -> None:
    async def talk() -> None:
        ours, theirs = pair()
        monitor = Monitor(
            ours, lambda _: monitor.close(Conflict("container x is not running")), pytest.fail
        )
        reply = monitor.request("kill", signal=9)
        protocol.send(theirs, {"event": "exit", "code": 3})
        with pytest.raises(Conflict, match="x is not running"):
            async with asyncio.timeout(60):
                await reply
        theirs.close()

    asyncio.run(talk())


def test_what_follows_a_reply_comes_before_the_next_event() -> None:
    order: list[str] = []

    async def talk() -> None:
        ours, theirs = pair()
        over = asyncio.Event()
        monitor = Monitor(ours, lambda event: order.append(str(event["event"])), over.set)
        done = monitor.request("kill", then=lambda: order.append("killed"), signal=9)
        refused = monitor.request("kill", then=lambda: order.append("never"), signal=9)
        protocol.send(theirs, {"reply": 1, "ok": True})
        error = {"type": "Conflict", "message": "no"}
        protocol.send(theirs, {"reply": 2, "error": error})
        protocol.send(theirs, {"event": "exit"})
        theirs.close()
        async with asyncio.timeout(60):
            await over.wait()
            await done
            with pytest.raises(Conflict):
                await refused

    asyncio.run(talk())
    assert order == ["killed", "exit"]
