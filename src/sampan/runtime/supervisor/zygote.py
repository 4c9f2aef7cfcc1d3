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

import gc
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from sampan.errors import InvalidArgument, KernelError, SampanError
from sampan.kernel import processes
from sampan.runtime.supervisor import asleep, messages, protocol
from sampan.runtime.supervisor.warm import warm_up

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
    gc.collect()
    gc.disable()
    gc.freeze()
    sock = socket.socket(fileno=SOCKET_FD)
    while True:
        try:
            received = protocol.receive_body(sock)
        except InvalidArgument:
            continue  # Its descriptors are closed: the sender sees the end of its connection.
        except OSError:
            return
        if received is None:
            return
        _spawn(*received)


def _spawn(body: bytes, fds: list[int]) -> None:
    # The name is the fork's from its birth: to give it one there would cost each of them pages.
    processes.set_process_name("sampan-monitor")
    try:
        pid = os.fork()
    except OSError as error:
        if fds:
            with socket.socket(fileno=fds.pop(0)) as control:
                _report(control, KernelError("fork", error.errno or 0, "monitor"))
    else:
        if pid == 0:
            _monitor(body, fds)
    processes.set_process_name("sampan-zygote")
    for fd in fds:
        os.close(fd)


def _monitor(body: bytes, fds: list[int]) -> NoReturn:
    """Become the monitor of one container; only its own exit leads out."""
    code = _CRASHED
    try:
        os.close(SOCKET_FD)
        if len(fds) == 1:
            asleep.run(body, fds[0])
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def _report(control: socket.socket, error: SampanError) -> None:
    try:
        protocol.send(control, {"event": "failed", "error": messages.error_fields(error)})
    except OSError:
        pass  # The daemon is gone; nobody is left to tell.
