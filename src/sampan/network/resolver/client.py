"""The daemon's side of the resolver: finding it, starting it, telling it; a container's sockets.

Calls block, for the process answers at once: on a thread where that matters.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument, KernelError, NotFound, Unavailable
from sampan.kernel.netns import Inside
from sampan.network.resolver.redirect import redirect
from sampan.network.resolver.server import ADDRESS, PORT
from sampan.runtime.interpreter import library_path, program
from sampan.runtime.supervisor import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["SOCKET_NAME", "Resolver", "connect", "open_sockets", "start"]

SOCKET_NAME = "resolver.sock"
_LISTENER_FD = 3  # main's, whose modules the daemon need not load
_PROGRAM = (
    "import sys; sys.path.append({path!r}); from sampan.network.resolver.main import main; main()"
)
_PATIENCE = 5.0
_BACKLOG = 8
_ROOM = 1 << 20
"""Bytes of queries that wait while the resolver is busy, or not scheduled."""
_SO_RCVBUFFORCE = 33
_NO_TABLES = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.EPROTONOSUPPORT,
    errno.ENOENT,
    errno.EAFNOSUPPORT,
)
_ASKING, _ASKING_TCP = 9, 4
"""With the three of each client's, all that a message carries."""


class Resolver:
    """A connection with the process."""

    def __init__(self, sock: socket.socket, pid: int = 0) -> None:
        self._socket = sock
        self.pid = pid
        """That of a process that we started, 0 for one that was there."""

    def tell(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Say something and wait for the answer. Raises Unavailable when the process is gone:
        start another, and tell it everything; InvalidArgument for what it does not understand."""
        try:
            protocol.send(self._socket, message, fds)
            received = protocol.receive(self._socket)
        except OSError as error:
            raise Unavailable(f"the resolver does not answer: {error}") from error
        if received is None:
            raise Unavailable("the resolver has ended; start another")
        answer, _ = received
        if "error" in answer:
            raise InvalidArgument(f"resolver: {answer['error']}")
        return answer

    def serve(self, client: Mapping[str, object], namespace: int, process: int) -> None:
        """Serve a client whose network namespace and pidfd these are."""
        servers = client.get("servers")
        with contextlib.ExitStack() as stack:
            udp, tcp = open_sockets(namespace)
            asking = _asking(namespace, servers) if isinstance(servers, list) and servers else []
            for sock in (udp, tcp, *asking):
                stack.enter_context(sock)
            descriptors = [udp.fileno(), tcp.fileno(), process, *(one.fileno() for one in asking)]
            self.tell({"op": "client", **client}, descriptors)

    def close(self) -> None:
        """It lives on as long as there is somebody to serve."""
        self._socket.close()


def open_sockets(namespace: int) -> tuple[socket.socket, socket.socket]:
    """The UDP and the TCP socket of a network namespace in which ``lo`` is up. They have ports of
    the kernel's choice, to which port 53 leads; where it has no nftables they have port 53."""
    with Inside(namespace):
        udp, tcp = _bound(0)
        try:
            redirect(ADDRESS, {"udp": udp.getsockname()[1], "tcp": tcp.getsockname()[1]})
        except KernelError as error:
            udp.close()
            tcp.close()
            if error.errno not in _NO_TABLES:
                raise
            return _bound(PORT)
    return udp, tcp


def _bound(port: int) -> tuple[socket.socket, socket.socket]:
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(socket.AF_INET, kind)
            made.append(sock)
            if kind == socket.SOCK_STREAM:
                # Connections of an earlier run's may still linger (tcp(7), TIME_WAIT).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            sock.bind((ADDRESS, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
    except OSError as error:
        for sock in made:
            sock.close()
        raise KernelError("bind", error.errno or 0, f"{ADDRESS}:{port}") from error
    udp, tcp = made
    return udp, tcp


def _asking(namespace: int, servers: Sequence[str]) -> list[socket.socket]:
    """Sockets of a network namespace from which its own servers are asked."""
    six = any(":" in server for server in servers)
    kinds = [socket.SOCK_DGRAM] * _ASKING + [socket.SOCK_STREAM] * _ASKING_TCP
    made: list[socket.socket] = []
    with Inside(namespace):
        try:
            for kind in kinds:
                # Those of IPv6 reach servers of IPv4 too (ipv6(7), mapped addresses).
                made.append(socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind))
        except OSError as error:
            for sock in made:
                sock.close()
            raise KernelError("socket", error.errno or 0, "of a container's") from error
    return made


def connect(directory: str) -> Resolver:
    """The process that an earlier daemon started. Raises NotFound."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _reachable(directory) as path:
            sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise NotFound(f"{directory}: no resolver runs") from error
        raise KernelError("connect", error.errno or 0, f"{directory}/{SOCKET_NAME}") from error
    sock.settimeout(_PATIENCE)
    return Resolver(sock)


def start(directory: str, resolv_conf: str = "/etc/resolv.conf") -> Resolver:
    """Start the process, which listens in a directory that only we may search.

    It gets the listening socket and nothing else of ours, and outlives us.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        try:
            with _reachable(directory) as path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                listener.bind(path)
                os.chmod(path, 0o600)
        except OSError as error:
            raise KernelError("bind", error.errno or 0, f"{directory}/{SOCKET_NAME}") from error
        listener.listen(_BACKLOG)
        pid = _spawn(listener.fileno(), resolv_conf)
    found = connect(directory)
    found.pid = pid
    return found


def _spawn(listener: int, resolv_conf: str) -> int:
    interpreter = program()
    package = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.path.pardir] * 3))
    code = _PROGRAM.format(path=package)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    # Else a descriptor that is the same number already would stay close-on-exec.
    source = os.dup(listener) if listener == _LISTENER_FD else listener
    try:
        return os.posix_spawn(
            interpreter,
            [
                *[interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", code],
                resolv_conf,
            ],
            {"PATH": path, **library_path(interpreter)},
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, source, _LISTENER_FD),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise KernelError("posix_spawn", error.errno or 0, interpreter) from error
    finally:
        if source != listener:
            os.close(source)


@contextlib.contextmanager
def _reachable(directory: str) -> Iterator[str]:
    """The socket's path, within the 108 bytes that an address may have."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
