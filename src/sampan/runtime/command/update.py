"""``update``: change the limits of a container that runs, or is to run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from sampan.errors import Conflict, InvalidArgument, KernelError, NotSupported
from sampan.oci.runtime import BlockIO, Cpu, Linux, Memory, Pids, Resources

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed
    from sampan.runtime.state import State

__all__ = ["run"]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

# option: field of Cpu
_CPU = {
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-burst": "burst",
    "cpu-share": "shares",
    "cpu-rt-period": "realtime_period",
    "cpu-rt-runtime": "realtime_runtime",
    "cpu-idle": "idle",
}
_MEMORY = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}


def run(context: Context, parsed: Parsed) -> int:
    state = context.store.read(parsed.arguments[0])
    for option in ("l3-cache-schema", "mem-bw-schema"):
        if option in parsed:
            raise NotSupported(f"--{option}: intelRdt is not supported")
    group = context.group_of(state)
    if group is None:
        raise Conflict(f"container {state.id} has no cgroup of its own: nothing to limit")
    if context.status(state) == "stopped":
        raise Conflict(f"container {state.id} is stopped: container not running")
    path = parsed.text("resources")
    resources = _read(path) if path is not None else _from_options(parsed)
    if resources.devices:
        group.allow_devices(resources.devices)
    for warning in group.update(resources):
        context.warn(warning)
    context.store.write(_remember(state, resources))
    return 0


def _read(path: str) -> Resources:
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        return Resources.from_json(json.loads(text), "resources")
    except OSError as error:
        raise KernelError("open", error.errno or 0, f"--resources {path}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"--resources {path}: not JSON: {error}") from None


def _from_options(parsed: Parsed) -> Resources:
    cpu: dict[str, Any] = {
        field: parsed.number(option) for option, field in _CPU.items() if option in parsed
    }
    cpu |= {
        option.removeprefix("cpuset-"): parsed.text(option)
        for option in ("cpuset-cpus", "cpuset-mems")
        if option in parsed
    }
    memory: dict[str, Any] = {
        field: _bytes(option, parsed.text(option) or "")
        for option, field in _MEMORY.items()
        if option in parsed
    }
    weight, pids = parsed.number("blkio-weight"), parsed.number("pids-limit")
    return Resources(
        cpu=Cpu(**cpu) if cpu else None,
        memory=Memory(**memory) if memory else None,
        pids=None if pids is None else Pids(limit=pids),
        block_io=None if weight is None else BlockIO(weight=weight),
    )


def _bytes(option: str, text: str) -> int:
    if text == "-1":
        return -1
    lower = text.strip().lower().removesuffix("ib")
    if lower.endswith("b") and len(lower) > 1:
        lower = lower[:-1]
    number, unit = (lower[:-1], lower[-1]) if lower and lower[-1] in _UNITS else (lower, "")
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise InvalidArgument(f"--{option}: expected bytes (512m, 1g, -1), not {text!r}") from None


def _remember(state: State, new: Resources) -> State:
    """The state with what was changed, field by field, in its configuration."""
    linux = state.spec.linux or Linux()
    old = linux.resources or Resources()
    changed: dict[str, object] = {}
    for name in ("cpu", "memory", "pids", "block_io", "network"):
        before, after = getattr(old, name), getattr(new, name)
        if after is not None:
            given = {key: value for key, value in vars(after).items() if value not in (None, ())}
            changed[name] = after if before is None else before.replace(**given)
    for name in ("hugepage_limits", "devices"):
        if getattr(new, name):
            changed[name] = getattr(new, name)
    for name in ("rdma", "unified"):
        changed[name] = {**getattr(old, name), **getattr(new, name)}
    linux = linux.replace(resources=old.replace(**changed))
    return state.replace(spec=state.spec.replace(linux=linux))
