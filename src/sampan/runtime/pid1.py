"""The small init of ``--init``: PID 1 that forwards signals and reaps (LESSONS of tini's users).

A program that is PID 1 ignores the signals it has no handler for (pid_namespaces(7)) and inherits
every orphan. Here PID 1 is this loop instead. It runs in the container's namespaces with the
container's user code beside it, so it holds nothing: no descriptor, no capability but that to
signal, no_new_privs and seccomp as the container's, and it is not dumpable.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from sampan.kernel import capabilities
from sampan.kernel.processes import (
    close_range,
    set_child_subreaper,
    set_dumpable,
    set_process_name,
)
from sampan.kernel.titles import set_process_title

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["split"]


def split(run: Callable[[], NoReturn]) -> NoReturn:
    """Fork: the child executes the program by ``run``, this process becomes its init."""
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    if os.getpid() != 1:
        set_child_subreaper()
    # Before the program can look; of its own it has others as soon as it is executed.
    set_process_name("sampan-init")
    try:
        set_process_title("sampan-init")
    except OSError:
        pass  # a filter that allows no pipe: ps(1) in the container shows our arguments
    program = os.fork()
    if program == 0:
        # A process group of its own in the foreground, so that the terminal's ^C reaches the
        # program and not init; SIGTTOU is blocked, or this would stop us.
        os.setpgid(0, 0)
        try:
            os.tcsetpgrp(0, os.getpgrp())
        except OSError:
            pass  # standard input is no terminal of ours
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        run()
    _drop_everything()
    while True:
        number = signal.sigwait(everything)
        if number == signal.SIGCHLD:
            _reap(program)
        else:
            try:
                os.kill(program, number)
            except ProcessLookupError:
                pass  # it has just ended; SIGCHLD is on its way


def _drop_everything() -> None:
    close_range(0)
    have = capabilities.get()
    kept = have.permitted & {capabilities.NUMBERS["CAP_KILL"]}
    capabilities.apply(capabilities.Caps(effective=kept, permitted=kept, bounding=have.bounding))
    set_dumpable(False)


def _reap(program: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
