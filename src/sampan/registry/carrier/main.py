"""``python -m sampan.registry.carrier FD CONTENT``: started by ``handle``, for one daemon.

Its environment is the daemon's; passwords come over the socket, never in arguments.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket

from sampan.kernel.processes import set_parent_death_signal, set_process_name
from sampan.registry.carrier.server import Carrier

__all__ = ["main"]

MEMORY = 512 << 20
"""Bytes of RLIMIT_DATA: more than any number of transfers needs, less than hurts the machine."""


def main(argv: list[str]) -> int:
    """Serve until the daemon is gone."""
    fd, content = int(argv[0]), argv[1]
    set_process_name("sampan-carrier")
    # The socket's end says the same, but not to a thread that hangs in a slow disk.
    set_parent_death_signal(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; the daemon decides
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")  # when the machine runs out of memory, we go before anything of use
    asyncio.run(_serve(fd, content))
    return 0


async def _serve(fd: int, content: str) -> None:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    await Carrier(reader, writer, content).serve()
    writer.close()
