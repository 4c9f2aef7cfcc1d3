"""A process of a container, held by its parent: started, waited for, or undone.

``launch.create`` and ``exec.execute`` return one. Its pidfd, not its number, is what signals go to
(pidfd_open(2)): a number may be somebody else's by then.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError, SampanError
from sampan.kernel.processes import pidfd_send_signal
from sampan.runtime import gate, hooks

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group
    from sampan.runtime.conversation import Conversation
    from sampan.runtime.launch import Launch

__all__ = ["Child", "died", "kept_descriptors"]


class Child:
    """A process of a container that this process is the parent of.

    ``pid`` and ``pidfd`` are the host's; with ``start_time`` the pid names this process only.
    ``group``: the cgroup that was made for it, which ``abort`` removes. ``console``: the terminal's
    master, or -1. ``warnings``: what was asked for and not granted. ``roots``: the file systems
    mounted for its root. As long as they are held they outlive it, and what their end costs (an
    overlay syncs the disk) does not delay its own.
    """

    __slots__ = (
        "_launch",
        "channel",
        "console",
        "conversation",
        "group",
        "pid",
        "pidfd",
        "roots",
        "start_time",
        "warnings",
    )

    def __init__(self, channel: gate.Channel, launch: Launch | None) -> None:
        self.pid = 0
        self.pidfd = -1
        self.start_time = 0
        self.console = -1
        self.group: Group | None = None
        self.warnings: tuple[str, ...] = ()
        self.roots: tuple[int, ...] = ()
        self.channel = channel
        self.conversation: Conversation | None = None
        self._launch = launch

    def complete(self) -> None:
        """Answer the child until it waits at the gate.

        Raises what it reports; then everything of the container has been undone as by ``abort``.
        """
        assert self.conversation is not None
        try:
            self.conversation.serve()
        except BaseException:
            self.abort()
            raise
        self.conversation = None

    def start(self) -> None:
        """Release the gate; returns once the program was executed, after the poststart hooks.

        Raises the child's own error (CommandNotFound, ...), or that of a hook; then everything of
        the container has been undone as by ``abort``. Not for a launch with a ``gate_dir``.
        """
        self.release()
        self.follow()

    def release(self) -> None:
        """The first half of ``start``: what follows need not wait for the program."""
        launch = self._launch
        if self.channel.fd < 0 or (launch is not None and launch.gate_dir is not None):
            raise Conflict("this process was started already, or is started by another")
        try:
            self.channel.send(b"x")
        except OSError as error:
            self.abort()
            raise Conflict(f"cannot start: init has ended ({error.strerror})") from None

    def follow(self) -> None:
        """The second half of ``start``."""
        launch = self._launch
        try:
            self.finish()
            wanted = launch.spec.hooks if launch is not None else None
            if launch is not None and wanted is not None and wanted.poststart:
                state = self.state("running")
                close_first = hooks.inheritable_descriptors()
                hooks.run("poststart", wanted.poststart, state, (), close_first)
        except (SampanError, OSError):
            self.abort()
            raise

    def finish(self) -> None:
        """Wait for the program's execution: the end of file, or the error that prevented it."""
        tag, body = self.channel.receive()
        self.channel.close()
        if tag == b"E":
            raise gate.decode_error(body)

    def state(self, status: str) -> bytes:
        """The container's state object (hooks.state_json)."""
        launch = self._launch
        assert launch is not None
        return hooks.state_json(launch.spec, launch.id, launch.bundle, status, self.pid)

    def wait(self) -> int:
        """Reap the process: its exit status, or minus the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def abort(self) -> list[str]:
        """Kill and reap the process, destroy its cgroup, run poststop; returns their warnings."""
        launch = self._launch
        if self.pid:
            _kill_and_reap(self.pid, self.pidfd)
        warnings: list[str] = []
        if launch is not None:
            if self.group is not None:
                self.group.kill()
                self.group.destroy()
            if launch.gate_dir is not None:
                gate.remove(launch.gate_dir)
            wanted = launch.spec.hooks
            if self.pid and wanted is not None and wanted.poststop:
                self.pid = 0
                warnings = hooks.run_poststop(wanted.poststop, self.state("stopped"))
        self.pid = 0
        self.close()
        return warnings

    def close(self) -> None:
        """Close every descriptor of this object; the process is not disturbed."""
        self.channel.close()
        for fd in (self.pidfd, self.console, *self.roots):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.console = -1
        self.roots = ()


def died(pid: int) -> SampanError:
    """The error for a child that ended without a word."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        found = 0  # it is a sibling, and our parent's to reap
    if found:
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return Conflict(f"the container's init ended before its program was executed: {how}")
    return Conflict("the container's init ended before its program was executed")


def kept_descriptors(launch: Launch) -> range:
    """The numbers of the caller's descriptors that the program keeps."""
    return range(3, 3 + launch.listen_fds + launch.preserve_fds)


def _kill_and_reap(pid: int, pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal.SIGKILL)
    except KernelError as error:
        if error.errno == errno.ESRCH:
            return  # it was reaped, and the number may be somebody else's
        raise
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored and the kernel reaps; or it is our parent's, and that does
