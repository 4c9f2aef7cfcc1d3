"""``ps``: the processes of a container's cgroup, by the host's ps(1) or as a list of numbers."""

from __future__ import annotations

import json
import os
from errno import ENOENT
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError, NotFound, Unavailable

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(context: Context, parsed: Parsed) -> int:
    container_id, *options = parsed.arguments
    form = parsed.text("format") or "table"
    if form not in ("table", "json"):
        raise InvalidArgument(f"--format: expected table or json, not {form!r}")
    state = context.store.read(container_id)
    group = context.group_of(state)
    if group is None:
        raise Conflict(f"container {state.id} has no cgroup of its own: its processes are unknown")
    pids = group.processes() if group.exists() else []
    if form == "json":
        print(json.dumps(pids))
        return 0
    heading, *lines = _ps(options or ["-ef"])
    columns = heading.split()
    if "PID" not in columns:
        raise InvalidArgument(f"ps {' '.join(options)}: its output has no column PID")
    column = columns.index("PID")
    wanted = {str(pid) for pid in pids}
    print(heading)
    for line in lines:
        cells = line.split()
        if len(cells) > column and cells[column] in wanted:
            print(line)
    return 0


def _ps(options: list[str]) -> list[str]:
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawnp(
            "ps",
            ["ps", *options],
            os.environ,
            file_actions=((os.POSIX_SPAWN_DUP2, writer, 1),),
        )
    except OSError as error:
        os.close(reader)
        if error.errno == ENOENT:
            raise NotFound("ps: this machine has no ps(1); try --format json") from None
        raise KernelError("posix_spawn", error.errno or 0, "ps") from None
    finally:
        os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as output:
        lines = output.read().splitlines()
    _, status = os.waitpid(pid, 0)
    if status or not lines:
        raise Unavailable(f"ps {' '.join(options)} failed: {os.waitstatus_to_exitcode(status)}")
    return lines
