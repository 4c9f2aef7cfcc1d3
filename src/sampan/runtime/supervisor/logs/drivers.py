"""Drivers by name: opened by a container's maker, gone on with by its monitor.

The maker opens what there is to open, so that a log that cannot be is the start's error. The
monitor owns the descriptors from then on. What only some containers' logs need is imported here, by
those.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.runtime.supervisor.logs import jsonfile
from sampan.runtime.supervisor.logs.files import RotatedFile
from sampan.runtime.supervisor.logs.log import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.runtime.supervisor.logs.log import Driver
    from sampan.runtime.supervisor.loop import Loop
    from sampan.runtime.supervisor.messages import LogFile, LogOptions

__all__ = ["Logs", "open_logs", "resume_logs"]

_LOG = "log"
_CACHE = "log_cache"


def open_logs(options: LogOptions) -> dict[str, int]:
    """Open a log: its descriptors by name, for ``resume_logs``.

    Raises InvalidArgument, NotSupported, KernelError, Unavailable.
    """
    fds: dict[str, int] = {}
    if options.driver in ("json-file", "local"):
        if not options.path:
            raise InvalidArgument(f"log.path: required by the {options.driver} driver, and missing")
        fds["log"] = _file(options.driver, options, -1).fileno()
    elif options.driver == "syslog":
        from sampan.runtime.supervisor.logs.syslog import open_syslog

        fds["log"] = open_syslog(options).detach()
    elif options.driver == "journald":
        from sampan.runtime.supervisor.logs.journald import open_journald

        fds["log"] = open_journald(options).detach()
    elif options.driver != "none":
        raise NotSupported(
            f"log driver {options.driver!r}: use json-file, local, syslog, journald or none"
        )
    if options.cache is not None:
        fds[_CACHE] = _file("local", options.cache, -1).fileno()
    return fds


def resume_logs(options: LogOptions, fds: Mapping[str, int], pid: int) -> Logs:
    """The log of the container whose init is ``pid``, from what ``open_logs`` returned."""
    logs: dict[str, Log] = {}
    if _LOG in fds:
        driver, file = _resume(options, fds[_LOG], pid)
        logs[_LOG] = Log(driver, blocking=options.blocking, limit=options.buffer_size, file=file)
    if options.cache is not None:
        # What a cache cannot take is missing from it, and holds nobody up.
        driver, file = _local(options, options.cache, fds[_CACHE])
        logs[_CACHE] = Log(driver, blocking=False, file=file)
    return Logs(logs)


def _resume(options: LogOptions, fd: int, pid: int) -> tuple[Driver, RotatedFile | None]:
    """A driver, and its file where that can be read."""
    if options.driver == "syslog":
        from sampan.runtime.supervisor.logs.syslog import resume_syslog

        return resume_syslog(options, fd, pid), None
    if options.driver == "journald":
        from sampan.runtime.supervisor.logs.journald import resume_journald

        return resume_journald(options, fd), None
    if options.driver == "local":
        return _local(options, options, fd)
    file = _file("json-file", options, fd)
    return jsonfile.JsonFile(file, options.tag_attrs), file


def _local(options: LogOptions, place: LogFile, fd: int) -> tuple[Driver, RotatedFile]:
    from sampan.runtime.supervisor.logs.local import LocalFile

    file = _file("local", place, fd)
    return LocalFile(file, options.tag_attrs), file


def _file(driver: str, file: LogFile, fd: int) -> RotatedFile:
    whole = jsonfile.whole
    if driver == "local":
        from sampan.runtime.supervisor.logs import local

        whole = local.whole
        if fd < 0:
            _make_directory(os.path.dirname(file.path))
    return RotatedFile(
        file.path, file.max_size, file.max_file, compress=file.compress, fd=fd, whole=whole
    )


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise KernelError("mkdir", error.errno or 0, path) from error


class Logs:
    """A container's log and what is kept beside it: none, one or two, written alike."""

    __slots__ = ("_logs", "_names")

    def __init__(self, logs: dict[str, Log]) -> None:
        self._names = list(logs)
        self._logs = list(logs.values())

    def attend(
        self, loop: Loop, on_change: Callable[[], None], on_loss: Callable[[str], None]
    ) -> None:
        """See ``Log.attend``."""
        for log in self._logs:
            log.attend(loop, on_change, on_loss)

    @property
    def is_full(self) -> bool:
        """Whether the container is to wait."""
        return any(log.is_full for log in self._logs)

    @property
    def dropped(self) -> int:
        """Entries lost so far; not those that only the copy beside it lacks."""
        return self._logs[0].dropped if self._logs else 0

    def write(self, stream: str, data: bytes) -> None:
        """Log output as it was read from ``stream`` (``stdout`` or ``stderr``)."""
        for log in self._logs:
            log.write(stream, data)

    def finish(self, stream: str) -> None:
        """The stream ended: log what has no line feed."""
        for log in self._logs:
            log.finish(stream)

    def unfinished(self, stream: str) -> bytes:
        """What was read from ``stream`` and is no line yet."""
        return self._logs[-1].unfinished(stream) if self._logs else b""

    @property
    def is_behind(self) -> bool:
        """Whether what can be read lacks entries that were written to it."""
        return bool(self._logs) and self._logs[-1].is_behind

    def pin(self) -> tuple[int, int, int] | None:
        """Where what can be read ends: see ``Log.pin``."""
        return self._logs[-1].pin() if self._logs else None

    def unpin(self) -> None:
        """See ``Log.unpin``."""
        if self._logs:
            self._logs[-1].unpin()

    @property
    def is_idle(self) -> bool:
        """See ``Log.is_idle``."""
        return all(log.is_idle for log in self._logs)

    def rest(self) -> list[dict[str, Any]]:
        """See ``Log.rest``."""
        return [log.rest() for log in self._logs]

    def go_on(self, rests: list[dict[str, Any]]) -> None:
        """See ``Log.go_on``."""
        for log, rest in zip(self._logs, rests, strict=True):
            log.go_on(rest)

    def descriptors(self) -> dict[str, int]:
        """Descriptors by name, for ``resume_logs``."""
        return {
            name: fd
            for name, log in zip(self._names, self._logs, strict=True)
            for fd in log.descriptors().values()
        }

    def close(self) -> None:
        """Let what waits leave, and close."""
        for log in self._logs:
            log.close()
