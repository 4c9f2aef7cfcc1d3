"""The standard I/O of one process of a container: its pipes or terminal, its log, its clients.

Every byte the process writes is logged, then sent to each attached client. A client that takes
less than it is sent holds up to ``CLIENT_LIMIT`` bytes here; then nothing more is read from the
process until it has caught up, so the process waits as it would on any full pipe. A client that is
gone is dropped, and so is one that came to a running process and takes nothing at all for ``STALL``
seconds: who looks on may slow a container down, but not stop it. Without clients, output goes to
the log alone.

A log that takes no more makes the process wait too, as long as it says so (docs/logs.md).

Input goes the other way with a small bound: a process that does not read stops its clients.

What a client's half-close means follows dockerd. With ``stdin_once`` (and for each exec) it closes
the process's input. Otherwise the input stays open for the next client, and it ends this client's
attachment, as it does on a terminal, whose input has no end of its own.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument
from sampan.kernel.terminals import open_slave, set_window_size
from sampan.runtime.supervisor.clients import Client, DetachKeys
from sampan.runtime.supervisor.loop import READ, WRITE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from sampan.runtime.supervisor.logs.drivers import Logs
    from sampan.runtime.supervisor.loop import Loop, Timer

__all__ = [
    "CLIENT_LIMIT",
    "INPUT_LIMIT",
    "STALL",
    "STDERR",
    "STDOUT",
    "Stdio",
    "child_pipes",
    "null_stdio",
]

STDOUT = 1
STDERR = 2
CLIENT_LIMIT = 1024 * 1024
INPUT_LIMIT = 64 * 1024
STALL = 10.0

_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
_READ_SIZE = 64 * 1024
# A pipe holds at most /proc/sys/fs/pipe-max-size (1 MiB) unless a privileged process made it
# larger: what a dead process had written is within this, what its living children write may not be.
_LAST_WORDS = 1024 * 1024


def child_pipes(with_input: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Pipes for a process: (its stdin, stdout, stderr) and (our ends of them).

    Without input its stdin is /dev/null and our end is -1. All are close-on-exec; only ours do
    not block.
    """
    if with_input:
        stdin, our_stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(our_stdin, False)
    else:
        stdin, our_stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    our_stdout, stdout = os.pipe2(os.O_CLOEXEC)
    our_stderr, stderr = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(our_stdout, False)
    os.set_blocking(our_stderr, False)
    return (stdin, stdout, stderr), (our_stdin, our_stdout, our_stderr)


def null_stdio() -> tuple[int, int, int]:
    """/dev/null three times, for a process nobody listens to; close-on-exec."""
    stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    stdout = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    stderr = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    return stdin, stdout, stderr


