"""What became of a container: frozen values, and the errors ``check=True`` makes of them.

SampanError
└── RunFailed          it ended otherwise than with exit code 0; ``result`` says how
    ├── OutOfMemory    the kernel killed it at its memory limit
    └── TimedOut       it was killed at the end of its time
"""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Chunk", "OutOfMemory", "Outcome", "Result", "RunFailed", "TimedOut", "Usage",
           "read_usage"]  # fmt: skip

_TAIL = 2000


class Outcome(enum.Enum):
    """How a container ended."""

    EXITED = "exited"
    """By itself, with an exit code."""
    SIGNALED = "signaled"
    """By a signal that neither we nor the kernel's want of memory sent."""
    OUT_OF_MEMORY = "out of memory"
    """The kernel killed its first process at the memory limit."""
    TIMED_OUT = "timed out"
    """We killed it, and all in it, at the end of ``timeout``."""
    KILLED = "killed"
    """We killed it, because the program said so."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a container used, all its processes together: seconds and bytes."""

    wall_time: float = 0.0
    """From the start of its command to its end."""
    cpu_time: float = 0.0
    user_time: float = 0.0
    system_time: float = 0.0
    peak_memory: int = 0
    """The most memory its cgroup ever held: page cache and the kernel's own included."""
    read_bytes: int = 0
    """From block devices, by its own processes; what a later write-back writes is not seen."""
    write_bytes: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """A piece of output as it was read: ``stream`` is "stdout" or "stderr"."""

    stream: str
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended, what it said and what it used.

    ``exit_code`` is 128 + n after signal n. ``stdout`` and ``stderr`` are the first
    ``output_limit`` bytes of each; ``stdout_size`` and ``stderr_size`` count all. ``files`` holds
    what was to be collected and was there, ``omitted`` says of the rest why it is not.
    ``oom_kills`` counts processes killed for want of memory, the first one or any other.
    """

    outcome: Outcome
    exit_code: int
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_size: int = 0
    stderr_size: int = 0
    usage: Usage = Usage()
    oom_kills: int = 0
    files: Mapping[str, bytes] = {}
    omitted: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()
    id: str = ""

    @property
    def ok(self) -> bool:
        """It ended by itself, with exit code 0."""
        return self.outcome is Outcome.EXITED and self.exit_code == 0

    @property
    def timed_out(self) -> bool:
        return self.outcome is Outcome.TIMED_OUT

    @property
    def oom_killed(self) -> bool:
        """A process was killed for want of memory, be it the first or another."""
        return self.oom_kills > 0

    @property
    def truncated(self) -> bool:
        """More was written than ``stdout`` or ``stderr`` hold."""
        return self.stdout_size > len(self.stdout) or self.stderr_size > len(self.stderr)

    @property
    def text(self) -> str:
        """Standard output as UTF-8, with U+FFFD for what is none."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error, in the same way."""
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> Result:
        """The same result if it is ``ok``. Raises RunFailed, OutOfMemory, TimedOut."""
        if self.ok:
            return self
        kind = _FAILURES.get(self.outcome, RunFailed)
        raise kind(self._sentence(), self)

    def _sentence(self) -> str:
        if self.outcome is Outcome.EXITED:
            what = f"exit code {self.exit_code}"
        elif self.outcome is Outcome.SIGNALED and self.signal is not None:
            what = f"ended by {_signal_name(self.signal)}"
        else:
            what = self.outcome.value
        said = self.error_text[-_TAIL:].strip() or self.text[-_TAIL:].strip()
        return f"container {self.id}: {what}" + (f"; it said last:\n{said}" if said else "")


class RunFailed(SampanError):
    """A container ended otherwise than with exit code 0."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.result)


class OutOfMemory(RunFailed):
    """The kernel killed it at its memory limit."""


class TimedOut(RunFailed):
    """It was killed at the end of its time."""


_FAILURES: dict[Outcome, type[RunFailed]] = {
    Outcome.OUT_OF_MEMORY: OutOfMemory,
    Outcome.TIMED_OUT: TimedOut,
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_usage(account: Mapping[str, Any] | None, wall_time: float) -> Usage:
    """The sums of a group's account in its JSON form (``kernel.cgroups.usage.Usage``)."""
    if not account:
        return Usage(wall_time=wall_time)
    cpu, devices = account["cpu"], account.get("io", ())
    return Usage(
        wall_time=wall_time,
        cpu_time=cpu["total"] / 1e9,
        user_time=cpu["user"] / 1e9,
        system_time=cpu["system"] / 1e9,
        peak_memory=account["memory"]["usage"]["max"],
        read_bytes=sum(device["readBytes"] for device in devices),
        write_bytes=sum(device["writeBytes"] for device in devices),
    )
