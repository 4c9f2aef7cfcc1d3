"""``GET /containers/{id}/top``: ps(1) over the container's processes, with Docker's habits.

ps is asked for the container's processes alone, and when its other arguments do not go with that,
for all; then the PID column tells. A line without a PID belongs to the one before it (threads, with
``m``). A renamed column must not pass for the PID.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from sampan.errors import InvalidArgument, NotSupported

__all__ = ["parse", "top"]

_RENAMED = re.compile(r"\s+(\S*)=(PID\S*)")


async def top(pids: list[int], arguments: str) -> dict[str, Any]:
    """Titles, and a row for each of ``pids``, as ps prints them with these arguments.

    Raises NotSupported where there is no ps, InvalidArgument with its own words when it refuses.
    """
    from shutil import which

    program = which("ps")
    if program is None:
        raise NotSupported("top needs the program ps on this machine: install procps")
    if "\0" in arguments:
        raise InvalidArgument("ps_args: contains a NUL character")
    for name, title in _RENAMED.findall(" " + arguments):
        if name != "pid":
            raise InvalidArgument(f'specifying "{name}={title}" is not allowed')
    words = arguments.split()
    chosen = ",".join(map(str, pids))
    code, out, _ = await _run(program, *words, f"-q{chosen}")
    if code:
        code, out, err = await _run(program, *words)
        if code:
            raise InvalidArgument(f"ps: {err.partition(chr(10))[0]}")
    return parse(out, set(pids))


async def _run(program: str, *words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        program,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def parse(output: str, pids: set[int]) -> dict[str, Any]:
    """The rows of ``pids`` in what ps printed. Raises InvalidArgument."""
    first, *lines = output.split("\n")
    titles = first.split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column, last = titles.index("PID"), len(titles) - 1
    rows: list[list[str]] = []
    ours = False
    for line in lines:
        fields = line.split()
        if len(fields) <= column:
            continue
        pid = fields[column]
        if pid != "-":
            if not pid.isdecimal():
                raise InvalidArgument(f"Unexpected pid '{pid}' in ps output")
            ours = int(pid) in pids
        if ours:
            rows.append([*fields[:last], " ".join(fields[last:])])
    return {"Titles": titles, "Processes": rows or None}
