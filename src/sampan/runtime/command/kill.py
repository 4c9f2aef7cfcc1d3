"""``kill``: a signal to a container's init, or to all of its processes."""

from __future__ import annotations

import os
import signal
from errno import ESRCH
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError
from sampan.kernel.processes import parse_signal, pidfd_send_signal
from sampan.runtime.command.destroy import open_init

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(context: Context, parsed: Parsed) -> int:
    container_id, *rest = parsed.arguments
    number = parse_signal(rest[0] if rest else "TERM")
    state = context.store.read(container_id)
    group = context.group_of(state)
    if parsed.flag("all"):
        if group is not None:
            if group.exists():
                group.signal(number)
            return 0
        if not state.alive():
            return 0
    linux = state.spec.linux
    shares_pids = linux is None or all(entry.type != "pid" for entry in linux.namespaces)
    pidfd = open_init(state)
    try:
        frozen = number == signal.SIGKILL and group is not None and group.frozen()
        pidfd_send_signal(pidfd, number)
        if frozen and group is not None:
            group.thaw()  # on v1 a frozen process does not die
    except KernelError as error:
        if error.errno == ESRCH:
            raise Conflict(f"container {state.id}: container not running") from None
        raise
    finally:
        os.close(pidfd)
    if number == signal.SIGKILL and shares_pids and group is not None:
        group.kill()  # without a pid namespace init's end does not end the others
    return 0
