"""``start``: release the program of a container that was created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import Conflict, SampanError
from sampan.runtime import gate, hooks
from sampan.runtime.command.destroy import destroy, kill_init

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
    release(context, state)
    return 0


def release(context: Context, state: State) -> None:
    """Let init execute the program; then the poststart hooks, whose failure ends the container."""
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
