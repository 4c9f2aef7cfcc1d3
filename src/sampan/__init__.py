"""Sampan: a complete container engine in Python.

Three planks make a container: namespaces (what a process can see), cgroups (what it can use) and
a layered file system (what it stands on). ``docs/architecture.md`` is the map of the packages,
``docs/sdk.md`` the manual of this module:

    import sampan

    result = sampan.run("host", ["python3", "-c", "print(6 * 7)"], memory="256m", timeout=5)

Names are loaded when they are first used: the container's own processes load this module too.
"""

from __future__ import annotations

TYPE_CHECKING = False  # True to type checkers; the module typing would be loaded for it alone

if TYPE_CHECKING:
    from sampan import aio, errors
    from sampan.errors import (
        AlreadyExists,
        CommandNotExecutable,
        CommandNotFound,
        Conflict,
        InvalidArgument,
        KernelError,
        NotFound,
        NotSupported,
        PermissionDenied,
        SampanError,
        Unavailable,
    )
    from sampan.sdk.face import connect, run, start
    from sampan.sdk.options import (
        Bind,
        CreateOptions,
        File,
        Options,
        RunOptions,
        StartOptions,
        Tmpfs,
    )
    from sampan.sdk.remote.containers import Container
    from sampan.sdk.remote.engine import Engine
    from sampan.sdk.remote.values import (
        ContainerSummary,
        Event,
        ExecResult,
        ImageSummary,
        Version,
    )
    from sampan.sdk.result import (
        Chunk,
        Outcome,
        OutOfMemory,
        Result,
        RunFailed,
        TimedOut,
        Usage,
    )
    from sampan.sdk.session import Process, Session

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Bind",
    "Chunk",
    "CommandNotExecutable",
    "CommandNotFound",
    "Conflict",
    "Container",
    "ContainerSummary",
    "CreateOptions",
    "Engine",
    "Event",
    "ExecResult",
    "File",
    "ImageSummary",
    "InvalidArgument",
    "KernelError",
    "NotFound",
    "NotSupported",
    "Options",
    "OutOfMemory",
    "Outcome",
    "PermissionDenied",
    "Process",
    "Result",
    "RunFailed",
    "RunOptions",
    "SampanError",
    "Session",
    "StartOptions",
    "TimedOut",
    "Tmpfs",
    "Unavailable",
    "Usage",
    "Version",
    "aio",
    "connect",
    "errors",
    "run",
    "start",
]

_PLACES = {
    "sampan.sdk.face": ("connect", "run", "start"),
    "sampan.sdk.options": (
        "Bind",
        "CreateOptions",
        "File",
        "Options",
        "RunOptions",
        "StartOptions",
        "Tmpfs",
    ),
    "sampan.sdk.remote.containers": ("Container",),
    "sampan.sdk.remote.engine": ("Engine",),
    "sampan.sdk.remote.values": (
        "ContainerSummary",
        "Event",
        "ExecResult",
        "ImageSummary",
        "Version",
    ),
    "sampan.sdk.result": (
        "Chunk",
        "OutOfMemory",
        "Outcome",
        "Result",
        "RunFailed",
        "TimedOut",
        "Usage",
    ),
    "sampan.sdk.session": ("Process", "Session"),
}


if not TYPE_CHECKING:  # which knows the names, and should know no others

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'sampan' has no attribute {name!r}")
        from importlib import import_module

        if name in ("aio", "errors"):
            return import_module(f"sampan.{name}")
        place = next((where for where, names in _PLACES.items() if name in names), "sampan.errors")
        value = getattr(import_module(place), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
