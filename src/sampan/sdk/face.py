"""``sampan.run`` and ``sampan.start``: the default session's, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from sampan.sdk.session import Command, Process, default_session

if TYPE_CHECKING:
    from sampan.sdk.options import RunOptions, StartOptions
    from sampan.sdk.result import Result

__all__ = ["run", "start"]


def run(image: str, command: Command = (), **options: Unpack[RunOptions]) -> Result:
    """Run a command in a new container, and wait for its end.

        result = sampan.run("host", ["python3", "-c", "print(6 * 7)"], memory="256m", timeout=5)

    ``options`` are the fields of ``sampan.RunOptions``. Raises NotFound (the image),
    InvalidArgument, CommandNotFound, CommandNotExecutable, PermissionDenied, Unavailable; with
    ``check=True`` RunFailed, OutOfMemory, TimedOut.
    """
    return default_session().run(image, command, **options)


def start(image: str, command: Command = (), **options: Unpack[StartOptions]) -> Process:
    """Start a command in a new container, to follow it while it runs.

        with sampan.start("host", ["make", "test"]) as process:
            for line in process.lines():
                print(line.text, end="")

    ``options`` are the fields of ``sampan.StartOptions``. Raises as ``run``.
    """
    return default_session().start(image, command, **options)
