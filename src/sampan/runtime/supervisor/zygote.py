"""The zygote: a small process that has everything loaded and forks a monitor per container.

It is started by the daemon before that reads any secret, from a sealed copy of the interpreter
(CVE-2019-5736), with one socket and nothing else open. It does not read what comes there: it keeps
one monitor and its maker forked in advance, and that maker waits for the next spawn request
(``maker.stand_by``), so that no fork of ours is in the way of a start. When the request was taken
and another comes, or the start is over, it forks the next pair. It never waits for its children; it
ends when the daemon's end of the socket closes, with the pair that waits. Monitors do not notice.

What is done here once is done for every container: modules are imported, types of records are
resolved, and then the heap is frozen (``gc.freeze``) and collection turned off, so that a fork
shares its pages until it writes to them.
"""

from __future__ import annotations

import _socket
import gc
import os
import signal
import sys
from typing import NoReturn

from sampan.errors import KernelError
from sampan.kernel import processes
from sampan.kernel.titles import find_arguments
from sampan.runtime.supervisor import asleep, exec_maker, maker, messages, protocol
from sampan.runtime.supervisor.handover import SOCKET_FD
from sampan.runtime.supervisor.warm import warm_up

__all__ = ["main"]

_CRASHED = 70
# From the eighth call on a code object specialises, and needs some more to come to rest.
_REHEARSALS = 24


def main() -> None:
    """Serve spawn requests on descriptor ``SOCKET_FD`` until it is closed."""
    processes.close_range(SOCKET_FD + 1)
    processes.set_process_name("sampan-zygote")
    find_arguments()
    processes.set_dumpable(False)
    os.chdir("/")
    os.umask(0o027)
    # Signals sent to a group or a terminal's session are meant for the daemon. SIGCHLD ignored
    # reaps monitors without a wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Orphans of a container whose monitor is asleep come to us: they are reaped without a wait too.
    processes.set_child_subreaper()
    sleeper = asleep.Sleeper()
    warm_up()
    for _ in range(_REHEARSALS):
        maker.rehearse()
        exec_maker.rehearse()
    maker.remember_zygote()
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        outcome = sleeper.breed()
        if outcome == asleep.CRASHED:
            sys.exit(_CRASHED)
        if outcome == asleep.ENDED:
            return
        if outcome != asleep.REFUSED:
            _become(sleeper, outcome)
        if not _refuse():
            return


def _become(sleeper: asleep.Sleeper, outcome: int) -> NoReturn:
    """Be one container's monitor or maker; only its own exit leads out."""
    code = _CRASHED
    try:
        code = sleeper.become(outcome)
    finally:
        if code == _CRASHED and (error := sys.exception()) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
        os._exit(code)


def _refuse() -> bool:
    """No fork was to be had: say so to whoever asks next."""
    with protocol.connection(os.dup(SOCKET_FD)) as sock:
        packet, ancillary, _, _ = sock.recvmsg(
            protocol.INLINE_LIMIT + 1, protocol.ANCILLARY, _socket.MSG_CMSG_CLOEXEC
        )
    fds = protocol.rights(ancillary)
    if fds:
        error = KernelError("fork", 11, "monitor")
        with protocol.connection(fds.pop()) as control:
            try:
                fields = messages.error_fields(error)
                protocol.send(control, {"event": "failed", "error": fields})
            except OSError:
                pass  # The daemon is gone; nobody is left to tell.
    for fd in fds:
        os.close(fd)
    return bool(packet)
