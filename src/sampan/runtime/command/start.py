"""``start``: release the program of a container that was created."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.errors import Conflict, SampanError
from sampan.runtime import gate, hooks
from sampan.runtime.command.destroy import destroy, kill_init, open_init
from sampan.runtime.command.ready import Ready

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed
    from sampan.runtime.state import State

__all__ = ["release", "run"]


def run(context: Context, parsed: Parsed) -> int:
    state = context.store.read(parsed.arguments[0])
    status = context.status(state)
    if status != "created":
        raise Conflict(f"container {state.id} is {status}: only a created one can be started")
    pidfd = open_init(state)
    try:
        release(context, state, pidfd)
    finally:
        os.close(pidfd)
    return 0


def release(context: Context, state: State, pidfd: int, *, wait: bool = True) -> None:
    """Let init execute the program; then the poststart hooks, whose failure ends the container.

    With a service manager it is waited for until the program is ready; with ``wait`` false by a
    process of its own.
    """
    ready = Ready.wanted(context, state.id)
    listening = ready is not None and ready.listen()
    _open(context, state)
    if ready is not None and listening:
        if wait:
            ready.relay(state.pid, pidfd)
        elif os.fork() == 0:
            try:
                ready.relay(state.pid, pidfd)
            finally:
                os._exit(0)


def _open(context: Context, state: State) -> None:
    gate.open_by_start(context.store.directory(state.id))
    wanted = state.spec.hooks
    if wanted is None or not wanted.poststart:
        return
    body = hooks.state_json(state.spec, state.id, state.bundle, "running", state.pid)
    try:
        hooks.run("poststart", wanted.poststart, body)
    except SampanError:
        kill_init(context, state)
        destroy(context, state)
        raise
