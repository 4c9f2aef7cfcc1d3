"""``delete``: remove a container that has ended, or was never started; with --force any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import Conflict, Corrupt, NotFound
from sampan.runtime.command.destroy import destroy, kill_init

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(context: Context, parsed: Parsed) -> int:
    container_id = parsed.arguments[0]
    force = parsed.flag("force")
    try:
        state = context.store.read(container_id)
    except (NotFound, Corrupt):
        if not force:
            raise
        context.store.remove(container_id)  # what a create that was killed has left
        return 0
    status = context.status(state)
    if status in ("running", "paused", "creating") and not force:
        raise Conflict(f"container {state.id} is {status}: stop it first, or say --force")
    if status != "stopped":
        kill_init(context, state)
    destroy(context, state)
    return 0
