"""``system dial-stdio``: the daemon's connection on standard input and output.

What Docker's clients, and ours, run on the other side of ``ssh://`` (it is hidden there too).
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from sampan.cli import autostart
from sampan.cli.commands.common import read
from sampan.cli.transport import connect, unreachable

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["dial"]

_CHUNK = 1 << 16


def dial(client: Client, argv: list[str]) -> int:
    """Copy both ways until the daemon has said all; the end of our input closes its half."""
    import os

    summary = "Join standard input and output to the daemon's connection"
    if read("system dial-stdio", "", summary, [], argv, most=0) is None:
        return 0
    autostart.ensure(client.host)
    try:
        sock = connect(client.endpoint)
    except OSError as error:
        raise unreachable(client.host, error) from error
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                data = os.read(0, _CHUNK)
                if data:
                    sock.sendall(data)
                else:
                    poller.unregister(0)
                    sock.shutdown(socket.SHUT_WR)
            else:
                data = sock.recv(_CHUNK)
                if not data:
                    return 0
                while data:
                    data = data[os.write(1, data) :]
