"""Connections to a daemon: Unix socket, TCP, TCP with TLS, or a program's streams (ssh).

``ssl`` is imported where a host asks for it: it costs more than a whole command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, PermissionDenied, SampanError, Unavailable

if TYPE_CHECKING:
    from sampan.cli.settings import Endpoint

__all__ = ["connect", "permission", "unreachable"]

_FORMS = "unix:///path, tcp://host:port or ssh://user@host"
# What runs on the other side of ssh: our client, or Docker's, joined to its daemon.
_REMOTE = 'p=$(command -v sampan || command -v docker) && exec "$p"'


def connect(endpoint: Endpoint) -> socket.socket:
    """A connected stream socket. Raises OSError, InvalidArgument, Unavailable."""
    kind, separator, where = endpoint.host.partition("://")
    if not separator:
        kind, where = "", endpoint.host
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(where)
        return sock
    if kind in ("tcp", "http", "https"):
        return _tcp(endpoint, where)
    if kind == "ssh":
        return _ssh(endpoint.host)
    raise InvalidArgument(f"unable to parse the host {endpoint.host!r}: expected {_FORMS}")


def _tcp(endpoint: Endpoint, where: str) -> socket.socket:
    from urllib.parse import urlsplit

    try:
        place = urlsplit(f"//{where}")
        name, port = place.hostname or "localhost", place.port
    except ValueError as error:
        raise InvalidArgument(f"{endpoint.host}: {error}") from None
    try:
        sock = socket.create_connection((name, port or (2376 if endpoint.tls else 2375)))
    except UnicodeError:  # of more than 63 bytes between two dots, or of none
        raise InvalidArgument(f"{endpoint.host}: {name!r} can be no host's name") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.tls is None:
        return sock
    from sampan.cli.tls import wrap

    return wrap(sock, endpoint.tls, name)


def _ssh(host: str) -> socket.socket:
    from urllib.parse import unquote, urlsplit

    form = f"{host}: expected ssh://[user@]host[:port][/socket]"
    try:
        place = urlsplit(host)
        name, port = place.hostname, place.port
    except ValueError as error:
        raise InvalidArgument(form) from error
    if not name or place.password or place.query or place.fragment:
        raise InvalidArgument(form)
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if place.username:
        argv += ["-l", unquote(place.username)]
    if port:
        argv += ["-p", str(port)]
    remote = _REMOTE
    if place.path not in ("", "/"):
        remote += f" --host {_quoted('unix://' + place.path)}"
    argv += ["--", name, f"{remote} system dial-stdio"]
    ours, theirs = socket.socketpair()
    # Keys that interrupt are the command's to handle, and it needs its connection for that.
    kept = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)
    }
    try:
        with theirs:
            os.posix_spawnp(
                "ssh",
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                ],
            )
    except FileNotFoundError:
        raise Unavailable(f"{host}: the program ssh is not installed") from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return ours


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def unreachable(host: str, error: Exception) -> SampanError:
    """What a failed connection means, and what to do about it."""
    what = f"Cannot connect to the daemon at {host}: {_reason(error)}."
    if isinstance(error, PermissionError) and host.startswith("unix://"):
        return PermissionDenied(f"{what} {permission(host.removeprefix('unix://'))}")
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return Unavailable(f"{what} Is it running? Start it with: sampan daemon")
    if _is_tls(error):
        return Unavailable(
            f"{what} Which certificates to trust and show: --tlscacert, --tlscert, --tlskey, "
            "or DOCKER_CERT_PATH"
        )
    if host.startswith("tcp:") and isinstance(error, ConnectionResetError):
        return Unavailable(f"{what} If it speaks TLS, use --tlsverify or DOCKER_TLS_VERIFY=1")
    return Unavailable(what)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not _is_tls(error):
        return error.strerror
    return str(error) or type(error).__name__


def _is_tls(error: Exception) -> bool:
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(error, ssl.SSLError)


def permission(path: str) -> str:
    """What a user can do about a socket that this user may not use."""
    import grp

    try:
        status = os.stat(path)
        name = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return "Use sudo"
    if status.st_gid == 0 or not status.st_mode & 0o020:
        return "Use sudo"
    return (
        f"Use sudo, or become a member of the group {name} (usermod -aG {name} USER) "
        "and log in anew"
    )
