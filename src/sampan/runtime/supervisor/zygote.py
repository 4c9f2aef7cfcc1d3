"""The zygote: a small process that has everything loaded and forks a monitor per container.

It is started by the daemon before that reads any secret, from a sealed copy of the interpreter
(CVE-2019-5736), with one socket and nothing else open. It reads a spawn request without looking
into it, forks, and forgets: the fork is the monitor, and no child of the zygote's that it ever
waits for. It ends when the daemon's end of the socket closes; monitors do not notice.

What is done here once is done for every container: modules are imported, types of records are
resolved, and then the heap is frozen (``gc.freeze``) and collection turned off, so that a fork
shares its pages until it writes to them.
"""

from __future__ import annotations

import _socket
import gc
import os
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import KernelError, SampanError
from sampan.kernel import processes
from sampan.runtime.supervisor import asleep, messages, protocol
from sampan.runtime.supervisor.warm import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SOCKET_FD", "main"]

SOCKET_FD = 3
_CRASHED = 70


def main() -> None:
    """Serve spawn requests on descriptor ``SOCKET_FD`` until it is closed."""
    processes.close_range(SOCKET_FD + 1)
    processes.set_process_name("sampan-zygote")
    processes.set_dumpable(False)
    os.chdir("/")
    os.umask(0o027)
    # Signals sent to a group or a terminal's session are meant for the daemon. SIGCHLD ignored
    # reaps monitors without a wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Orphans of a container whose monitor is asleep come to us: they are reaped without a wait too.
    processes.set_child_subreaper()
    warm_up()
    asleep.rehearse()
    _rehearse()
    sock = _socket.socket(fileno=SOCKET_FD)
    gc.collect()
    gc.disable()
    gc.freeze()
    while _serve(sock, _monitor):
        pass


def _rehearse() -> None:
    """Serve requests for nothing: code that ran before does not change any more."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    for _ in range(10):
        with open(os.devnull, "rb") as null:
            fds = struct.pack("i", null.fileno())
            theirs.sendmsg([b"{}"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
        _serve(ours, lambda *_: os._exit(0))


def _serve(sock: _socket.socket, become: Callable[[bytes, int, tuple[int, ...]], NoReturn]) -> bool:
    """Serve one request; False when the daemon is gone.

    Little is done and few objects are touched from here to the fork and back: a page that is
    written to here leaves its old self to the monitors forked before.
    """
    try:
        packet, ancillary, flags, _ = sock.recvmsg(
            asleep.PACKET, asleep.RIGHTS, _socket.MSG_CMSG_CLOEXEC
        )
    except OSError:
        return False
    if not packet:
        return False
    fds = struct.unpack(f"{len(ancillary[0][2]) // 4}i", ancillary[0][2]) if ancillary else ()
    try:
        child = os.fork()
    except OSError as error:
        _refuse(fds, KernelError("fork", error.errno or 0, "monitor"))
    else:
        if child == 0:
            become(packet, flags, fds)
    for fd in fds:
        os.close(fd)
    return True


def _monitor(packet: bytes, flags: int, fds: tuple[int, ...]) -> NoReturn:
    """Become the monitor of one container; only its own exit leads out."""
    code = _CRASHED
    try:
        os.close(SOCKET_FD)
        if fds:
            asleep.run(packet, flags, fds)
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(code)


def _refuse(fds: tuple[int, ...], error: SampanError) -> None:
    if not fds:
        return
    with socket.socket(fileno=os.dup(fds[-1])) as control:
        try:
            protocol.send(control, {"event": "failed", "error": messages.error_fields(error)})
        except OSError:
            pass  # The daemon is gone; nobody is left to tell.
