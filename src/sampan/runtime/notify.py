"""Descriptors handed to other programs by socket: terminals, pidfds, seccomp listeners (unix(7)).

The receivers' side of each is another runtime's habit: one connection to a SOCK_STREAM socket, one
message, one SCM_RIGHTS descriptor. A seccomp agent also gets the container process state
(runtime-spec, config-linux.md, "The Container Process State").
"""

from __future__ import annotations

import _socket
import json
from array import array
from typing import TYPE_CHECKING

from sampan.errors import Unavailable

if TYPE_CHECKING:
    from sampan.oci.runtime import Seccomp

__all__ = ["send_descriptor", "send_listener"]

_DEADLINE = 10.0
"""Seconds a receiver may take to accept a descriptor."""


def send_descriptor(path: str, payload: bytes, descriptor: int) -> None:
    """Connect to ``path`` and send ``descriptor`` with ``payload``; raises Unavailable."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [descriptor]))]
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_DEADLINE)
        sock.connect(path)
        sent = sock.sendmsg([payload], rights)
        if sent < len(payload):  # the receiver may have closed once it had all
            sock.sendall(payload[sent:])
    except OSError as error:
        raise Unavailable(f"{path}: nobody takes the descriptor: {error}") from None
    finally:
        sock.close()


def send_listener(seccomp: Seccomp, listener: int, pid: int, state: bytes, version: str) -> None:
    """Give the listener of ``pid``'s filter to the agent at ``listenerPath``.

    ``state`` is the container's state object as JSON. Closes nothing.
    """
    if not seccomp.listener_path:
        raise Unavailable("linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath")
    message: dict[str, object] = {
        "ociVersion": version,
        "fds": ["seccompFd"],
        "pid": pid,
        "state": json.loads(state),
    }
    if seccomp.listener_metadata:
        message["metadata"] = seccomp.listener_metadata
    send_descriptor(seccomp.listener_path, json.dumps(message).encode(), listener)
