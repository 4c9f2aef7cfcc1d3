"""One container from its making to its result: what is read, written, waited for and cleaned up.

    making ──► running ──► ended ──► gone
       │          │ end of its time, kill(): SIGKILL to all of it, then as if it had ended
       ▼          ▼
    raised     gone, whatever is raised in between

Its output comes on pipes of our own, straight from its processes; what its monitor has to say (that
it runs, how it ended) comes on the connection with it. It is *ended* when the monitor has said so,
which is after the last of its processes is dead, its usage counted and its cgroup removed; it is
*gone* when its files are. Closing the connection kills it, so no way out of here leaves it running.

Everything that waits is steps (``sampan.sdk.steps``).
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from sampan.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    NotSupported,
    PermissionDenied,
    SampanError,
    Unavailable,
    by_name,
)
from sampan.runtime.supervisor import protocol
from sampan.sdk import files, roots
from sampan.sdk.making import make
from sampan.sdk.result import Outcome, Result, Usage, read_usage
from sampan.sdk.steps import Steps, wait, work
from sampan.sdk.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.sdk.home import Home
    from sampan.sdk.making import Made
    from sampan.sdk.options import Request
    from sampan.sdk.result import Chunk

__all__ = ["Execution", "run", "start"]

_START_DEADLINE = 120.0
_DEATH_DEADLINE = 15.0
"""Seconds from SIGKILL to the end: more means a process that hangs in the kernel."""
_REASONS = (InvalidArgument, NotFound, NotSupported, PermissionDenied)
_KILLED_EARLY = {
    "code": 137, "signal": 9, "oom": False, "oom_kills": 0, "usage": None, "warnings": ()
}  # fmt: skip


def run(home: Home, request: Request) -> Steps[Result]:
    """Make a container, wait for its end; its result."""
    execution = yield from start(home, request)
    try:
        result = yield from execution.finish()
    except BaseException:
        yield from execution.destroy()
        raise
    return result.check() if request.check else result


def start(home: Home, request: Request) -> Steps[Execution]:
    """Make a container, and wait until its command runs.

    Raises NotFound, InvalidArgument, CommandNotFound, CommandNotExecutable and others of
    ``sampan.errors``; then nothing is left.
    """
    for attempt in (1, 2):
        execution = yield from work(lambda: Execution(home, request, make(home, request)))
        try:
            yield from execution.begin()
        except _NotBegunError:
            # The zygote was killed before it did anything for this request: another one gets it.
            yield from execution.destroy()
            if attempt == 2:
                raise
        except BaseException:
            yield from execution.destroy()
            raise
        else:
            break
    return execution


class _NotBegunError(Unavailable):
    """A request was lost before anything was done for it."""


class Execution:
    """See the module's text. One at a time may wait here; ``kill`` is for anybody, at any time, and
    ``destroy`` for whoever owns it: who waits elsewhere waits in vain then."""

    def __init__(self, home: Home, request: Request, made: Made) -> None:
        self.id = made.name
        self._home = home
        self._request = request
        self._made = made
        self._control = made.control
        self._streams = Streams(
            made.pipes, request.input or b"", more=request.keep_stdin, limit=request.output_limit
        )
        now = time.monotonic()
        self._deadline = None if request.timeout is None else now + request.timeout
        self._limit: float | None = now + _START_DEADLINE
        self._started_at = 0.0
        self._exit: dict[str, Any] | None = None
        self._failure: SampanError | None = None
        self._warnings: tuple[str, ...] = ()
        self._replies: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._timed_out = False
        self._killed = False
        self._is_waited_for = False
        self._result: Result | None = None
        self._closed = False
        self._removed = False
        home.executions[self.id] = weakref.ref(self)

    def forget(self) -> None:
        """In a fork of this process: close our copies, the last of which must be the parent's."""
        self._close()

    def __del__(self) -> None:
        if getattr(self, "_removed", True):
            return
        ran = not self._closed
        self._close()
        self._home.abandon(self.id)
        if ran:
            warnings.warn(
                f"container {self.id} was dropped while it ran, and is killed: close it, or use "
                "it in a with statement",
                ResourceWarning,
                stacklevel=2,
            )

    # What may be asked of it

    def begin(self) -> Steps[None]:
        """Wait until the command runs, or has ended already. Raises why it does not."""
        while not self._started_at and self._exit is None:
            yield from self._turn(())
        self._limit = None

    def chunk(self) -> Steps[Chunk | None]:
        """The next piece of output; None when there will be none."""
        streams = self._streams
        while not streams.chunks and self._exit is None:
            yield from self._turn(streams.outputs)
        return streams.take()

    def write(self, data: bytes) -> Steps[None]:
        """Give bytes to its standard input, and wait until it has taken them.

        Its output is read meanwhile, up to ``output_limit`` bytes. Raises Conflict beyond, and when
        its input is closed; BrokenPipeError when it has closed that itself.
        """
        streams = self._streams
        if streams.input_ends:
            raise Conflict(
                f"container {self.id}: its standard input is closed; start it with stdin=True"
            )
        streams.input = memoryview(bytes(streams.input) + data)
        while streams.input:
            if streams.stdin < 0:
                streams.input = memoryview(b"")
                raise BrokenPipeError(f"container {self.id} has closed its standard input")
            if streams.queued > self._request.output_limit:
                raise Conflict(
                    f"container {self.id} waits for its output to be read: "
                    f"{streams.queued} bytes of it are kept here, and nobody takes them"
                )
            yield from self._turn(streams.outputs)

    def close_stdin(self) -> None:
        """No more input: it reads the end of file after what was written."""
        self._streams.end_input()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to its first process; SIGKILL ends all of it. No error if it has ended."""
        if not 1 <= number < signal.NSIG:
            raise InvalidArgument(f"kill: no signal {number}")
        if self._closed or self._exit is not None:
            return
        if number == signal.SIGKILL:
            self._killed = True
            self._condemn()
        else:
            self._ask("kill", signal=int(number))

    def usage(self) -> Steps[Usage]:
        """What it has used until now. Raises Conflict when it has ended."""
        number = self._ask("usage")
        while number not in self._replies:
            if self._closed or self._exit is not None:
                raise Conflict(f"container {self.id} has ended: its result has its usage")
            yield from self._turn(())
        reply = self._replies.pop(number)
        if not reply.get("ok"):
            raise _error(reply["error"])
        return read_usage(reply["usage"], time.time() - self._started_at)

    def finish(self) -> Steps[Result]:
        """Wait for its end, keeping what it still says; its result. All of it is gone then.

        Raises Unavailable when its monitor was killed, or it does not die.
        """
        if self._result is None:
            self._streams.keep()
            while self._exit is None:
                yield from self._turn(self._streams.outputs)
            self._close()
            collected, omitted = yield from work(self._collect)
            self._result = self._make_result(collected, omitted)
            yield from work(self._remove)
        return self._result

    def destroy(self) -> Steps[None]:
        """Kill it, and wait until all of it is gone. No error if it is."""
        if self._removed:
            return
        self._streams.keep()
        self._deadline = None
        try:
            if self._exit is None and self._failure is None and not self._closed:
                self._killed = True
                self._condemn()
                self._is_waited_for = False
                while self._exit is None:
                    yield from self._turn(self._streams.outputs)
        except SampanError:
            pass  # Its monitor has been killed, or it does not die.
        finally:
            self._close()
        if self._exit is None:
            yield from work(lambda: self._home.kill(self.id))
        yield from work(self._remove)

    # Waiting, and what is heard

    def _turn(self, outputs: Iterable[int]) -> Steps[None]:
        """Wait until anything happens, and take note of it. Raises why it cannot go on."""
        if self._failure is not None:
            raise self._failure
        if self._is_waited_for:
            # An event loop tells one task of a descriptor, and the other would never wake up.
            raise Conflict(
                f"container {self.id}: another thread or task waits for it; one at a time may"
            )
        fds = self._streams.interests(outputs)
        fds[self._control.fileno()] = select.POLLIN
        deadlines = [at for at in (self._deadline, self._limit) if at is not None]
        self._is_waited_for = True
        try:
            ready = yield from wait(fds, min(deadlines, default=None))
        finally:
            self._is_waited_for = False
        for fd, events in ready.items():
            if not self._streams.happened(fd, events):
                self._hear()
        if not ready:
            self._check_time(time.monotonic())
        if self._failure is not None:
            raise self._failure

    def _check_time(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._timed_out = True
            self._condemn()
        elif self._limit is not None and now >= self._limit:
            what = "was killed and does not die" if self._condemned else "did not start in time"
            self._failure = Unavailable(f"container {self.id} {what}: it hangs in the kernel")

    @property
    def _condemned(self) -> bool:
        return self._timed_out or self._killed

    def _condemn(self) -> None:
        self._limit = time.monotonic() + _DEATH_DEADLINE
        self._ask("kill", signal=int(signal.SIGKILL))

    def _ask(self, op: str, **fields: object) -> int:
        number = next(self._numbers)
        try:
            protocol.send(self._control, {"op": op, "seq": number, **fields})
        except OSError:
            pass  # The monitor has ended: what it said last is still to be heard.
        return number

    def _hear(self) -> None:
        try:
            received = protocol.receive(self._control)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self._lost()
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        event = message.get("event")
        if event == "created":
            self._warnings = tuple(message["warnings"])
        elif event == "started":
            self._started_at = message["at"]
        elif event == "exit":
            self._exit = message
            # All its processes are dead: what they wrote is in the pipes, and nothing follows.
            self._streams.drain()
        elif event == "failed":
            failure = _error(message["error"])
            if self._condemned and not isinstance(failure, _REASONS):
                # It was killed on its way to its first instruction, and that is what failed.
                self._exit = {**_KILLED_EARLY, "at": time.time()}
                self._streams.close_outputs()
            elif self._home.is_closed:
                self._failure = Unavailable("this session is closed")
            else:
                self._failure = failure
        elif "reply" in message:
            self._replies[message["reply"]] = message

    def _lost(self) -> None:
        """The connection ended, and neither an exit nor a failure was told."""
        if os.path.exists(self._home.run_directory(self.id)):
            self._failure = Unavailable(
                f"the monitor of container {self.id} was killed, and the container with it"
            )
        else:
            self._failure = _NotBegunError("the session's zygote was killed")

    def _close(self) -> None:
        """Close every descriptor; no error if they are. What still runs is killed by that."""
        self._closed = True
        self._control.close()
        self._streams.close()

    # The end

    def _collect(self) -> tuple[dict[str, bytes], dict[str, str]]:
        wanted = self._request.collect
        if not wanted:
            return {}, {}
        return roots.inside(
            roots.view(self._home.container_directory(self.id), self._made.base),
            f"{self._home.directory}/view",
            lambda root: files.collect(root, wanted),
        )

    def _remove(self) -> None:
        self._home.remove_container(self.id)
        self._removed = True

    def _make_result(self, collected: dict[str, bytes], omitted: dict[str, str]) -> Result:
        event = self._exit
        assert event is not None
        wall_time = max(0.0, event["at"] - self._started_at) if self._started_at else 0.0
        return Result(
            outcome=self._outcome(event),
            exit_code=event["code"],
            signal=event["signal"],
            stdout=bytes(self._streams.kept["stdout"]),
            stderr=bytes(self._streams.kept["stderr"]),
            stdout_size=self._streams.sizes["stdout"],
            stderr_size=self._streams.sizes["stderr"],
            usage=read_usage(event["usage"], wall_time),
            oom_kills=event["oom_kills"],
            files=collected,
            omitted=omitted,
            warnings=(*self._warnings, *event["warnings"]),
            id=self.id,
        )

    def _outcome(self, event: dict[str, Any]) -> Outcome:
        if event["signal"] is None:
            return Outcome.EXITED
        if event["signal"] != signal.SIGKILL:
            return Outcome.SIGNALED
        if event["oom"]:
            return Outcome.OUT_OF_MEMORY
        if self._timed_out:
            return Outcome.TIMED_OUT
        return Outcome.KILLED if self._killed else Outcome.SIGNALED


def _error(fields: dict[str, Any]) -> SampanError:
    return by_name(fields["type"], fields["message"])
