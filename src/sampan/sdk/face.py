"""``sampan.run`` and ``sampan.start``, the default session's, and ``sampan.connect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from sampan.sdk.session import Command, Process, default_session

if TYPE_CHECKING:
    from sampan.sdk.options import RunOptions, StartOptions
    from sampan.sdk.remote.engine import Engine
    from sampan.sdk.result import Result

__all__ = ["connect", "run", "start"]


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


def connect(host: str | None = None, *, start: bool = True) -> Engine:
    """A daemon, for containers that outlive this program.

    ``host``: ``unix:///path`` or ``tcp://host:port``; without it SAMPAN_HOST, DOCKER_HOST, the
    context in use, our own socket. ``start``: begin a daemon at our own socket where none answers
    and this program may; that is said on standard error. Nothing is sent before the first request.
    """
    from sampan.sdk.remote.engine import Engine

    return Engine(host, start=start)