class Stdio:
    """See the module's text."""

    __slots__ = (
        "_behind_log",
        "_clients",
        "_discard",
        "_ended",
        "_held",
        "_input",
        "_input_ends",
        "_input_pending",
        "_log",
        "_loop",
        "_on_detach",
        "_outputs",
        "_paused",
        "_slave",
        "_stall",
        "_stdin_once",
        "_terminal",
    )

    def __init__(
        self,
        loop: Loop,
        log: Logs | None,
        *,
        stdin_once: bool,
        on_detach: Callable[[], None],
    ) -> None:
        """``on_detach`` is called when a client has typed its detach keys."""
        self._loop = loop
        self._on_detach = on_detach
        self._stall: Timer | None = None
        self._log = log
        self._stdin_once = stdin_once
        self._outputs: dict[int, int] = {}
        self._terminal = -1
        self._slave = -1
        self._paused = False
        self._discard = False
        self._ended = False
        self._input = -1
        self._input_pending = b""
        self._input_ends = False
        self._clients: list[Client] = []
        self._held: list[Client] = []
        self._behind_log: list[Client] = []

    def use_pipes(self, ours: Sequence[int]) -> None:
        """Serve our ends as ``child_pipes`` gave them, and own them from now on; -1: closed."""
        self._open_input(ours[0])
        for fd, stream in ((ours[1], STDOUT), (ours[2], STDERR)):
            if fd >= 0:
                self._open_output(fd, stream)

    def use_terminal(self, master: int, with_input: bool, slave: int = -1) -> None:
        """Serve a pseudo-terminal's master, and own it from now on; the ``slave`` too, if given."""
        os.set_blocking(master, False)
        self._terminal = master
        # While somebody holds the slave the master does not hang up: a program may close its
        # terminal and open it again, and meanwhile a hang-up would be reported without end.
        self._slave = slave if slave >= 0 else open_slave(master)
        if with_input:
            # epoll knows a descriptor once; input and output are watched apart.
            self._open_input(fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 3))
        self._open_output(master, STDOUT)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is attached and nothing waits, on its way in or out."""
        return not (
            self._clients or self._ended or self._paused or self._input_pending or self._stall
        )

    @property
    def is_open(self) -> bool:
        """Whether anybody may still write to us."""
        return bool(self._outputs)

    @property
    def has_input(self) -> bool:
        """Whether the process's input is open."""
        return self._input >= 0

    def descriptors(self) -> dict[str, int]:
        """Those that another could go on with, by ``STDIO``'s names, ``terminal`` and ``slave``."""
        if self._terminal >= 0:
            return {"terminal": self._terminal, "slave": self._slave}
        fds = {_NAMES[stream]: fd for fd, stream in self._outputs.items()}
        return {**fds, "stdin": self._input} if self.has_input else fds

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size in characters (SIGWINCH follows)."""
        if self._terminal < 0:
            raise Conflict("resize: the process has no terminal, or has ended")
        if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
            raise InvalidArgument(f"resize to {rows} rows, {columns} columns: must be 0 to 65535")
        set_window_size(self._terminal, rows, columns)

    def attach(
        self,
        sock: socket.socket,
        *,
        stdin: bool,
        streams: frozenset[int],
        multiplex: bool,
        detach_keys: Sequence[int],
        is_patient: bool,
    ) -> Client:
        """Serve one more client; its socket is ours from now on. Detach keys work on terminals."""
        if self._ended:
            sock.close()
            raise Conflict("attach: the process has ended")
        client = Client(
            self._loop,
            sock,
            streams=streams,
            multiplex=multiplex,
            wants_input=stdin and self._input >= 0 and not self._input_ends,
            detach=DetachKeys(detach_keys if self._terminal >= 0 else ()),
            is_patient=is_patient,
            on_input=self._on_client_input,
            on_drained=self.reconsider,
            on_gone=self._on_client_gone,
        )
        self._clients.append(client)
        return client

    def hold(self, client: Client) -> tuple[int, int, int] | None:
        """Keep a client's output back until it is released. It begins with what the log does not
        have yet, the beginning of a line. Returns where the log ends, as ``Log.pin`` does."""
        client.hold_output()
        self._behind_log.append(client)
        for stream in sorted(client.streams):
            begun = self._log.unfinished(_NAMES[stream]) if self._log is not None else b""
            if begun:
                client.send(stream, begun)
        return self._log.pin() if self._log is not None else None

    def release(self, client: Client) -> None:
        """Send what was kept back, and what comes, as it comes."""
        self._let_go(client)
        client.release_output()

    def _let_go(self, client: Client) -> None:
        if client in self._behind_log:
            self._behind_log.remove(client)
            if self._log is not None:
                self._log.unpin()

    @property
    def has_clients(self) -> bool:
        """Whether any client is attached, or still taking what was written before the end."""
        return bool(self._clients)

    def finish(self, *, all_dead: bool) -> None:
        """The process ended: pass on everything it wrote, then end the clients and the log's lines.

        With ``all_dead`` nothing else can hold our pipes (the container's cgroup is empty) and
        they are closed. Otherwise what its children go on writing is read and thrown away, so that
        they do not fail or hang because of us.
        """
        if self._ended:
            if all_dead:
                self._close_outputs()
            return
        self._ended = True
        for fd in list(self._outputs):
            self._drain(fd, None if all_dead else _LAST_WORDS)
        if self._log is not None:
            for name in _NAMES.values():
                self._log.finish(name)
        self._close_input()
        for client in list(self._clients):
            if client.is_held:
                client.abandon()  # All of it is in the log now, for who was to release it.
            else:
                client.close_when_sent()
        self._discard = True
        if all_dead:
            self._close_outputs()
        else:
            self._pause(False)

    def _open_output(self, fd: int, stream: int) -> None:
        self._outputs[fd] = stream
        self._loop.watch(fd, READ, lambda _: self._on_output(fd))

    def _close_output(self, fd: int) -> None:
        self._loop.forget(fd)
        del self._outputs[fd]
        os.close(fd)
        if fd == self._terminal:
            os.close(self._slave)
            self._terminal = self._slave = -1

    def _close_outputs(self) -> None:
        for fd in list(self._outputs):
            self._close_output(fd)

    def _on_output(self, fd: int) -> None:
        if fd in self._outputs:
            self._read(fd)

    def _drain(self, fd: int, limit: int | None) -> None:
        total = 0
        while fd in self._outputs and (limit is None or total < limit):
            read = self._read(fd)
            if read == 0:
                break
            total += read

    def _read(self, fd: int) -> int:
        """Read once and pass it on; 0 when there is nothing now, or the output has ended."""
        try:
            data = os.read(fd, _READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""  # EIO: no process holds the terminal any more.
        if not data:
            self._close_output(fd)
            return 0
        if self._discard:
            return len(data)
        stream = self._outputs[fd]
        if self._log is not None:
            self._log.write(_NAMES[stream], data)
        for client in list(self._clients):
            if stream in client.streams:
                client.send(stream, data)
        self.reconsider()
        return len(data)

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            for fd in self._outputs:
                if paused:
                    self._loop.forget(fd)
                else:
                    self._open_output(fd, self._outputs[fd])

    def reconsider(self) -> None:
        """Read on, or let the process wait: for its log, or for a client that takes too little."""
        limit = CLIENT_LIMIT // 2 if self._paused else CLIENT_LIMIT
        slow = [client for client in self._clients if client.pending_size > limit]
        if not self._ended:
            self._pause(bool(slow) or (self._log is not None and self._log.is_full))
        # What is held its holder answers for.
        strangers = [client for client in slow if not (client.is_patient or client.is_held)]
        if strangers and self._stall is None:
            before = [(client, client.sent) for client in strangers]
            self._stall = self._loop.call_later(STALL, lambda: self._drop_stalled(before))

    def _drop_stalled(self, before: list[tuple[Client, int]]) -> None:
        self._stall = None
        for client, sent in before:
            if client in self._clients and client.sent == sent:
                client.close()
        self.reconsider()

    def _on_client_gone(self, client: Client) -> None:
        self._clients.remove(client)
        if client in self._held:
            self._held.remove(client)
        self._let_go(client)
        self.reconsider()

    def _on_client_input(self, client: Client) -> None:
        while client.wants_input:
            room = INPUT_LIMIT - len(self._input_pending)
            if room <= 0:
                self._held.append(client)
                client.hold_input(True)
                return
            data = client.receive(room)
            if data is None:
                return
            if not data:
                self._on_client_half_close(client)
                return
            data, detached = client.detach.feed(data)
            self._write_input(data)
            if detached:
                client.close_when_sent()
                self._on_detach()
                return

    def _on_client_half_close(self, client: Client) -> None:
        if self._stdin_once and self._terminal < 0:
            self._input_ends = True
            client.end_input()
            if not self._input_pending:
                self._close_input()
        else:
            client.close_when_sent()

    def _open_input(self, fd: int) -> None:
        self._input = fd
        if fd >= 0:
            self._loop.watch(fd, 0, self._on_input_ready)

    def _close_input(self) -> None:
        if self._input >= 0:
            self._loop.forget(self._input)
            os.close(self._input)
            self._input = -1
            self._input_pending = b""
            self._held.clear()
            for client in list(self._clients):
                client.end_input()

    def _write_input(self, data: bytes) -> None:
        if not data or self._input < 0:
            return
        if self._input_pending:
            self._input_pending += data
            return
        written = self._try_input(data)
        if written < len(data) and self._input >= 0:
            self._input_pending = data[written:]
            self._loop.change(self._input, WRITE)

    def _try_input(self, data: bytes) -> int:
        try:
            return os.write(self._input, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._close_input()  # EPIPE, EIO: the process closed its end.
            return 0

    def _on_input_ready(self, events: int) -> None:
        if not events & WRITE or not self._input_pending:
            # A hang-up without anything to write: the process closed its end.
            self._close_input()
            return
        written = self._try_input(self._input_pending)
        if self._input < 0:
            return
        self._input_pending = self._input_pending[written:]
        if not self._input_pending:
            if self._input_ends:
                self._close_input()
                return
            self._loop.change(self._input, 0)
        held, self._held = self._held, []
        for client in held:
            client.hold_input(False)
