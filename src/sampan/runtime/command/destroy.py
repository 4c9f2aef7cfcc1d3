"""Removing what a container was made of; ``delete``'s and ``run``'s common end."""

from __future__ import annotations

import os
import select
import signal
from errno import ESRCH
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError
from sampan.kernel.processes import pidfd_open, pidfd_send_signal
from sampan.runtime import hooks
from sampan.runtime.command.ready import forget

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.state import State

__all__ = ["destroy", "kill_init", "open_init"]

_PATIENCE = 10.0  # seconds for a killed process to end


def open_init(state: State) -> int:
    """A pidfd of the container's init; ``Conflict`` if it has ended."""
    try:
        pidfd = pidfd_open(state.pid)
    except (KernelError, OverflowError):
        raise _ended(state) from None
    # Asked after the pidfd holds the process, so a number given anew is not taken for it.
    if not state.alive():
        os.close(pidfd)
        raise _ended(state)
    return pidfd


def kill_init(context: Context, state: State) -> None:
    """Kill the container's init and all in its cgroup, and wait until init has ended."""
    group = context.group_of(state)
    try:
        pidfd = open_init(state)
    except Conflict:
        pidfd = -1
    try:
        if pidfd >= 0:
            _kill(pidfd)
        if group is not None:
            group.kill()
        if pidfd >= 0:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_PATIENCE * 1000):
                raise Conflict(
                    f"container {state.id}: process {state.pid} was killed and does not end"
                )
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _kill(pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal.SIGKILL)
    except KernelError as error:
        if error.errno != ESRCH:  # it ended in between
            raise


def destroy(context: Context, state: State) -> None:
    """Remove cgroup and state directory of a container that has ended; then the poststop hooks,
    whose failures are warnings."""
    group = context.group_of(state)
    if group is not None:
        group.kill()
        group.destroy()
    context.store.remove(state.id)
    forget(context, state.id)
    wanted = state.spec.hooks
    if wanted is not None and wanted.poststop:
        body = hooks.state_json(state.spec, state.id, state.bundle, "stopped", 0)
        for warning in hooks.run_poststop(wanted.poststop, body):
            context.warn(warning)


def _ended(state: State) -> Conflict:
    return Conflict(f"container {state.id}: container not running")
