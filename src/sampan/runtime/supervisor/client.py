"""The daemon's side: starting the zygote, asking it for monitors, finding monitors again.

Nothing here waits for a container: what a monitor says comes on its socket, which the caller puts
into its own event loop, with ``protocol.receive`` for the messages.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from typing import TYPE_CHECKING

from sampan.errors import Corrupt, KernelError, NotFound, Unavailable
from sampan.kernel.memory import sealed_copy
from sampan.kernel.processes import pidfd_open, start_time
from sampan.runtime.interpreter import library_path, program
from sampan.runtime.supervisor import protocol
from sampan.runtime.supervisor.files import MONITOR_FILE
from sampan.runtime.supervisor.server import SOCKET_NAME, peer_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Zygote", "connect", "start_zygote"]

_SOCKET_FD = 3
_PROGRAM = (
    "import sys; sys.path.append({path!r}); "
    "from sampan.runtime.supervisor.zygote import main; main()"
)


class Zygote:
    """A running zygote: ``pid``, ``pidfd`` (readable when it has ended) and its ``socket``."""

    __slots__ = ("pid", "pidfd", "socket")

    def __init__(self, pid: int, pidfd: int, sock: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.socket = sock

    def spawn(
        self, request: Mapping[str, object], stdio: tuple[int, int, int] | tuple[()] = ()
    ) -> socket.socket:
        """Ask for a monitor; our end of the connection with it, blocking, is returned.

        ``request`` holds the fields of ``messages.Spawn``, and ``stdio`` what its ``stdio`` says.
        What becomes of it is said on the connection: ``created`` or ``failed``, or its end if no
        monitor could be forked. Raises Unavailable when the zygote has ended.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            protocol.send(self.socket, {"op": "spawn", **request}, (*stdio, theirs.fileno()))
        except OSError as error:
            ours.close()
            raise Unavailable("the zygote has ended; start another") from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def drain(self) -> None:
        """Let it end, and wait until all that was asked for is made, or has failed.

        Whoever makes a container has the other end of the socket until it is made.
        """
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(1):
            pass

    def close(self) -> None:
        """Let it end, and wait for that; its monitors live on."""
        self.socket.close()
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            pass  # A program that waits for any child of its own has waited for this one.
        os.close(self.pidfd)


def start_zygote() -> Zygote:
    """Start a zygote from a sealed copy of the interpreter.

    It inherits one socket, /dev/null as standard input and output, our standard error, and no
    environment but a PATH. It is a child of the caller, in a session of its own.
    """
    interpreter = program()
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    copy = sealed_copy(interpreter, "sampan")
    # Out of the way of the descriptors that the new process is given.
    sealed = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, 2 * _SOCKET_FD)
    os.close(copy)
    try:
        # Its name, the real path, is how an interpreter in memory finds its standard library.
        arguments = [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c"]
        pid = os.posix_spawn(
            f"/proc/self/fd/{sealed}",
            [*arguments, _PROGRAM.format(path=os.path.abspath(package))],
            _environment(interpreter),
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET_FD),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        ours.close()
        raise KernelError("posix_spawn", error.errno or 0, interpreter) from error
    finally:
        os.close(sealed)
        theirs.close()
    return Zygote(pid, pidfd_open(pid), ours)


def _environment(interpreter: str) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, **library_path(interpreter)}


def connect(run_dir: str) -> socket.socket:
    """Connect to the monitor of a container by its run directory; a blocking socket.

    That the process in ``monitor.json`` lives is checked by its start time, and who listens to be
    of our user or root.
    Raises NotFound when no monitor lives there (it ended, or died), Corrupt for an unreadable
    record, KernelError when it cannot be reached.
    """
    try:
        with open(os.path.join(run_dir, MONITOR_FILE), "rb") as file:
            record = json.load(file)
        pid, started = int(record["pid"]), int(record["start_time"])
    except FileNotFoundError:
        raise NotFound(f"{run_dir}: no monitor is recorded here") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{run_dir}/{MONITOR_FILE}: not a monitor's record") from error
    gone = NotFound(f"{run_dir}: its monitor, process {pid}, has ended")
    try:
        if start_time(pid) != started:
            raise gone
    except KernelError as error:
        raise gone from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)
        if peer_credentials(sock)[1] not in (0, os.geteuid()):
            raise gone
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise gone from error
        raise KernelError("connect", error.errno or 0, f"{run_dir}/{SOCKET_NAME}") from error
    except NotFound:
        sock.close()
        raise
    return sock
