"""``run``: create and start; in the foreground until the program ends, then delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.kernel.processes import set_child_subreaper
from sampan.runtime.command import foreground
from sampan.runtime.command.create import make
from sampan.runtime.command.destroy import destroy, kill_init
from sampan.runtime.command.start import release

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(context: Context, parsed: Parsed) -> int:
    detached = parsed.flag("detach")
    if not detached and not parsed.flag("no-subreaper"):
        set_child_subreaper()
    state, child = make(context, parsed, detached=detached)
    try:
        if not detached:
            foreground.pass_signals(child)
        try:
            release(context, state, child.pidfd, wait=detached)
        except SampanError:
            if context.store.ids().count(state.id):
                kill_init(context, state)
                destroy(context, state)
            raise
        if detached:
            return 0
        status = foreground.follow(child)
    finally:
        child.close()
    if not parsed.flag("keep"):
        destroy(context, state)
    return status
