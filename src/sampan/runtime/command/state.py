"""``state``: what is known of a container: the runtime specification's state, runc's fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed
    from sampan.runtime.state import State

__all__ = ["describe", "run"]


def run(context: Context, parsed: Parsed) -> int:
    state = context.store.read(parsed.arguments[0])
    print(json.dumps(describe(context, state), indent=2))
    return 0


def describe(context: Context, state: State) -> dict[str, object]:
    """The JSON object of one container; ``pid`` is 0 for one that has ended."""
    status = context.status(state)
    described: dict[str, object] = {
        "ociVersion": state.spec.oci_version,
        "id": state.id,
        "pid": 0 if status == "stopped" else state.pid,
        "status": status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": state.owner,
    }
    if state.spec.annotations:
        described["annotations"] = state.spec.annotations
    return described
