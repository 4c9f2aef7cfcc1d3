"""SIGUSR1: where everything stands, in a file below the exec root.

Each asyncio task with its stack, and each thread. A loop that hangs does not come to write that:
for it, ``faulthandler`` writes the threads' stacks to standard error (``main``).
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

from sampan.engine.log import log

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dump"]


def dump(directory: str) -> None:
    """Write it, and log where."""
    path = f"{directory}/tasks-{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}.log"
    text = "\n".join(_tasks()) + "\n" + "\n".join(_threads()) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        log.error("cannot write the tasks' stacks", path=path, error=error.strerror)
        return
    log.info("tasks' stacks written", path=path)


def _tasks() -> Iterator[str]:
    tasks = asyncio.all_tasks()
    yield f"{len(tasks)} tasks"
    for task in sorted(tasks, key=lambda one: one.get_name()):
        out = io.StringIO()
        task.print_stack(file=out)
        yield out.getvalue()


def _threads() -> Iterator[str]:
    frames = sys._current_frames()
    yield f"{len(frames)} threads"
    for number, frame in frames.items():
        yield f"thread {number}\n" + "".join(traceback.format_stack(frame))
