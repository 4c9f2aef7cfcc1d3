"""``pause`` and ``resume``: the container's cgroup, frozen and thawed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import Conflict

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(context: Context, parsed: Parsed) -> int:
    state = context.store.read(parsed.arguments[0])
    group = context.group_of(state)
    status = context.status(state)
    if group is None:
        raise Conflict(f"container {state.id} has no cgroup of its own to freeze")
    if parsed.command == "pause":
        if status not in ("created", "running"):
            raise Conflict(f"container {state.id} is {status}: cannot be paused")
        group.freeze()
    else:
        if status != "paused" and not (status == "created" and group.frozen()):
            raise Conflict(f"container {state.id} is {status}: not paused")
        group.thaw()
    return 0
