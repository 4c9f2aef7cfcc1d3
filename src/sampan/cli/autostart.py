"""Start a daemon when none is running, and say so.

The daemon tells that it is ready the way it tells systemd (sd_notify(3)): a datagram ``READY=1``
on the socket NOTIFY_SOCKET names. Nobody polls, and a daemon that dies instead is seen at once,
because the wait is on its pidfd too.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from sampan.cli.settings import DEFAULT_HOST
from sampan.errors import PermissionDenied, Unavailable

__all__ = ["ensure"]

_DEADLINE = 20.0  # seconds; a daemon is ready within one


def ensure(host: str) -> None:
    """Start a daemon for the default socket unless one answers there; other hosts are left be."""
    if host != DEFAULT_HOST or _answers(host):
        return
    if os.geteuid() != 0:
        raise PermissionDenied(
            f"no daemon answers at {host}, and starting one needs root: use sudo, or point "
            "SAMPAN_HOST at a daemon you may use"
        )
    log = "/run/sampan/daemon.log"
    os.makedirs(os.path.dirname(log), mode=0o711, exist_ok=True)
    pid = _start(log)
    print(f"sampan: no daemon was running; started one (pid {pid}, log {log})", file=sys.stderr)


def _answers(host: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(host.removeprefix("unix://"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except PermissionError:
            from sampan.cli.transport import permission

            where = host.removeprefix("unix://")
            raise PermissionDenied(f"{host}: permission denied. {permission(where)}") from None
    return True


def _start(log: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind("")  # autobind: an abstract name of the kernel's choosing (unix(7))
        name = ready.getsockname()
        environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME", "TMPDIR")},
            "NOTIFY_SOCKET": "@" + name[1:].decode(),
        }
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "sampan.daemon"],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
            ],
            setsid=True,
        )
        os.close(null)
        os.close(out)
        ended = os.pidfd_open(pid)
        try:
            while True:
                readable, _, _ = select.select([ready.fileno(), ended], [], [], _DEADLINE)
                if ready.fileno() in readable:
                    if b"READY=1" in ready.recv(4096).split(b"\n"):
                        return pid
                elif readable:
                    raise Unavailable(f"the daemon ended while starting: {_last_line(log)}")
                else:
                    raise Unavailable(f"the daemon was not ready in {_DEADLINE:.0f} s: see {log}")
        finally:
            os.close(ended)


def _last_line(log: str) -> str:
    with open(log, "rb") as file:
        lines = file.read()[-4096:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {log}"
