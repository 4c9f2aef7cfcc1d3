"""``GET /containers/{id}/top``: ps(1) over the container's processes."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

from sampan.errors import InvalidArgument, NotSupported

__all__ = ["top"]


async def top(pids: list[int], arguments: str) -> dict[str, Any]:
    """Titles, and a row for each of ``pids``, as ps prints them with these arguments.

    Raises NotSupported where there is no ps, InvalidArgument with its own words when it refuses.
    """
    program = shutil.which("ps")
    if program is None:
        raise NotSupported("top needs the program ps on this machine: install procps")
    if "\0" in arguments:
        raise InvalidArgument("ps_args: contains a NUL character")
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments.split(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise InvalidArgument(f"ps {arguments}: {err.decode(errors='replace').strip()}")
    lines = out.decode(errors="replace").splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument(f"Couldn't find PID field in ps output: ps {arguments}")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    rows = (line.split(None, len(titles) - 1) for line in lines[1:])
    return {
        "Titles": titles,
        "Processes": [row for row in rows if len(row) > column and row[column] in wanted],
    }
