"""The event loop of small processes: whose events are whose."""

from __future__ import annotations

import os

from sampan.runtime.supervisor.loop import READ, Loop


def _ready() -> tuple[int, int]:
    """A pipe with something in it."""
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    return pipe


def test_a_descriptor_that_is_closed_and_taken_again_has_no_events_of_the_old_one() -> None:
    loop = Loop()
    pipes = [_ready(), _ready()]
    called: list[str] = []
    opened: list[int] = []

    def replace(mine: int, fd: int) -> None:
        """Close the other one, and watch a quiet pipe in its place."""
        called.append("first")
        os.read(mine, 1)
        loop.forget(fd)
        os.close(fd)
        reading, writing = os.pipe()
        opened.extend((reading, writing))
        assert reading == fd
        loop.watch(fd, READ, lambda _: called.append("quiet"))

    for (mine, _), (other, _) in (pipes, pipes[::-1]):
        loop.watch(mine, READ, lambda _, pair=(mine, other): replace(*pair))  # type: ignore[misc]
    try:
        assert loop.turn(0)
        assert called == ["first"]
        os.write(opened[1], b"x")
        assert loop.turn(0)
        assert called == ["first", "quiet"]
    finally:
        loop.close()
        for fd in {*pipes[0], *pipes[1], *opened}:
            os.close(fd)
